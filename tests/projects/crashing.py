"""Children of a small process that run a project's life and kill -9 themselves at a given step.

Every SQL statement, COMMIT and operation on a file is a step: the code that is tested knows nothing
of it. Run as a module it reads orders, one JSON object a line; the tests hold it by `Crashing`.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from tests.service import ROOT, environment

FILE_EVENTS = ("open", "os.link", "os.mkdir", "os.remove", "os.rename", "sqlite3.connect")


@dataclass(frozen=True)
class Outcome:
    """How a child ended: the steps it came to, the last one unfinished where it was killed."""

    killed: bool
    error: str | None
    steps: list[str]


class Crashing:
    """The process whose children crash; it has imported everything and opened nothing."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.projects.crashing"],
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

    def run(
        self, task: str, *arguments: object, stop: int | None = None, under_way: bool = False
    ) -> Outcome:
        """Run a task in a child that dies before step `stop`, or while the server is at it."""
        order = {"task": task, "arguments": arguments, "stop": stop, "under_way": under_way}
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))


class Steps:
    """Counts the steps of this process, says each, and kills it at the one to stop at."""

    def __init__(self, stop: int | None, under_way: bool, say: Callable[[str], None]) -> None:
        self.stop, self.under_way, self.say = stop, under_way, say
        self.count = 0

    def step(self, label: str) -> None:
        self.count += 1
        self.say(re.sub(r"\s+", " ", label).strip()[:60])
        if self.count == self.stop and not self.under_way:
            os.kill(os.getpid(), signal.SIGKILL)

    def sent(self) -> None:
        """The server has the statement, and nobody waits for its answer any more."""
        if self.count == self.stop:
            os.kill(os.getpid(), signal.SIGKILL)


def _watch_sqlite(steps: Steps, folder: str) -> None:
    import database

    def watch(owner: Any) -> None:
        execute = owner.execute

        def watched(self: Any, sql: str, *params: Any) -> Any:
            steps.step(sql)
            return execute(self, sql, *params)

        owner.execute = watched

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "fcntl.flock" or (event in FILE_EVENTS and folder in str(arguments[0])):
            steps.step(event)

    # Of a connection, too: BEGIN and COMMIT have no cursor of their own.
    watch(database._Cursor)
    watch(database._Connection)
    sys.addaudithook(audit)


def _watch_postgres(steps: Steps) -> None:
    import psycopg2.extensions

    from server.storage import postgres

    execute, commit, wait = postgres.Cursor.execute, postgres.Connection.commit, postgres._wait

    class Watched:
        def __init__(self, conn: Any) -> None:
            self.conn = conn

        def poll(self) -> Any:
            state = self.conn.poll()
            if steps.under_way and state == psycopg2.extensions.POLL_READ:
                steps.sent()
            return state

        def __getattr__(self, name: str) -> Any:
            return getattr(self.conn, name)

    def watched_execute(self: Any, query: Any, vars: Any = None) -> None:
        steps.step(query)
        execute(self, query, vars)

    def watched_commit(self: Any) -> None:
        steps.step("COMMIT")
        commit(self)

    vars(postgres)["_wait"] = lambda conn: wait(Watched(conn))
    for owner, name, function in (
        (postgres.Cursor, "execute", watched_execute),
        (postgres.Connection, "commit", watched_commit),
    ):
        setattr(owner, name, function)


def _run(order: dict[str, Any], say: Callable[[str], None]) -> None:
    from server.projects import creation, deletion, mending, purging, restoration
    from server.settings import get_settings

    steps = Steps(order["stop"], order["under_way"], say)
    if get_settings().postgres:
        _watch_postgres(steps)
    else:
        _watch_sqlite(steps, str(get_settings().db_path.parent))
    match order["task"], order["arguments"]:
        case "create", [user_id, name, type_name]:
            creation.create(user_id, name, None, type_name)
        case "delete", [user_id, project_id, force, purge]:
            deletion.delete(user_id, project_id, force=force, purge=purge)
        case "restore", [user_id, project_id]:
            restoration.restore(user_id, project_id)
        case "mend", []:
            mending.mend()
            purging.sweep()


def _child(order: dict[str, Any], pipe: int) -> None:
    def say(line: str) -> None:
        os.write(pipe, f"{line}\n".encode())

    try:
        _run(order, say)
        say("end:")
    except Exception as error:
        say(f"end:{getattr(error, 'code', type(error).__name__)}")
    os._exit(0)


def _answer(order: dict[str, Any]) -> Outcome:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(order, writing)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        lines = pipe.read().splitlines()
    killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    end = lines.pop() if lines and lines[-1].startswith("end:") else None
    return Outcome(killed, end.removeprefix("end:") or None if end else None, lines)


def main() -> None:
    """Import everything once, then answer orders."""
    import database_adapter
    import server.projects.creation
    import server.projects.purging  # noqa: F401

    database_adapter.current()
    for line in sys.stdin:
        outcome = _answer(json.loads(line))
        print(json.dumps(vars(outcome)), flush=True)


if __name__ == "__main__":
    main()
