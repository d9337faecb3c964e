"""The kinds of a project's columns: from their declared types, or from the values in them."""

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from server.migration.project_defaults import kind_of_default
from server.migration.project_leftovers import Leftover
from server.migration.project_source import Source, SourceColumn, SourceTable
from server.migration.project_tokens import caseless
from server.migration.tables import Kind, quote

# Text as a rule; SQLite itself takes these for numbers, and numbers may stand in them.
_LOOSE = r"(DATE|TIME|UUID|STRING)$"
# The first word that is part of the declared type decides; those that SQLite gives no affinity
# come before its own rules (https://sqlite.org/datatype3.html#determination_of_column_affinity).
_DECLARED = (
    (r".*BOOL", Kind.BOOLEAN),
    (r"JSONB?( TEXT)?$", Kind.JSON),
    (_LOOSE, Kind.TEXT),
    (r"DATETIME|TIMESTAMP", Kind.TIME),
    (r".*INT", Kind.INTEGER),
    (r".*(CHAR|CLOB|TEXT)", Kind.TEXT),
    (r".*(REAL|FLOA|DOUB)", Kind.FLOAT),
    (r".*(NUMERIC|DECIMAL)", Kind.NUMERIC),
)
# A float holds whole numbers exactly up to here.
_EXACT = 2**53
_NOW = re.compile(r"\(*(CURRENT_TIMESTAMP|datetime\(\s*'now'\s*\))\)*", re.IGNORECASE)
_MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-](0\d|1[0-4]):?[0-5]\d)?", re.ASCII
)
_SEVERAL = {frozenset({"integer", "real"}), frozenset({"real"})}
_ALONE = {"integer": Kind.INTEGER, "text": Kind.TEXT, "blob": Kind.BYTES}


@dataclass(frozen=True)
class Typed:
    """The kind of a column, and what of its declared type it can't show."""

    kind: Kind
    leftover: Leftover | None = None


def find_kind(
    conn: sqlite3.Connection, source: Source, table: SourceTable, column: SourceColumn
) -> Typed:
    """The kind that the column's values have, or should have."""
    declared = column.declared.strip().upper()
    kind = next((kind for word, kind in _DECLARED if re.match(word, declared)), None)
    if kind is None:
        return Typed(_kind_of_values(conn, table, column, _undeclared(conn, source, table, column)))
    if kind is Kind.JSON and column.key:
        return Typed(Kind.TEXT, _lost(table, column, "PostgreSQL has no keys of JSON"))
    if declared == "TEXT" and _is_now(column) and _holds_moments(conn, table, column):
        return Typed(Kind.TIME)
    if kind is Kind.TIME and not _holds_moments(conn, table, column):
        reason = (
            "not all its values are times with a known offset from UTC, so they stay as they are"
        )
        found = _kind_of_values(conn, table, column, Kind.TEXT)
        return Typed(found, _lost(table, column, reason))
    if re.match(_LOOSE, declared):
        return Typed(_kind_of_values(conn, table, column, kind))
    return Typed(kind)


def _undeclared(
    conn: sqlite3.Connection, source: Source, table: SourceTable, column: SourceColumn
) -> Kind:
    """The kind of a column whose type says none, should its values not tell either."""
    declared = column.declared.strip().upper()
    if declared not in ("", "ANY"):
        return Kind.BYTES if "BLOB" in declared else Kind.NUMERIC
    for key in table.foreign_keys:
        parent = source.table(key.table)
        for name, to in zip(key.columns, key.references, strict=False):
            named = (
                parent.column(to) if parent and caseless(name) == caseless(column.name) else None
            )
            if parent and named and named.declared:
                return find_kind(conn, source, parent, named).kind
    return (kind_of_default(column.default) if column.default else None) or Kind.TEXT


def _lost(table: SourceTable, column: SourceColumn, reason: str) -> Leftover:
    name = f"{table.name}.{column.name}"
    return Leftover("type", name, column.declared, f"{reason}.")


def _is_now(column: SourceColumn) -> bool:
    return column.default is not None and _NOW.fullmatch(column.default) is not None


def _kind_of_values(
    conn: sqlite3.Connection, table: SourceTable, column: SourceColumn, otherwise: Kind
) -> Kind:
    """What all values are; a mix keeps what the type declares, so that they are looked at."""
    found = {
        row[0]
        for row in conn.execute(
            f"SELECT DISTINCT typeof({quote(column.name)}) FROM {quote(table.name)}"
        )
    } - {"null"}
    if len(found) == 1 and found <= set(_ALONE):
        return _ALONE[found.pop()]
    if frozenset(found) in _SEVERAL:
        return Kind.FLOAT if _are_exact(conn, table, column) else Kind.NUMERIC
    return otherwise


def _are_exact(conn: sqlite3.Connection, table: SourceTable, column: SourceColumn) -> bool:
    name = quote(column.name)
    beyond = conn.execute(
        f"SELECT 1 FROM {quote(table.name)} WHERE typeof({name}) = 'integer' "
        f"AND {name} NOT BETWEEN {-_EXACT} AND {_EXACT} LIMIT 1"
    ).fetchone()
    return beyond is None


def _holds_moments(conn: sqlite3.Connection, table: SourceTable, column: SourceColumn) -> bool:
    """Whether every value is a time that is known in UTC.

    Without an offset only what SQLite's own default wrote is; a column without values is one.
    """
    return all(
        isinstance(value, str) and _is_moment(value, naive=_is_now(column))
        for value in _values(conn, table, column)
    )


def _values(conn: sqlite3.Connection, table: SourceTable, column: SourceColumn) -> Iterator[object]:
    name = quote(column.name)
    for row in conn.execute(f"SELECT {name} FROM {quote(table.name)} WHERE {name} IS NOT NULL"):
        yield row[0]


def _is_moment(value: str, *, naive: bool) -> bool:
    match = _MOMENT.fullmatch(value)
    if match is None or not (match[3] or naive):
        return False
    try:
        datetime.fromisoformat(value)  # a day that there is
    except ValueError:
        return False
    return True
