"""Runs a command in a child that kills itself at its n-th step, until it comes to its end.

A step is a file or folder that is made, renamed, linked or removed within the folder of the test,
a program that is started, or a statement that PostgreSQL gets. Run as a module it reads orders.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Self

from tests.service import ROOT, Json, environment

EVENTS = ("os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir")


class Dying:
    """The process whose children die; it has imported everything and opened nothing."""

    def __init__(self, settings: Mapping[str, str], folder: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.backups.dying", folder],
            cwd=ROOT,
            env=environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, *words: str, stop: int = 0) -> Json:
        """Run a command that dies at step `stop`: its exit code, and how many steps it made."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"words": words, "stop": stop}) + "\n")
        self._process.stdin.flush()
        found: Json = json.loads(self._process.stdout.readline())
        return found


class Steps:
    """Counts, and kills this process at the one to stop at."""

    def __init__(self, stop: int) -> None:
        self.stop = stop
        self.count = 0

    def step(self) -> None:
        """One more."""
        self.count += 1
        if self.count == self.stop:
            os.kill(os.getpid(), signal.SIGKILL)


def watch(steps: Steps, folder: str) -> None:
    """Let everything that changes something be a step."""
    from server.migration import target

    execute = target.execute

    def watched(conn: target.Connection, sql: str, params: tuple[Any, ...] | None = None) -> int:
        steps.step()
        return execute(conn, sql, params)

    target.execute = watched

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" or (event in EVENTS and folder in str(arguments[0])):
            steps.step()

    sys.addaudithook(audit)


def child(order: Json, folder: str, pipe: int) -> None:
    """Run the command."""
    from server.cli.__main__ import build

    steps = Steps(order["stop"])
    watch(steps, folder)
    try:
        build(order["words"])(order["words"], prog_name="./clawd")
    except SystemExit as end:
        os.write(pipe, json.dumps({"code": end.code, "steps": steps.count}).encode())
    os._exit(0)


def main() -> None:
    """Take orders until there are no more."""
    for module in ("backup", "restore"):
        import_module(f"server.cli.{module}")
    for line in sys.stdin:
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            child(json.loads(line), sys.argv[1], writing)
        os.close(writing)
        with os.fdopen(reading) as said:
            text = said.read()
        os.waitpid(pid, 0)
        print(text or json.dumps({"code": "killed", "steps": 0}), flush=True)


if __name__ == "__main__":
    main()
