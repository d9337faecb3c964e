"""Makes the SQLite files of the way back: the master's, and a project's."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import database
from server.migration import census, postgres_copy, source, sqlite_files
from server.migration.census import Options, Settled, Settling
from server.migration.compare import Difference, differences
from server.migration.copying import Progress
from server.migration.postgres_copy import Found, set_highest
from server.migration.postgres_schema import FileSchema, Pair, read_postgres_schema
from server.migration.postgres_source import Moment, highest_ids
from server.migration.project_leftovers import Leftover, Statement

_BROKEN = "not all rows keep it on SQLite"


class Differs(Exception):
    """The file isn't what PostgreSQL holds."""

    def __init__(self, found: list[Difference]) -> None:
        super().__init__(str(found[0]))
        self.found = found


def build_master(path: Path, moment: Moment, pairs: tuple[Pair, ...], progress: Progress) -> Found:
    """A master as the service makes it, with PostgreSQL's rows."""
    sqlite_files.new_file(path)
    database.migrate_file(path)
    with sqlite_files.filled(path) as conn:
        # The schema brings rows of its own, which the source has as well, or has changed.
        for pair in reversed(pairs):
            conn.execute(f'DELETE FROM "{pair.table.name}"')
        conn.execute("DELETE FROM sqlite_sequence")
        taken = _fill(conn, moment, pairs, progress)
    prove(path, moment, pairs, taken)
    return taken


def use_wal(path: Path) -> None:
    """Switch to the log that the service uses; nobody writes to the file after that."""
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA journal_mode = WAL")
    sqlite_files.sync(path)


def _fill(
    conn: sqlite3.Connection, moment: Moment, pairs: tuple[Pair, ...], progress: Progress
) -> Found:
    taken = {
        pair.table.name: postgres_copy.copy_table(pair, moment.conn, conn, progress)
        for pair in pairs
    }
    highest = highest_ids(moment, pairs)
    for pair in pairs:
        if pair.sequence:
            set_highest(conn, pair.table, highest[pair.table.name])
    return taken


def prove(path: Path, moment: Moment, pairs: tuple[Pair, ...], taken: Found) -> None:
    """Compare the digests of what PostgreSQL said with those of what the file holds."""
    with source.opened(path) as conn:
        for pair in pairs:
            for chunk in postgres_copy.different(pair, conn, taken[pair.table.name]):
                ours = postgres_copy.on_sqlite(chunk, pair)
                raise Differs(differences(moment.name, conn, moment.conn, ours, pair.there))


@dataclass(frozen=True)
class Built:
    """What a project's file has been filled with, and what stays behind."""

    found: Found
    leftovers: list[Leftover]


def build_project(
    path: Path,
    moment: Moment,
    pairs: tuple[Pair, ...],
    refused: dict[Leftover, str],
    progress: Progress,
) -> Built:
    """A project's file.

    What its rows don't keep on SQLite is added to `refused`, and left out in another try.
    """
    while True:
        schema = read_postgres_schema(moment.conn, refused)
        sqlite_files.new_file(path)
        with sqlite_files.filled(path) as conn:
            # Makes SQLite write the header: an empty file is no database.
            conn.execute("PRAGMA user_version = 1")
            for statement in schema.create:
                conn.execute(statement)
            found = _fill(conn, moment, pairs, progress)
            leftovers = [*schema.leftovers, *_finish(conn, schema.finish)]
            conn.execute(f"PRAGMA application_id = {database.APPLICATION_ID}")
        broken = _broken(path, schema)
        if not broken:
            break
        refused |= broken
    prove(path, moment, pairs, found)
    return Built(found, leftovers)


def _finish(conn: sqlite3.Connection, statements: tuple[Statement, ...]) -> list[Leftover]:
    """Indexes and views; what SQLite refuses is left behind."""
    leftovers = []
    for statement in statements:
        try:
            conn.execute(statement.sql)
            if statement.leftover and statement.leftover.kind == "view":
                _read_view(conn)
        except sqlite3.Error as error:
            if statement.leftover is None:
                raise
            leftovers.append(statement.leftover.because(f"SQLite refuses it: {error}"))
    return leftovers


def _read_view(conn: sqlite3.Connection) -> None:
    """SQLite looks at a view only when it is read; one that can't be is dropped again."""
    (name,) = conn.execute(
        "SELECT name FROM sqlite_master WHERE type = 'view' ORDER BY rowid DESC LIMIT 1"
    ).fetchone()
    quoted = name.replace('"', '""')
    try:
        conn.execute(f'SELECT * FROM "{quoted}" LIMIT 0')
    except sqlite3.Error:
        conn.execute(f'DROP VIEW "{quoted}"')
        raise


def _broken(path: Path, schema: FileSchema) -> dict[Leftover, str]:
    """The promises that the rows don't keep."""
    with source.opened(path) as conn:
        return {
            promise.leftover: _BROKEN
            for promise in schema.promises
            if conn.execute(
                "SELECT 1 FROM {} WHERE NOT ({}) LIMIT 1".format(
                    '"' + promise.table.replace('"', '""') + '"', promise.condition
                )
            ).fetchone()
        }


def settle(
    path: Path, name: str, pairs: tuple[Pair, ...], options: Options, quarantine: Path
) -> Settled:
    """Do with the orphans, in a file that was proved, what the options say."""
    tables = [pair.table for pair in pairs]
    with source.opened(path) as conn:
        if next(census.orphans(conn, name, tables), None) is None:
            return Settled()
    with source.opened(path) as snapshot, closing(sqlite3.connect(path)) as conn:
        settled = Settling(conn, name, tables, options, quarantine).run(snapshot)
    sqlite_files.sync(path)
    return settled
