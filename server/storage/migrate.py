"""Applies the numbered files in schema/, each once, in order."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from server.storage.contract import AppliedStep, Connection, Misconfigured, execute, fetch_all

FOLDER = Path(__file__).resolve().parent.parent.parent / "schema"

TABLE = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        name TEXT PRIMARY KEY,
        checksum TEXT NOT NULL,
        applied_at TEXT NOT NULL
    )
"""


@dataclass(frozen=True)
class Step:
    """One file of schema/."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def steps(backend: str, folder: Path = FOLDER) -> list[Step]:
    """The files for this backend in order: `0001_x.sql`, or `0007_y.postgres.sql`."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        name, _, only_for = path.stem.partition(".")
        if backend.startswith(only_for):
            found.append(Step(name, path.read_text(encoding="utf-8")))
    return found


def pending(applied: Iterable[tuple[str, str]], known: list[Step]) -> list[Step]:
    """The steps that are still to be applied.

    Raises `Misconfigured` for a database that a newer version of the service has changed, or
    whose applied steps differ from the files.
    """
    by_name = {step.name: step for step in known}
    done = dict(applied)
    newer = sorted(done.keys() - by_name.keys())
    if newer:
        raise Misconfigured(
            f"the database's schema is newer than this version of the service: it has "
            f"{newer[-1]}, the newest known here is {known[-1].name}; update the service"
        )
    for name, checksum in done.items():
        if by_name[name].checksum != checksum:
            raise Misconfigured(
                f"schema/{name}.sql was edited after it had been applied to this database; "
                "restore the file and put the change into a new one"
            )
    return [step for step in known if step.name not in done]


def list_applied(conn: Connection) -> list[tuple[str, str]]:
    """The steps that a database has, each with its checksum."""
    rows = fetch_all(conn, "SELECT name, checksum FROM schema_migrations")
    return [(row["name"], row["checksum"]) for row in rows]


def read_steps(conn: Connection) -> list[AppliedStep]:
    """The same with the times, in the order in which steps have their names."""
    rows = fetch_all(conn, "SELECT name, checksum, applied_at FROM schema_migrations ORDER BY name")
    return [AppliedStep(**row) for row in rows]  # type: ignore[typeddict-item]


State = Literal["applied", "pending", "unknown", "edited"]


@dataclass(frozen=True)
class Standing:
    """How a database stands to a step; `unknown` ones were applied by a newer version."""

    name: str
    state: State
    applied_at: str | None


def survey(applied: Sequence[AppliedStep], known: list[Step]) -> list[Standing]:
    """Every step that the database or this code has, by name."""
    there = {step["name"]: step for step in applied}
    ours = {step.name: step.checksum for step in known}
    found = []
    for name in sorted(there.keys() | ours.keys()):
        step = there.get(name)
        state: State = "pending" if step is None else "applied"
        if step is not None and name not in ours:
            state = "unknown"
        elif step is not None and ours[name] != step["checksum"]:
            state = "edited"
        found.append(Standing(name, state, step["applied_at"] if step else None))
    return found


def migrate(
    transaction: Callable[[], AbstractContextManager[Connection]],
    lock: Callable[[Connection], None],
    run_script: Callable[[Connection, str], None],
    known: list[Step],
) -> list[str]:
    """Apply what is pending, all of it or nothing, while `lock` keeps others out.

    Returns the names of the steps applied. One transaction for all: a new master that is killed
    between its tables and the first rows would give these other ids at the next start.
    """
    with transaction() as conn:
        lock(conn)
        execute(conn, TABLE)
        todo = pending(list_applied(conn), known)
        for step in todo:
            run_script(conn, step.sql)
            execute(
                conn,
                "INSERT INTO schema_migrations (name, checksum, applied_at) VALUES (%s, %s, %s)",
                (step.name, step.checksum, datetime.now(UTC).isoformat()),
            )
    return [step.name for step in todo]
