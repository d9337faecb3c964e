"""A project's SQLite database as SQLite itself describes it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.migration.project_definitions import Definition, read_table
from server.migration.project_tokens import Reader, caseless
from server.migration.tables import ForeignKey, quote, read_foreign_keys

# The tables in which SQLite's own modules keep a virtual table's content.
_SHADOWS = {
    "FTS3": ("content", "segments", "segdir"),
    "FTS4": ("content", "segments", "segdir", "docsize", "stat"),
    "FTS5": ("data", "idx", "content", "docsize", "config"),
    "RTREE": ("node", "rowid", "parent"),
    "RTREE_I32": ("node", "rowid", "parent"),
    "GEOPOLY": ("node", "rowid", "parent"),
}
EXPRESSION = -2


@dataclass(frozen=True)
class SourceColumn:
    """A column; `hidden` is 2 where it is generated, 3 where that is stored."""

    name: str
    declared: str
    not_null: bool
    default: str | None
    key: int
    hidden: int

    @property
    def generated(self) -> bool:
        """Whether SQLite computes it."""
        return self.hidden in (2, 3)


@dataclass(frozen=True)
class IndexPart:
    """A column of an index, or an expression where `name` is None."""

    name: str | None
    descending: bool
    collation: str


@dataclass(frozen=True)
class SourceIndex:
    """An index; `origin` is "c" for CREATE INDEX, "u" for UNIQUE, "pk" for the primary key."""

    name: str
    unique: bool
    origin: str
    partial: bool
    parts: tuple[IndexPart, ...]
    sql: str

    def key(self) -> tuple[str, ...] | None:
        """The columns that it makes unique just as they are; None where it does less."""
        names = tuple(part.name for part in self.parts if part.name is not None)
        plain = all(part.collation == "BINARY" for part in self.parts)
        whole = len(names) == len(self.parts) and not self.partial
        return names if self.unique and whole and plain else None


@dataclass(frozen=True)
class SourceTable:
    """A table with all that belongs to it."""

    name: str
    sql: str
    columns: tuple[SourceColumn, ...]
    definition: Definition
    indexes: tuple[SourceIndex, ...]
    foreign_keys: tuple[ForeignKey, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key in its order."""
        keyed = sorted((column for column in self.columns if column.key), key=lambda c: c.key)
        return tuple(column.name for column in keyed)

    @property
    def numbered(self) -> bool:
        """Whether the key is the row's own number, which SQLite gives."""
        return len(self.key) == 1 and all(index.origin != "pk" for index in self.indexes)

    def column(self, name: str) -> SourceColumn | None:
        """The column of this name, whatever its case."""
        found = (column for column in self.columns if caseless(column.name) == caseless(name))
        return next(found, None)


@dataclass(frozen=True)
class Source:
    """The whole schema; the rest is name and text, in the order in which they were made."""

    tables: tuple[SourceTable, ...]
    virtual: tuple[tuple[str, str], ...]
    views: tuple[tuple[str, str], ...]
    triggers: tuple[tuple[str, str], ...]

    def table(self, name: str) -> SourceTable | None:
        """The table of this name, whatever its case."""
        return next(
            (table for table in self.tables if caseless(table.name) == caseless(name)), None
        )


@contextmanager
def plain_rows(conn: sqlite3.Connection) -> Iterator[None]:
    """Rows as tuples and text as text meanwhile, whatever the connection's owner wants."""
    before = conn.row_factory, conn.text_factory
    conn.row_factory, conn.text_factory = None, lambda raw: raw.decode("utf-8", "replace")
    try:
        yield
    finally:
        conn.row_factory, conn.text_factory = before


def read_source(conn: sqlite3.Connection) -> Source:
    """The schema of the main database, without what SQLite keeps for itself."""
    found: dict[str, list[tuple[str, str]]] = {kind: [] for kind in ("table", "view", "trigger")}
    virtual = []
    for kind, name, sql in conn.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE type <> 'index' ORDER BY rowid"
    ):
        if Reader(sql).accept("CREATE", "VIRTUAL"):
            virtual.append((name, sql))
        elif not caseless(name).startswith("sqlite_"):
            found[kind].append((name, sql))
    shadows = {shadow for name, sql in virtual for shadow in shadows_of(name, sql)}
    tables = [
        _read_table(conn, name, sql)
        for name, sql in found["table"]
        if caseless(name) not in shadows
    ]
    return Source(tuple(tables), tuple(virtual), tuple(found["view"]), tuple(found["trigger"]))


def shadows_of(name: str, sql: str) -> list[str]:
    """The tables in which a virtual table keeps its content, in lower case."""
    reader = Reader(sql)
    while not reader.done and not reader.accept("USING"):
        reader.take()
    return [caseless(f"{name}_{end}") for end in _SHADOWS.get(reader.peek().value.upper(), ())]


def _read_table(conn: sqlite3.Connection, name: str, sql: str) -> SourceTable:
    columns = tuple(
        SourceColumn(column, declared, bool(not_null), default, key, hidden)
        for _, column, declared, not_null, default, key, hidden in conn.execute(
            f"PRAGMA table_xinfo({quote(name)})"
        )
    )
    return SourceTable(
        name,
        sql,
        columns,
        read_table(sql),
        tuple(_read_indexes(conn, name)),
        tuple(read_foreign_keys(conn, name)),
    )


def _read_indexes(conn: sqlite3.Connection, table: str) -> Iterator[SourceIndex]:
    """The indexes in the order in which they were made."""
    texts = dict(conn.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index'"))
    listed = conn.execute(f"PRAGMA index_list({quote(table)})").fetchall()
    for _, name, unique, origin, partial in reversed(listed):
        parts = tuple(
            IndexPart(None if number == EXPRESSION else column, bool(descending), collation.upper())
            for _, number, column, descending, collation, key in conn.execute(
                f"PRAGMA index_xinfo({quote(name)})"
            )
            if key
        )
        sql = texts.get(name) or ""
        yield SourceIndex(name, bool(unique), origin, bool(partial), parts, sql)
