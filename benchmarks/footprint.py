"""What the service takes when it has just been started: memory, and the time to its first answer.

    venv/bin/python -m benchmarks.footprint
    venv/bin/python -m benchmarks.footprint --rounds 9

On SQLite and PostgreSQL in turns, each with a master that holds an account and is used again and
again. A start is timed from `./start-backend.sh`, with venv/ there already, and from the process
that it becomes; until the first 200 of `GET /health/live`, and of `GET /health`. Memory is read
after 20 requests, and once more after four log-ins, whose hashes take 19 MiB for a moment. MB are
10^6 bytes. Prints medians.
"""

import argparse
import http.client
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.rounds import durable_postgres, figures_in_turns, keep
from tests import postgres
from tests.service import PASSWORD, ROOT, Api, Service, environment, free_port, sign_up

COMMANDS = {"script": ["./start-backend.sh"], "process": [sys.executable, "-m", "server"]}
MEMORY = {"resident": "rss", "proportional": "pss", "own": "uss"}


@contextmanager
def started(
    command: list[str], settings: Mapping[str, str]
) -> Iterator[tuple[psutil.Process, int]]:
    """The service by this command: its process and its port, before it answers."""
    port = free_port()
    env = environment({**settings, "PORT": str(port)})
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=quiet, stderr=quiet)
    try:
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait()


def wait_for(path: str, port: int) -> None:
    """Ask until the answer is 200; raises `TimeoutError` after half a minute."""
    deadline = time.monotonic() + 30
    while not _answers(path, port):
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.002)


def _answers(path: str, port: int) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as asking:
        try:
            asking.request("GET", path)
            return asking.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


def start(command: list[str], settings: Mapping[str, str]) -> dict[str, float]:
    """Seconds to the first answers, and of the processor until then."""
    began = time.monotonic()
    with started(command, settings) as (process, port):
        wait_for("/health/live", port)
        live = time.monotonic() - began
        wait_for("/health", port)
        whole = time.monotonic() - began
        return {"live": live, "health": whole, "processor": sum(process.cpu_times()[:4])}


class User:
    """Somebody with an account, a project and a session, from an earlier start."""

    def __init__(self, settings: Mapping[str, str], folder: Path) -> None:
        self._folder = folder
        with Service(settings, folder) as service:
            api = sign_up(service)
            self._token, self._email = api.token, api.user["email"]
            self._session_id: int = api.session(api.project()["id"])["id"]

    def ask(self, port: int) -> None:
        """20 ordinary requests: what a frontend asks for, and two messages."""
        api = Api(Service({"PORT": str(port)}, self._folder), self._token)
        session = f"/sessions/{self._session_id}"
        paths = "/auth/me", "/projects", session, f"{session}/messages", "/project-types", "/health"
        for path in paths * 3:
            api.http.get(path).raise_for_status()
        for _ in range(2):
            body = {"session_id": self._session_id, "message": "Hello!"}
            api.http.post("/chat", json=body).raise_for_status()

    def log_in(self, port: int) -> None:
        """Four times, one after the other."""
        api = Api(Service({"PORT": str(port)}, self._folder))
        body = {"email": self._email, "password": PASSWORD}
        for _ in range(4):
            api.http.post("/auth/login", json=body).raise_for_status()


def rest(settings: Mapping[str, str], user: User) -> dict[str, float]:
    """Megabytes after 20 requests, and the resident ones after log-ins."""
    with started(COMMANDS["process"], settings) as (process, port):
        wait_for("/health", port)
        user.ask(port)
        found = {name: megabytes(process, kind) for name, kind in MEMORY.items()}
        user.log_in(port)
        return found | {"resident_after_log_ins": megabytes(process, "rss")}


def megabytes(process: psutil.Process, kind: str) -> float:
    """Of the process and all that it has started."""
    family = [process, *process.children(recursive=True)]
    return sum(int(getattr(one.memory_full_info(), kind)) for one in family) / 1e6


def measure(stack: ExitStack, rounds: int) -> dict[str, Any]:
    """Start again and again, in turns."""
    server = stack.enter_context(durable_postgres())
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    masters = {
        "PostgreSQL": postgres.create_master(server),
        "SQLite": {"USE_POSTGRES": "false", "DB_PATH": str(folder / "master.db")},
    }
    todo: dict[str, Callable[[], dict[str, float]]] = {}
    for name, master in masters.items():
        user = User(master, folder)
        for way, command in COMMANDS.items():
            todo[f"{name} {way}"] = partial(start, command, master)
        todo[f"{name} rest"] = partial(rest, master, user)
    middle = figures_in_turns(todo, rounds)
    return {
        "what": "start_s: from ./start-backend.sh to the first 200 of GET /health; "
        "memory_mb: resident, of all its processes, after 20 requests",
        "postgresql": server.version,
        "start_s": {name: middle[f"{name} script"]["health"] for name in masters},
        "memory_mb": {name: middle[f"{name} rest"]["resident"] for name in masters},
        "medians": middle,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    with ExitStack() as stack:
        keep("footprint", measure(stack, given.rounds))


if __name__ == "__main__":
    main()
