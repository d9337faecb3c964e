"""The SQLite side: a snapshot of a database, and whether it has changed since."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

from server.migration.tables import Table, quote

PAGES = 4096  # copied at a time; between two, whoever writes may go on


@contextmanager
def opened(path: Path, *, raw: bool = False) -> Iterator[sqlite3.Connection]:
    """The database for reading only; `raw` gives text as the bytes that stand in the file."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as conn:
        if raw:
            # Blobs come as `bytes`, so text must come as something else.
            conn.text_factory = bytearray
        yield conn


def back_up(source: Path, copy: Path, progress: Callable[[int, int], None]) -> None:
    """Copy the database as it is at one moment, while others go on writing to it.

    SQLite's backup begins anew when another process writes in between; a read transaction held
    meanwhile keeps its pages where they are.
    """
    part = copy.with_name(f"{copy.name}.part")
    part.unlink(missing_ok=True)
    with opened(source) as conn, closing(sqlite3.connect(part)) as target:
        conn.execute("BEGIN")
        conn.execute("SELECT count(*) FROM sqlite_master").fetchall()
        conn.backup(
            target, pages=PAGES, progress=lambda _, left, total: progress(total - left, total)
        )
        target.execute("PRAGMA journal_mode = DELETE")
    part.chmod(0o600)
    part.replace(copy)


def marks(path: Path) -> list[list[int]]:
    """What changes when somebody writes: time and size of the file and of its log."""
    found = []
    for file in (path, path.with_name(f"{path.name}-wal")):
        try:
            stat = file.stat()
        except FileNotFoundError:
            found.append([0, 0])
        else:
            # An empty log says the same as none.
            found.append([stat.st_mtime_ns, stat.st_size] if stat.st_size else [0, 0])
    return found


def find_changes(source: Path, copy: Path, tables: list[Table]) -> dict[str, str]:
    """The tables whose rows are no longer those of the copy, each with the first such row."""
    changes = {}
    with opened(source, raw=True) as now, opened(copy, raw=True) as then:
        now.execute("BEGIN")
        for table in tables:
            pairs = zip_longest(_rows(now, table), _rows(then, table))
            for new, old in pairs:
                if new != old:
                    changes[table.name] = key_text(table, old or new or ())
                    break
    return changes


def _rows(conn: sqlite3.Connection, table: Table) -> sqlite3.Cursor:
    """Whole rows, the key first, in the order of the key."""
    names = [*table.key, *(c.name for c in table.columns if c.name not in table.key)]
    order = ", ".join(map(quote, table.key or [column.name for column in table.columns]))
    columns = ", ".join(map(quote, names))
    return conn.execute(f"SELECT {columns} FROM {quote(table.name)} ORDER BY {order}")


def key_text(table: Table, row: tuple[Any, ...]) -> str:
    """A row's key for people: `id 7`; the row begins with it."""
    names = table.key or tuple(column.name for column in table.columns)
    values = (
        value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else value
        for value in row
    )
    return ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=False))


def highest_ids(conn: sqlite3.Connection, tables: list[Table]) -> dict[str, int]:
    """The highest id that each numbered table ever gave away, also to rows that are gone."""
    highest = {}
    remembered = {}
    if conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchone():
        remembered = dict(conn.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
    for table in tables:
        if table.numbered:
            row = conn.execute(
                f"SELECT max({quote(table.key[0])}) FROM {quote(table.name)}"
            ).fetchone()
            highest[table.name] = max(row[0] or 0, remembered.get(table.name) or 0)
    return highest
