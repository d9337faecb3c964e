"""SQLite files that the tests of faults may hurt, and a small disk for them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.disk import CURE, Disk
from tests.service import ROOT

HOLDER = """
mount -t tmpfs -o size="$1" none "$0" && : >"$0/ballast" && echo mounted && exec cat >/dev/null
"""


def settings_of(folder: Path, **more: str) -> dict[str, str]:
    """A service on the master in the folder, with the echo unless `more` names a gateway."""
    path = str(folder / "master.db")
    return {"USE_POSTGRES": "false", "DB_PATH": path, "AUTH_RATE_LIMIT": "off", **more}


@dataclass(frozen=True)
class SmallDisk:
    """A disk that only the processes `within` a namespace of its own see, at `mount`."""

    disk: Disk
    mount: Path
    within: tuple[str, ...]

    @property
    def projects(self) -> list[str]:
        """The names of the projects' files, half-made ones included."""
        folder = self.disk.root / "project_databases"
        found = sorted(path.name for path in folder.glob("*") if path.is_file())
        return [name for name in found if not name.endswith(".lock")]


@contextmanager
def small_disk(mount: Path, size: str) -> Iterator[SmallDisk]:
    """A disk of `size` in memory; it goes with the tests, however they end.

    Raises RuntimeError where this machine lets nobody make one.
    """
    mount.mkdir()
    for options in (("-rm",), ("-m",)):  # for everybody; for root without user namespaces
        holder = subprocess.Popen(
            ["unshare", *options, "sh", "-c", HOLDER, str(mount), size],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        if holder.stdout.readline() != b"mounted\n":
            holder.communicate()
            continue
        user = ("--user", "--preserve-credentials") if "r" in options[0] else ()
        enter = ("nsenter", f"--target={holder.pid}", "--mount", *user, f"--wdns={ROOT}")
        try:
            yield SmallDisk(Disk(Path(f"/proc/{holder.pid}/root{mount}")), mount, enter)
        finally:
            holder.communicate()
        return
    raise RuntimeError(CURE)
