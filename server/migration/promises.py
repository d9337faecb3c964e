"""What the master's schema promises about its rows, and the rows that don't keep it.

SQLite promises nearly the same; yet a file may have been written to past its constraints, or
without an index, and PostgreSQL would refuse such rows in the middle of a copy.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache

from server.migration.master import empty_master, master_tables
from server.migration.project_definitions import read_table
from server.migration.project_tables import LONGEST_KEY
from server.migration.tables import Column, Kind, Table, quote


@dataclass(frozen=True)
class Promise:
    """`broken` is SQL that is true of a row that doesn't keep it; `unique` what an index holds."""

    table: str
    columns: tuple[str, ...]
    problem: str
    broken: str
    unique: bool = False


@cache
def master_promises() -> list[Promise]:
    """What the files of schema/ promise; e-mails, which ignore their case, aside."""
    with closing(empty_master()) as conn:
        return [promise for table in master_tables() for promise in _of_table(conn, table)]


def _of_table(conn: sqlite3.Connection, table: Table) -> Iterator[Promise]:
    sql = conn.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table.name,)).fetchone()[0]
    for check in read_table(sql).checks:
        text = check.condition.text
        names = tuple(column.name for column in _named(table, text))
        yield Promise(table.name, names, f"breaks CHECK ({text})", f"NOT ({text})")
    for index, text in _indexes(conn, table.name):
        names = tuple(
            row[2] for row in conn.execute(f"PRAGMA index_xinfo({quote(index)})") if row[5]
        )
        if None not in names and _is_unique(conn, table.name, index):
            yield _unique(table, names, text.partition(" WHERE ")[2])
        inside = [table.column(name) for name in names if name] or _named(table, text)
        yield from _short(table, [column for column in inside if column.kind is Kind.TEXT])


def _named(table: Table, sql: str) -> list[Column]:
    words = set(re.findall(r"\w+", sql.partition(" ON ")[2] or sql))
    return [column for column in table.columns if column.name in words]


def _indexes(conn: sqlite3.Connection, table: str) -> list[tuple[str, str]]:
    return conn.execute(
        "SELECT name, coalesce(sql, '') FROM sqlite_master WHERE type = 'index' AND tbl_name = ?",
        (table,),
    ).fetchall()


def _is_unique(conn: sqlite3.Connection, table: str, index: str) -> bool:
    listed = conn.execute(f"PRAGMA index_list({quote(table)})")
    return any(row[1] == index and row[2] for row in listed)


def _unique(table: Table, columns: tuple[str, ...], condition: str) -> Promise:
    """All but the first of those that are equal break it."""
    names = ", ".join(map(quote, columns))
    given = " AND ".join(f"{quote(name)} IS NOT NULL" for name in columns)
    also = f" AND {condition}" if condition else ""
    broken = (
        f"rowid IN (SELECT number FROM (SELECT rowid AS number, row_number() OVER "
        f"(PARTITION BY {names} ORDER BY rowid) AS place FROM {quote(table.name)} "
        f"WHERE {given}{also}) WHERE place > 1)"
    )
    return Promise(table.name, columns, "is that of another row, too", broken, unique=True)


def _short(table: Table, columns: list[Column]) -> Iterator[Promise]:
    """What an index holds must be short on PostgreSQL."""
    if not columns:
        return
    length = " + ".join(
        f"coalesce(length(CAST({quote(column.name)} AS BLOB)), 0)" for column in columns
    )
    problem = f"is longer than the {LONGEST_KEY} bytes that PostgreSQL surely has in an index"
    names = tuple(column.name for column in columns)
    yield Promise(table.name, names, problem, f"{length} > {LONGEST_KEY}")


def unkept(conn: sqlite3.Connection) -> Iterator[Promise]:
    """The promises that a master may have broken: not those that its own indexes keep."""
    conn.text_factory = str
    kept = {table.name: set(_unique_columns(conn, table.name)) for table in master_tables()}
    seen = set()
    for promise in master_promises():
        if promise in seen or (promise.unique and promise.columns in kept[promise.table]):
            continue
        seen.add(promise)
        yield promise


def _unique_columns(conn: sqlite3.Connection, table: str) -> Iterator[tuple[str, ...]]:
    listed = conn.execute(f"PRAGMA index_list({quote(table)})").fetchall()
    for row in listed:
        if row[2]:
            parts = conn.execute(f"PRAGMA index_info({quote(row[1])})")
            yield tuple(part[2] for part in parts)
