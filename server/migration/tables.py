"""What a table is, whichever database it stands in: columns, keys, the kinds of values."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a column holds; the value is its type on PostgreSQL."""

    INTEGER = "bigint"
    BOOLEAN = "boolean"
    FLOAT = "double precision"
    NUMERIC = "numeric"
    TEXT = "text"
    JSON = "json"
    TIME = "timestamptz"
    BYTES = "bytea"


@dataclass(frozen=True)
class Column:
    """One column. `default` is SQL as SQLite has it, None without one.

    `shown` is what PostgreSQL selects for it, empty where that is the column itself.
    """

    name: str
    kind: Kind
    nullable: bool = True
    default: str | None = None
    shown: str = ""


@dataclass(frozen=True)
class ForeignKey:
    """Columns that name a row of another table; actions are `NO ACTION`, `CASCADE` …"""

    columns: tuple[str, ...]
    table: str
    references: tuple[str, ...]
    on_delete: str = "NO ACTION"
    on_update: str = "NO ACTION"


@dataclass(frozen=True)
class Table:
    """One table; `key` is its primary key, empty where it has none.

    `relation` is what PostgreSQL selects its rows from, empty where the name alone says it.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...] = ()
    relation: str = ""

    def column(self, name: str) -> Column:
        """The column of this name."""
        return next(column for column in self.columns if column.name == name)

    @property
    def numbered(self) -> bool:
        """Whether the key is one integer, given by the database."""
        return len(self.key) == 1 and self.column(self.key[0]).kind is Kind.INTEGER


def quote(name: str) -> str:
    """An identifier as both databases spell it."""
    return '"' + name.replace('"', '""') + '"'


def parents_first(tables: Iterable[Table]) -> list[Table]:
    """An order in which every row's parents come before it; tables in a circle as they come."""
    left = list(tables)
    names = {table.name for table in left}
    done: list[Table] = []
    while left:
        seen = {table.name for table in done}
        ready = [
            table
            for table in left
            if all(
                key.table in seen or key.table == table.name or key.table not in names
                for key in table.foreign_keys
            )
        ] or left[:1]
        done += ready
        left = [table for table in left if table not in ready]
    return done


def read_tables(conn: sqlite3.Connection, kinds: dict[str, Kind]) -> list[Table]:
    """The tables of an SQLite database whose every declared type is among `kinds`."""
    names = [
        row[0]
        for row in conn.execute(
            r"SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' "
            r"ESCAPE '\' ORDER BY rowid"
        )
    ]
    return [_read_table(conn, name, kinds) for name in names]


def _read_table(conn: sqlite3.Connection, name: str, kinds: dict[str, Kind]) -> Table:
    info = conn.execute(f"PRAGMA table_info({quote(name)})").fetchall()
    columns = tuple(
        Column(column, kinds[declared.upper()], not (not_null or key), default)
        for _, column, declared, not_null, default, key in info
    )
    key = tuple(row[1] for row in sorted(info, key=lambda row: int(row[5])) if row[5])
    return Table(name, columns, key, tuple(read_foreign_keys(conn, name)))


def read_foreign_keys(conn: sqlite3.Connection, table: str) -> list[ForeignKey]:
    """The foreign keys of an SQLite table, in the order of their definition."""
    found: dict[int, list[tuple[str, str | None, str, str, str]]] = {}
    for number, _, parent, column, to, on_update, on_delete, _ in conn.execute(
        f"PRAGMA foreign_key_list({quote(table)})"
    ):
        found.setdefault(number, []).append((column, to, parent, on_delete, on_update))
    keys = []
    for number in sorted(found, reverse=True):
        parts = found[number]
        parent = parts[0][2]
        to = tuple(part[1] for part in parts if part[1]) or _primary_key(conn, parent)
        columns = tuple(part[0] for part in parts)
        keys.append(ForeignKey(columns, parent, to, parts[0][3], parts[0][4]))
    return keys


def _primary_key(conn: sqlite3.Connection, table: str) -> tuple[str, ...]:
    info = conn.execute(f"PRAGMA table_info({quote(table)})").fetchall()
    return tuple(row[1] for row in sorted(info, key=lambda row: int(row[5])) if row[5])
