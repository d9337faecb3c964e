"""A PostgreSQL database at one moment, as the source of the way back."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import database_postgres
from server.migration import compare, keys, postgres_census, postgres_copy, source, target
from server.migration.census import Finding, Options
from server.migration.master import master_tables
from server.migration.postgres_copy import Taken
from server.migration.postgres_schema import FileSchema, Pair, read_postgres_schema
from server.migration.project_leftovers import Leftover
from server.migration.projects import Project
from server.migration.snapshot import MASTER, NotAMaster
from server.settings import Settings
from server.storage import migrate


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
    try:
        yield Moment(name, conn, mark(conn))
    finally:
        if not conn.closed:
            conn.rollback()


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


def master_pairs(moment: Moment, options: Options) -> tuple[Pair, ...]:
    """The master's tables on both sides."""
    pairs = []
    for table in master_tables():
        found = Pair(table, table, sequence_of(moment, table.name, table.key[0]))
        pairs.append(_fitting(found, options))
    return tuple(pairs)


def sequence_of(moment: Moment, table: str, column: str) -> str:
    """The sequence that gives the column's values, empty without one."""
    sql = "SELECT pg_get_serial_sequence(%s, %s)"
    return target.value(moment.conn, sql, (f'"{table}"', column)) or ""


def project_schema(
    moment: Moment, options: Options, refused: dict[Leftover, str] | None = None
) -> FileSchema:
    """The schema of a project's database for SQLite."""
    schema = read_postgres_schema(moment.conn, refused)
    return replace(schema, pairs=tuple(_fitting(pair, options) for pair in schema.pairs))


def _fitting(pair: Pair, options: Options) -> Pair:
    return postgres_census.without_misfits(pair) if options.misfits == "quarantine" else pair


def highest_ids(moment: Moment, pairs: tuple[Pair, ...]) -> dict[str, int]:
    """The highest ids that were given away, by the table's name on SQLite."""
    return {
        pair.table.name: postgres_copy.highest_id(moment.conn, pair.sequence)
        for pair in pairs
        if pair.sequence
    }
