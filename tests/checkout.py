"""Processes that run pieces of the service's code, in this checkout or in a copy of it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.service import ROOT, environment

# Imports first and waits for a line, so that several can be let go at the same moment.
_START = "import sys, database_adapter; print('ready', flush=True); sys.stdin.readline()\n"


def copy(folder: Path) -> Path:
    """A copy of the code without anybody's `.env`, as a fresh clone would have it."""
    for name in ("database.py", "database_adapter.py", "database_postgres.py"):
        shutil.copy(ROOT / name, folder)
    for name in ("server", "schema"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@contextmanager
def ready(
    code: str, settings: Mapping[str, str], root: Path = ROOT
) -> Iterator["subprocess.Popen[str]"]:
    """A process that is about to run the code: it has imported what it needs."""
    process = subprocess.Popen(
        [sys.executable, "-c", _START + code],
        cwd=root,
        env=environment(settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            if line(process) != "ready":
                raise RuntimeError(f"the process ended:\n{process.communicate()[0]}")
            yield process
        finally:
            process.kill()


def go(process: "subprocess.Popen[str]") -> None:
    """Let it run."""
    if process.stdin is None:
        raise RuntimeError("the process has no stdin")
    process.stdin.write("\n")
    process.stdin.flush()


def line(process: "subprocess.Popen[str]") -> str:
    """The next line that it prints."""
    return process.stdout.readline().strip() if process.stdout else ""


def run(code: str, settings: Mapping[str, str], root: Path = ROOT) -> tuple[int, str]:
    """Run the code to its end: exit status, and what it said."""
    return run_together([code], settings, root)[0]


def run_together(
    codes: list[str], settings: Mapping[str, str], root: Path = ROOT
) -> list[tuple[int, str]]:
    """The same for several processes that start at the same moment."""
    with ExitStack() as stack:
        processes = [stack.enter_context(ready(code, settings, root)) for code in codes]
        for process in processes:
            go(process)
        said = [process.communicate(timeout=60)[0] for process in processes]
        return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]
