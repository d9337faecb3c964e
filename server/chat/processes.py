"""Processes of this machine: who one is, and whether it is certainly gone.

Known on Linux, from /proc; elsewhere, and for other machines and containers, nothing is certain.
"""

import os
from contextlib import suppress
from pathlib import Path


def identity() -> str | None:
    """This process, so that no other one ever has the same name."""
    pid = os.getpid()
    started = _start_time(pid)
    machine = _machine()
    return f"{machine} {pid} {started}" if machine and started else None


def is_gone(process: str | None) -> bool:
    """True only where it is certain that the process with this identity has ended."""
    try:
        boot, namespace, pid, started = (process or "").split(" ")
    except ValueError:
        return False
    if f"{boot} {namespace}" != _machine():
        return False
    # Numbers are used again, but not with the same time of start.
    return _start_time(int(pid)) != started


def _machine() -> str | None:
    """This boot of this machine, and the space in which its process numbers count."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    return None


def _start_time(pid: int) -> str | None:
    """Field 22 of proc(5)'s stat; the name in field 2 may hold anything but ends with `)`."""
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        state, *rest = stat.rpartition(")")[2].split()
        # A zombie has ended; only its parent has not asked yet.
        return None if state == "Z" else rest[18]
    return None
