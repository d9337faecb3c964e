"""Production's databases, read for a clone: nothing in them can be written meanwhile."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import database
from server.migration import (
    postgres_build,
    postgres_source,
    source,
    target,
)
from server.migration.postgres_schema import read_postgres_schema
from server.migration.postgres_source import Moment
from server.migration.projects import Project
from server.migration.snapshot import MASTER, NotAMaster
from server.settings import Settings
from server.storage import migrate
from server.storage.contract import Misconfigured

Row = tuple[Any, ...]
FETCHED = 200
# A row of these may be of megabytes.
FETCHED_LARGE = 4
LARGE = "images"


class NotCopied(Exception):
    """Why a project's database can't be brought along; one line."""


class Source(Protocol):
    """A master at one moment, and the projects' databases."""

    def lacking(self) -> list[migrate.Step]:
        """The steps of schema/ that it hasn't; raises for one that is newer than this code."""

    def count(self, table: str) -> int:
        """How many rows a table has."""

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[Row]:
        """These columns of all of its rows, as SQLite takes them."""

    def projects(self) -> list[Project]:
        """The projects that have a database, or should."""

    def copy_project(self, project: Project, file: Path) -> str:
        """Put a project's database into a file; what of it stays behind, mostly nothing.

        Raises `NotCopied` where it can't be.
        """


@contextmanager
def opened(settings: Settings) -> Iterator[Source]:
    """The source that the settings name, as it is now."""
    if not settings.postgres:
        with _open_file(settings.db_path) as conn:
            yield _Files(settings, conn)
        return
    with (
        target.opened(settings, "") as master,
        postgres_source.held(master, MASTER) as moment,
    ):
        yield _Server(settings, moment)


@contextmanager
def _open_file(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.exists():
        raise Misconfigured(f"there is no database at {path}")
    with source.opened(path) as conn:
        conn.text_factory = lambda raw: raw.decode("utf-8", "replace")
        conn.execute("BEGIN")
        yield conn


@dataclass(frozen=True)
class _Files:
    settings: Settings
    conn: sqlite3.Connection

    def lacking(self) -> list[migrate.Step]:
        try:
            found = self.conn.execute("SELECT name, checksum FROM schema_migrations").fetchall()
        except sqlite3.OperationalError as error:
            raise NotAMaster(f"{self.settings.db_path} is no master: {error}") from error
        return migrate.pending(found, migrate.steps(database.BACKEND))

    def count(self, table: str) -> int:
        number: int = self.conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return number

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[Row]:
        yield from self.conn.execute(f"SELECT {', '.join(columns)} FROM {table}")

    def projects(self) -> list[Project]:
        rows = self.conn.execute(
            "SELECT id, name, db_name FROM projects WHERE status = 'active' ORDER BY id"
        )
        return [Project(*row) for row in rows]

    def copy_project(self, project: Project, file: Path) -> str:
        path = self.settings.project_databases / f"{project.db_name}.sqlite3"
        if not path.is_file():
            raise NotCopied("it isn't there")
        try:
            source.back_up(path, file, lambda done, total: None)
        except sqlite3.Error as error:
            raise NotCopied(str(error)) from error
        return ""


@dataclass(frozen=True)
class _Server:
    settings: Settings
    moment: Moment

    def lacking(self) -> list[migrate.Step]:
        return postgres_source.check_master(self.moment)

    def count(self, table: str) -> int:
        return int(target.value(self.moment.conn, f"SELECT count(*) FROM {table}"))

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[Row]:
        conn, number = self.moment.conn, FETCHED_LARGE if table == LARGE else FETCHED
        target.execute(conn, f"DECLARE cloned CURSOR FOR SELECT {', '.join(columns)} FROM {table}")
        while rows := target.rows(conn, f"FETCH {number} FROM cloned"):
            for row in rows:
                yield tuple(map(_as_sqlite, row))
        target.execute(conn, "CLOSE cloned")

    def projects(self) -> list[Project]:
        return postgres_source.read_projects(self.moment)

    def copy_project(self, project: Project, file: Path) -> str:
        if found := postgres_source.missing(project):
            raise NotCopied(found.problem)
        try:
            with postgres_source.project_held(self.settings, "", project) as moment:
                pairs = read_postgres_schema(moment.conn).pairs
                built = postgres_build.build_project(file, moment, pairs, {}, _nobody)
        except (postgres_build.Differs, target.TargetError, sqlite3.Error, ValueError) as error:
            raise NotCopied(str(error)) from error
        return ", ".join(f"{one.kind} {one.name}" for one in built.leftovers)


def _as_sqlite(value: Any) -> Any:
    """A time as the service spells it there."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(sep=" ", timespec="microseconds")
    return value


def _nobody(name: str, count: int) -> None:
    """No progress is shown within a project's database."""
