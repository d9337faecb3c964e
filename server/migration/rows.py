"""Rows as COPY's lines, in chunks, with the digest that both databases must agree on."""

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from server.migration.tables import Kind, Table, quote
from server.migration.values import FIELD, NULL, float_bits

CHUNK = 50_000
PART = 500  # of a chunk that differs; its rows are held in memory
BLOCK = 1 << 16  # bytes after which a block of lines ends: few enough to stay in the cache


@dataclass(frozen=True)
class Chunk:
    """The rows of a numbered table with `after` < id <= `last`; without bounds, of any table."""

    table: Table
    after: int | None = None
    last: int | None = None

    def where(self) -> str:
        """The condition in SQL, the same on both databases."""
        if not self.table.numbered:
            return "TRUE"
        key = quote(self.table.key[0])
        bounds = []
        if self.after is not None:
            bounds.append(f"{key} > {self.after}")
        if self.last is not None:
            bounds.append(f"{key} <= {self.last}")
        return " AND ".join(bounds) or "TRUE"


@dataclass(frozen=True)
class Digest:
    """How many rows a chunk has and what they are."""

    rows: int
    value: str


class Digester:
    """Takes lines; those of a table without a key may come in any order."""

    def __init__(self, table: Table) -> None:
        self._ordered = bool(table.key)
        self._hash = hashlib.sha256()
        self._sum = 0
        self._rows = 0

    def add(self, block: bytes) -> None:
        """Whole lines, each with its end."""
        self._rows += block.count(b"\n")
        if self._ordered:
            self._hash.update(block)
            return
        for line in block.splitlines(keepends=True):
            self._sum += int.from_bytes(hashlib.sha256(line).digest())

    @property
    def digest(self) -> Digest:
        """What has come so far."""
        value = self._hash.hexdigest() if self._ordered else f"{self._sum % 2**256:064x}"
        return Digest(self._rows, value)


def chunks(conn: sqlite3.Connection, table: Table) -> list[Chunk]:
    """The table in pieces of `CHUNK` rows, which together cover every id there may be."""
    return divide(conn, Chunk(table), CHUNK)


def divide(conn: sqlite3.Connection, chunk: Chunk, size: int) -> list[Chunk]:
    """A chunk in pieces of so many rows, which together cover every id that it covers."""
    table = chunk.table
    if not table.numbered:
        return [chunk]
    key = quote(table.key[0])
    ends = [chunk.after]
    while True:
        rest = Chunk(table, ends[-1], chunk.last).where()
        count, last = conn.execute(
            f"SELECT count(*), max({key}) FROM (SELECT {key} FROM {quote(table.name)} "
            f"WHERE {rest} ORDER BY {key} LIMIT {size})"
        ).fetchone()
        if count < size:
            break
        ends.append(last)
    return [Chunk(table, *bounds) for bounds in pairwise([*ends, chunk.last])]


def has_any(conn: sqlite3.Connection, chunk: Chunk) -> bool:
    """Whether SQLite has a row of the chunk."""
    where = f"FROM {quote(chunk.table.name)} WHERE {chunk.where()}"
    return bool(conn.execute(f"SELECT EXISTS (SELECT 1 {where})").fetchone()[0])


def select(chunk: Chunk) -> str:
    """The chunk's rows on SQLite in the order of the key, columns as the table has them."""
    columns = ", ".join(quote(column.name) for column in chunk.table.columns)
    # BINARY is the order of the bytes, as COLLATE "C" is on PostgreSQL.
    order = ", ".join(f"{quote(name)} COLLATE BINARY" for name in chunk.table.key)
    ordered = f" ORDER BY {order}" if order else ""
    return f"SELECT {columns} FROM {quote(chunk.table.name)} WHERE {chunk.where()}{ordered}"


def has_floats(table: Table) -> bool:
    """Whether PostgreSQL prints what COPY takes in another spelling."""
    return any(column.kind is Kind.FLOAT for column in table.columns)


def blocks(rows: Iterable[tuple[Any, ...]], table: Table, *, bits: bool = False) -> Iterator[bytes]:
    """Lines as COPY takes them, some in a block; with `bits`, floats by their bits."""
    line = _line_maker(table, bits=bits)
    lines: list[bytes] = []
    size = 0
    for row in rows:
        # Each by itself: one letter beyond Latin would make a wide text of a whole block.
        text = line(*row).encode()
        lines.append(text)
        size += len(text)
        if size > BLOCK:
            yield b"".join(lines)
            lines.clear()
            size = 0
    if lines:
        yield b"".join(lines)


def _line_maker(table: Table, *, bits: bool) -> Callable[..., str]:
    """The function that makes a line of the values of a row.

    It is put together as one expression, as `dataclasses` does it: a loop over the columns took
    twice as long, and this is most of what a migration does.
    """
    names: dict[str, Any] = {"NULL": NULL}
    parts = []
    for number, column in enumerate(table.columns):
        value = f"v{number}"
        if column.kind is Kind.INTEGER:
            field = value
        elif column.kind is Kind.BOOLEAN:
            field = f"'t' if {value} else 'f'"
        else:
            names[f"f{number}"] = (
                float_bits if bits and column.kind is Kind.FLOAT else FIELD[column.kind]
            )
            field = f"f{number}({value})"
        parts.append(
            f"{{NULL if {value} is None else {field}}}" if column.nullable else f"{{{field}}}"
        )
    arguments = ", ".join(f"v{number}" for number in range(len(parts)))
    text = "\\t".join(parts)
    made: Callable[..., str] = eval(f'lambda {arguments}: f"{text}\\n"', names)  # noqa: S307
    return made


def digest(conn: sqlite3.Connection, chunk: Chunk) -> Digest:
    """The digest of the chunk's rows on SQLite."""
    conn.text_factory = str
    digester = Digester(chunk.table)
    for block in blocks(conn.execute(select(chunk)), chunk.table, bits=True):
        digester.add(block)
    return digester.digest
