"""What the tables of a database hold, as short texts that are equal where the content is."""

import sqlite3
from pathlib import Path

from server.backups.manifest import Tables
from server.migration import sqlite_files, target
from server.migration.postgres_source import held
from server.migration.rows import Chunk
from server.migration.tables import Column, Kind, Table

# What an extension made is the extension's; a partitioned table has no rows of its own.
_TABLES = """
    SELECT format('%I.%I', nspname, relname), ARRAY(
        SELECT attname::text FROM pg_attribute
        WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attname COLLATE "C")
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind = 'r' AND relpersistence <> 't'
        AND nspname <> 'information_schema' AND nspname !~ '^pg_'
        AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass
            AND objid = c.oid AND deptype = 'e')
    ORDER BY 1
"""


def of_sqlite(path: Path) -> Tables | None:
    """Of all tables of a file; None where SQLite here lacks what a virtual table needs."""
    try:
        return sqlite_files.fingerprint(path, path.name)
    except sqlite3.OperationalError as error:
        if "no such module" in str(error):
            return None
        raise


def of_postgres(conn: target.Connection) -> Tables:
    """Of all tables of a database, within one transaction of it."""
    # Names of types and tables in values come with their schema, whatever a role prefers.
    target.execute(conn, "SET LOCAL search_path = pg_catalog")
    return {name: _of_table(conn, name, columns) for name, columns in target.rows(conn, _TABLES)}


def _of_table(conn: target.Connection, name: str, columns: list[str]) -> str:
    """In any order of rows; each value as COPY and pg_dump spell it."""
    shown = tuple(Column(column, Kind.TEXT) for column in columns)
    table = Table(name, shown, (), relation=f"ONLY {name}")
    found = target.digest(conn, Chunk(table))
    return f"{found.rows} {found.value} {', '.join(columns)}"


def of_postgres_now(conn: target.Connection) -> Tables:
    """The same, of a connection that has no transaction."""
    with held(conn, "restored"):
        return of_postgres(conn)


def rows(tables: Tables | None) -> int:
    """How many rows there are."""
    return sum(int(text.partition(" ")[0]) for text in (tables or {}).values())


def differences(expected: Tables | None, found: Tables | None) -> list[str]:
    """The tables that aren't as they should be."""
    ours, theirs = expected or {}, found or {}
    return sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
