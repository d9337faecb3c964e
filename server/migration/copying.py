"""Brings the tables of PostgreSQL's master to what the snapshot has, chunk by chunk."""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from server.migration import rows, target
from server.migration.compare import (
    Difference,
    Line,
    Plan,
    differing,
    key_places,
    plan,
    source_lines,
    target_lines,
)
from server.migration.rows import Chunk, Digest, Digester
from server.migration.tables import Table, quote
from server.migration.values import NULL

Progress = Callable[[str, int], None]

_ESCAPED = re.compile(r"\\(.)")
_UNESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "\\": "\\"}


@dataclass
class Work:
    """What is to be done with one table; `digests` are the source's of what is there by then."""

    table: Table
    bulk: list[Chunk] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    digests: dict[Chunk, Digest] = field(default_factory=dict)

    @property
    def strangers(self) -> list[Difference]:
        """Rows of the target that no copy of this source has put there."""
        return [stranger for found in self.plans for stranger in found.strangers]

    @property
    def idle(self) -> bool:
        """Whether the table is as it should be already."""
        return not (self.bulk or any(not found.empty for found in self.plans))


def survey(  # noqa: PLR0917
    table: Table,
    source: sqlite3.Connection,
    present: target.Connection,
    bases: list[sqlite3.Connection],
    finished: list[sqlite3.Connection],
    progress: Progress,
) -> Work:
    """Compare a table with the target's; chunks that aren't there yet are copied whole.

    `finished` are the bases that were there as a whole once.
    """
    work = Work(table)
    source.text_factory = str
    empty = target.is_empty(present, table)
    for chunk in rows.chunks(source, table):
        new = not any(rows.has_any(base, chunk) for base in finished)
        if empty and new:
            work.bulk.append(chunk)
            continue
        theirs = target.digest(present, chunk)
        if theirs.rows == 0 and new:
            work.bulk.append(chunk)
            continue
        ours = rows.digest(source, chunk)
        progress(table.name, ours.rows)
        if ours == theirs:
            work.digests[chunk] = ours
        else:
            work.plans += [
                plan(
                    part,
                    "master",
                    source_lines(source, part),
                    target_lines(present, part),
                    [source_lines(base, part) for base in bases],
                    [source_lines(base, part) for base in finished],
                )
                for part in differing(source, present, chunk, table)
            ]
    return work


def copy_chunk(
    chunk: Chunk,
    source: sqlite3.Connection,
    present: target.Connection,
    progress: Progress,
    there: Table | None = None,
) -> Digest:
    """Add the chunk's rows, all or none, to `there`; the digest is of what was read."""
    table = chunk.table
    digester = Digester(table)

    def taken() -> Iterator[bytes]:
        for block in rows.blocks(source.execute(rows.select(chunk)), table):
            digester.add(block)
            progress(table.name, block.count(b"\n"))
            yield block

    source.text_factory = str
    target.copy_in(present, there or table, taken())
    # Floats are copied in one spelling and compared in another.
    return rows.digest(source, chunk) if rows.has_floats(table) else digester.digest


def apply_plans(works: list[Work], present: target.Connection) -> None:
    """Change what an earlier copy had put there, in one transaction.

    Children go before their parents, new parents come before their children.
    """
    if not any(not found.empty for work in works for found in work.plans):
        return
    with transaction(present):
        for work in reversed(works):
            for found in work.plans:
                for line in found.delete:
                    _delete(present, work.table, line)
        for work in works:
            for found in work.plans:
                for line in found.update:
                    _update(present, work.table, line)
                lines = ("\t".join(line) + "\n" for line in found.insert)
                target.copy_in(present, work.table, (line.encode() for line in lines))


@contextmanager
def transaction(present: target.Connection) -> Iterator[None]:
    """All or nothing of what the block does."""
    present.autocommit = False
    try:
        yield
        with target.errors():
            present.commit()
    except BaseException:
        if not present.closed:
            present.rollback()
        raise
    finally:
        if not present.closed:
            present.autocommit = True


def _delete(present: target.Connection, table: Table, line: Line) -> None:
    condition, key = _found(table, line)
    target.execute(present, f"DELETE FROM {quote(table.name)} WHERE {condition}", key)


def _update(present: target.Connection, table: Table, line: Line) -> None:
    assignments = ", ".join(f"{quote(column.name)} = %s" for column in table.columns)
    condition, key = _found(table, line)
    target.execute(
        present,
        f"UPDATE {quote(table.name)} SET {assignments} WHERE {condition}",
        (*map(read_field, line), *key),
    )


def _found(table: Table, line: Line) -> tuple[str, tuple[str | None, ...]]:
    places = key_places(table)
    condition = " AND ".join(f"{quote(table.columns[place].name)} = %s" for place in places)
    return condition, tuple(read_field(line[place]) for place in places)


def read_field(field_text: str) -> str | None:
    """A field of a line as text, which PostgreSQL reads as the column's type."""
    if field_text == NULL:
        return None
    if "\\" not in field_text:
        return field_text
    return _ESCAPED.sub(lambda match: _UNESCAPED[match[1]], field_text)
