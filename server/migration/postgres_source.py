"""A PostgreSQL database at one moment, as the source of the way back."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2

import database_postgres
from server.migration import compare, keys, postgres_copy, source, target
from server.migration.census import Finding
from server.migration.master import master_tables
from server.migration.postgres_copy import Found
from server.migration.postgres_schema import Pair
from server.migration.projects import Project
from server.migration.snapshot import MASTER, NotAMaster
from server.migration.tables import quote
from server.settings import Settings
from server.storage import contract, migrate

Changes = dict[str, str]


@dataclass(frozen=True)
class Moment:
    """A database within one transaction; `mark` says which transactions it sees.

    Two moments with one mark hold the same: whoever writes and commits changes it, all over the
    server, and it costs nothing to ask for.
    """

    name: str
    conn: target.Connection
    mark: str


@contextmanager
def held(conn: target.Connection, name: str) -> Iterator[Moment]:
    """The database as it is now, until the block ends; nothing in it can be written."""
    target.execute(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    if name != MASTER:
        # Names of other schemas come with them, those of `public` without.
        target.execute(conn, "SET LOCAL search_path = public")
    try:
        yield Moment(name, conn, mark(conn))
    finally:
        # The driver itself knows of no transaction on a connection in autocommit.
        with suppress(contract.DatabaseError, psycopg2.Error):
            target.execute(conn, "ROLLBACK")


def mark(conn: target.Connection) -> str:
    """The transactions that are visible now."""
    return str(target.value(conn, "SELECT pg_current_snapshot()::text"))


@contextmanager
def project_held(settings: Settings, admin_url: str, project: Project) -> Iterator[Moment]:
    """The same of a project's database, on a connection of its own."""
    with (
        closing(target.connect(settings, project.db_name, admin_url)) as conn,
        held(conn, project.db_name) as moment,
    ):
        yield moment


def check_master(moment: Moment) -> list[migrate.Step]:
    """The steps that the master lacks; raises where it isn't one, or is newer than this code."""
    conn = moment.conn
    if not target.value(conn, "SELECT to_regclass('users') IS NOT NULL"):
        raise NotAMaster("PostgreSQL's database is no master of this service")
    if keys.is_unfinished(conn):
        raise NotAMaster("a migration into this PostgreSQL has not ended: run that again first")
    applied = target.rows(conn, "SELECT name, checksum FROM schema_migrations")
    return migrate.pending(applied, migrate.steps(database_postgres.BACKEND))


def read_projects(moment: Moment) -> list[Project]:
    """The projects that have a database, or should."""
    rows = target.rows(
        moment.conn,
        "SELECT id, name, db_name FROM projects WHERE status = 'active' ORDER BY id",
    )
    return [Project(*row) for row in rows]


def missing(project: Project) -> Finding | None:
    """What is wrong where the project has no database of its own."""
    if database_postgres.made_project_database(project.db_name, project.id):
        return None
    problem = f"{project.db_name} isn't there"
    if database_postgres.project_database_exists(project.db_name):
        problem = f"{project.db_name} was not made for this project"
    option = "--missing-databases=skip"
    return Finding(MASTER, "projects", f"id {project.id}", "db_name", problem, option)


def master_pairs(moment: Moment) -> tuple[Pair, ...]:
    """The master's tables on both sides."""
    return tuple(
        Pair(table, table, _sequence(moment, table.name, table.key[0])) for table in master_tables()
    )


def _sequence(moment: Moment, table: str, column: str) -> str:
    """The sequence that gives the column's values, empty without one."""
    sql = "SELECT pg_get_serial_sequence(%s, %s)"
    return target.value(moment.conn, sql, (quote(table), column)) or ""


def highest_ids(moment: Moment, pairs: tuple[Pair, ...]) -> dict[str, int]:
    """The highest ids that were given away, by the table's name on SQLite."""
    return {
        pair.table.name: postgres_copy.highest_id(moment.conn, pair.sequence)
        for pair in pairs
        if pair.sequence
    }


def find_changes(moment: Moment, pairs: tuple[Pair, ...], found: Found, file: Path) -> Changes:
    """The tables that are no longer as they were taken, each with its first such row."""
    changes = {}
    for pair in pairs:
        for chunk, digest in found[pair.table.name].items():
            if target.digest(moment.conn, chunk) != digest:
                ours = postgres_copy.on_sqlite(chunk, pair)
                with source.opened(file) as conn:
                    rows = compare.differences(moment.name, conn, moment.conn, ours, pair.there)
                changes[pair.there.name] = rows[0].row
                break
    return changes
