"""Two databases side by side: which rows are equal, missing, different, or nobody's."""

import io
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from server.migration import rows, target
from server.migration.rows import Chunk, Digest
from server.migration.tables import ForeignKey, Table, quote

Line = list[str]


@dataclass(frozen=True)
class Difference:
    """A row that isn't the same on both sides, or is on one side only."""

    database: str
    table: str
    row: str
    column: str
    source: str | None
    target: str | None

    def __str__(self) -> str:
        place = f"{self.database}: table {self.table}, {self.row}"
        if self.source is None:
            return f"{place} is in the target only"
        if self.target is None:
            return f"{place} is in the source only"
        return f"{place}, column {self.column}: source {self.source}, target {self.target}"


@dataclass
class Plan:
    """What makes the target's part of a chunk equal to the source's.

    `bases` are what the target's rows may be without being anybody's: what an earlier copy, or
    the schema itself, has put there. Every other row that differs is a stranger's; and a row of
    `finished` that isn't there any more was deleted by one.
    """

    insert: list[Line] = field(default_factory=list)
    update: list[Line] = field(default_factory=list)
    delete: list[Line] = field(default_factory=list)
    strangers: list[Difference] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether nothing needs to be done, or may be."""
        return not (self.insert or self.update or self.delete or self.strangers)


def source_lines(conn: sqlite3.Connection, chunk: Chunk) -> Iterator[Line]:
    """The chunk's rows on SQLite, each as its fields."""
    conn.text_factory = str
    for block in rows.blocks(conn.execute(rows.select(chunk)), chunk.table, bits=True):
        yield from _split(block)


def target_lines(conn: target.Connection, chunk: Chunk) -> Iterator[Line]:
    """The chunk's rows on PostgreSQL, each as its fields."""
    file = io.BytesIO()
    target.copy_out(conn, target.select(chunk), file)
    file.seek(0)
    for line in file:
        yield line.decode().rstrip("\n").split("\t")


def _split(block: bytes) -> Iterator[Line]:
    for line in block.decode().split("\n")[:-1]:
        yield line.split("\t")


def plan(  # noqa: PLR0917
    chunk: Chunk,
    database: str,
    source: Iterator[Line],
    present: Iterator[Line],
    bases: list[Iterator[Line]],
    finished: list[Iterator[Line]],
) -> Plan:
    """Compare them row by row, found by their key."""
    table, found = chunk.table, Plan()
    wanted, ours = _by_key(table, source), [_by_key(table, base) for base in bases]
    for key, line in _by_key(table, present).items():
        want = wanted.pop(key, None)
        if want == line:
            continue
        if any(base.get(key) == line for base in ours):
            (found.delete if want is None else found.update).append(line if want is None else want)
        else:
            found.strangers.append(difference(table, database, want, line))
    for base in finished:
        for key in wanted.keys() & _by_key(table, base).keys():
            found.strangers.append(difference(table, database, wanted.pop(key), None))
    found.insert = list(wanted.values())
    return found


def _by_key(table: Table, lines: Iterator[Line]) -> dict[tuple[str, ...], Line]:
    places = key_places(table)
    return {tuple(line[place] for place in places): line for line in lines}


def key_places(table: Table) -> list[int]:
    """Where the key's columns are in a line; without a key, all."""
    names = [column.name for column in table.columns]
    return [names.index(name) for name in table.key or names]


def difference(
    table: Table, database: str, source: Line | None, present: Line | None
) -> Difference:
    """What two rows of one key differ in first."""
    row = source or present or []
    key = ", ".join(f"{table.columns[i].name} {row[i]}" for i in key_places(table))
    if source is None or present is None:
        return Difference(database, table.name, key, "", _some(source), _some(present))
    for column, ours, theirs in zip(table.columns, source, present, strict=True):
        if ours != theirs:
            return Difference(
                database, table.name, key, column.name, _shown(ours, theirs), _shown(theirs, ours)
            )
    raise ValueError("the rows are equal")


def _some(line: Line | None) -> str | None:
    return None if line is None else "row"


def _shown(text: str, other: str) -> str:
    """As much of a value as shows where it differs."""
    start = next(
        (i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b),
        min(len(text), len(other)),
    )
    begin = max(start - 20, 0)
    piece = text[begin : begin + 60]
    return f"{'…' if begin else ''}{piece}{'…' if begin + 60 < len(text) else ''}"


def differing(
    source: sqlite3.Connection, present: target.Connection, chunk: Chunk, there: Table
) -> Iterator[Chunk]:
    """The parts of a chunk that aren't the same on both sides: all of it may be gigabytes."""
    for part in rows.divide(source, chunk, rows.PART):
        if rows.digest(source, part) != target.digest(present, replace(part, table=there)):
            yield part


def differences(
    database: str,
    source: sqlite3.Connection,
    present: target.Connection,
    chunk: Chunk,
    there: Table,
) -> list[Difference]:
    """The rows of a chunk that aren't the same on both sides."""
    table = chunk.table
    found = []
    for part in differing(source, present, chunk, there):
        wanted = _by_key(table, source_lines(source, part))
        lines = target_lines(present, replace(part, table=there))
        for key, line in _by_key(table, lines).items():
            want = wanted.pop(key, None)
            if want != line:
                found.append(difference(table, database, want, line))
        found += [difference(table, database, line, None) for line in wanted.values()]
    return found or [
        Difference(database, table.name, "rows without a key", "", "other rows", "other rows")
    ]


@dataclass
class TableResult:
    """What comparing a table found."""

    database: str
    table: str
    rows: int
    target_rows: int
    digests: list[tuple[Digest, Digest]] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether both sides are the same."""
        return not (self.differences or self.problems)


MOST_SHOWN = 20


def compare_table(  # noqa: PLR0917
    database: str,
    source: sqlite3.Connection,
    present: target.Connection,
    table: Table,
    known: dict[Chunk, Digest],
    there: Table | None = None,
) -> TableResult:
    """Compare digests chunk by chunk; `known` are the source's where they were taken already.

    `there` is the table as PostgreSQL has it, where its names are others.
    """
    result = TableResult(database, table.name, 0, 0)
    for chunk in known or dict.fromkeys(rows.chunks(source, table)):
        ours = known.get(chunk) or rows.digest(source, chunk)
        theirs = target.digest(present, replace(chunk, table=there or table))
        result.rows += ours.rows
        result.target_rows += theirs.rows
        result.digests.append((ours, theirs))
        if ours != theirs and len(result.differences) < MOST_SHOWN:
            result.differences += differences(database, source, present, chunk, there or table)
    return result


def orphans(present: target.Connection, table: Table) -> list[str]:
    """Foreign keys on PostgreSQL that aren't kept, or aren't there."""
    problems = []
    for key in table.foreign_keys:
        same = " AND ".join(
            f"parent.{quote(to)} = child.{quote(name)}"
            for name, to in zip(key.columns, key.references, strict=True)
        )
        given = " AND ".join(f"child.{quote(name)} IS NOT NULL" for name in key.columns)
        count = target.value(
            present,
            f"SELECT count(*) FROM {quote(table.name)} AS child WHERE {given} AND NOT EXISTS "
            f"(SELECT FROM {quote(key.table)} AS parent WHERE {same})",
        )
        if count:
            problems.append(f"{count} rows name a {key.table} that isn't there")
    return problems


def missing_keys(present: target.Connection, table: Table) -> list[ForeignKey]:
    """Foreign keys that the target should have and hasn't, or that aren't validated."""
    there: list[Any] = target.rows(
        present,
        "SELECT (SELECT array_agg(attname::text ORDER BY ord) FROM unnest(conkey) WITH ORDINALITY "
        "AS k (num, ord) JOIN pg_attribute ON attrelid = conrelid AND attnum = num) "
        "FROM pg_constraint WHERE contype = 'f' AND convalidated AND conrelid = to_regclass(%s)",
        (quote(table.name),),
    )
    columns = {tuple(row[0]) for row in there}
    return [key for key in table.foreign_keys if key.columns not in columns]
