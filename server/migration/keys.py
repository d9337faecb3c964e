"""Indexes and foreign keys: faster made anew after a table was filled than kept meanwhile."""

import database_postgres
from server.migration import target
from server.migration.copying import transaction
from server.migration.tables import Table, quote

# In it stands what is to be made anew. The service doesn't start while it is there.
NAME = database_postgres.UNFINISHED_MIGRATION

_FOREIGN_KEYS = """
    SELECT format('ALTER TABLE %%s DROP CONSTRAINT %%I', conrelid::regclass, conname),
        format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', conrelid::regclass, conname,
            pg_get_constraintdef(pg_constraint.oid))
    FROM pg_constraint WHERE contype = 'f' AND conrelid = ANY(%s::regclass[])
"""
_INDEXES = """
    SELECT format('DROP INDEX %%s', indexrelid::regclass), pg_get_indexdef(indexrelid)
    FROM pg_index WHERE indrelid = ANY(%s::regclass[]) AND NOT indisprimary
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""


def set_aside(conn: target.Connection, tables: list[Table]) -> None:
    """Drop the tables' foreign keys and plain indexes; what they were is kept in the database.

    Unique constraints and primary keys stay: they are proven while the rows come.
    """
    names = [quote(table.name) for table in tables]
    found = [row for sql in (_FOREIGN_KEYS, _INDEXES) for row in target.rows(conn, sql, (names,))]
    with transaction(conn):
        target.execute(conn, f"CREATE TABLE {NAME} (id int PRIMARY KEY, statement text NOT NULL)")
        # Indexes first: they serve the checks of the foreign keys.
        for number, (drop, make) in enumerate(found):
            target.execute(conn, f"INSERT INTO {NAME} VALUES (%s, %s)", (-number, make))
            target.execute(conn, drop)


def is_unfinished(conn: target.Connection) -> bool:
    """Whether an earlier run has set something aside and not brought it back."""
    return bool(target.value(conn, "SELECT to_regclass(%s)", (NAME,)))


def bring_back(conn: target.Connection) -> None:
    """Make what was set aside, each statement in its own transaction; goes on where it ended."""
    if not is_unfinished(conn):
        return
    for number, statement in target.rows(conn, f"SELECT id, statement FROM {NAME} ORDER BY id"):
        with transaction(conn):
            target.execute(conn, statement)
            target.execute(conn, f"DELETE FROM {NAME} WHERE id = %s", (number,))
    target.execute(conn, f"DROP TABLE {NAME}")
