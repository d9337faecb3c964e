"""Rows from PostgreSQL into an SQLite file: COPY's lines as SQLite's values."""

import io
import sqlite3
import struct
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from typing import Any

from server.migration import rows, target
from server.migration.copying import Progress, read_field
from server.migration.postgres_schema import Pair
from server.migration.rows import CHUNK, Chunk, Digest, Digester
from server.migration.tables import Kind, Table, quote
from server.migration.values import LARGEST, NULL, read_time

Taken = dict[Chunk, Digest]
# What was taken of a database, by the tables' names on SQLite.
Found = dict[str, Taken]


def _float(field: str) -> float:
    value: float = struct.unpack(">d", bytes.fromhex(field))[0]
    return value


def _numeric(field: str) -> int | float | str:
    """A number where SQLite holds it exactly, else its digits."""
    exact = Decimal(field)
    if exact == exact.to_integral_value() and abs(exact) <= LARGEST:
        return int(exact)
    near = float(exact)
    return near if Decimal(repr(near)) == exact else field


_VALUE: dict[Kind, Callable[[str], Any]] = {
    Kind.INTEGER: int,
    Kind.BOOLEAN: "t".__eq__,
    Kind.FLOAT: _float,
    Kind.NUMERIC: _numeric,
    Kind.TEXT: read_field,
    Kind.JSON: read_field,
    Kind.TIME: read_time,
    Kind.BYTES: lambda field: bytes.fromhex(field.removeprefix("\\\\x")),
}


class _Rows(io.RawIOBase):
    """The file that COPY writes: takes the digest of the lines, and stores their values."""

    def __init__(self, conn: sqlite3.Connection, pair: Pair, progress: Progress) -> None:
        self.digester = Digester(pair.there)
        self._conn, self._name, self._progress = conn, pair.table.name, progress
        self._parts: list[bytes] = []
        self._size = 0
        self._fields = [
            (number, _VALUE[column.kind])
            for number, column in enumerate(pair.table.columns)
            if column.name not in pair.computed
        ]
        names = [quote(pair.table.columns[number].name) for number, _ in self._fields]
        places = ", ".join("?" * len(names))
        self._insert = f"INSERT INTO {quote(self._name)} ({', '.join(names)}) VALUES ({places})"

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Take a row, as which the driver brings them, or any part of the lines."""
        self._parts.append(bytes(data))
        self._size += len(data)
        if self._size > target.BLOCK:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Store the whole lines that have come."""
        whole, newline, rest = b"".join(self._parts).rpartition(b"\n")
        self._parts, self._size = [rest], len(rest)
        if newline:
            self.digester.add(whole + newline)
            lines = whole.decode().split("\n")
            self._conn.executemany(self._insert, map(self._values, lines))
            self._progress(self._name, len(lines))

    def _values(self, line: str) -> tuple[Any, ...]:
        fields = line.split("\t")
        return tuple(
            None if (field := fields[number]) == NULL else read(field)
            for number, read in self._fields
        )


def copy_table(
    pair: Pair, present: target.Connection, conn: sqlite3.Connection, progress: Progress
) -> Taken:
    """Add all rows; the digests are of what PostgreSQL said, chunk by chunk."""
    taken = {}
    for chunk in chunks(present, pair.there):
        file = _Rows(conn, pair, progress)
        target.copy_out(present, target.select(chunk), file)
        file.flush()
        taken[chunk] = file.digester.digest
    return taken


def chunks(present: target.Connection, there: Table) -> list[Chunk]:
    """The table in pieces, as `rows.chunks` divides it on SQLite."""
    if not there.numbered:
        return [Chunk(there)]
    key = quote(there.key[0])
    found = target.rows(
        present,
        f"SELECT id FROM (SELECT {key} AS id, row_number() OVER (ORDER BY {key}) AS number "
        f"FROM {there.relation or quote(there.name)}) AS numbered WHERE number % {CHUNK} = 0",
    )
    ends = [None, *(row[0] for row in found), None]
    return [Chunk(there, after, last) for after, last in pairwise(ends)]


def on_sqlite(chunk: Chunk, pair: Pair) -> Chunk:
    """The same rows on SQLite."""
    return replace(chunk, table=pair.table)


def different(pair: Pair, conn: sqlite3.Connection, taken: Taken) -> list[Chunk]:
    """The chunks that SQLite doesn't have as PostgreSQL had them."""
    conn.text_factory = str
    return [
        chunk
        for chunk, digest in taken.items()
        if rows.digest(conn, on_sqlite(chunk, pair)) != digest
    ]


def highest_id(present: target.Connection, sequence: str) -> int:
    """The highest id that the sequence has given away."""
    sql = f"SELECT last_value - (NOT is_called)::int FROM {sequence}"
    return int(target.value(present, sql))


def set_highest(conn: sqlite3.Connection, table: Table, highest: int) -> None:
    """Let new ids begin above the highest that was ever given away."""
    changed = conn.execute(
        "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (highest, table.name)
    )
    if not changed.rowcount and highest > 0:
        conn.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table.name, highest))
