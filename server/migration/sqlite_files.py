"""The files of the way back: made beside their places, compared with what is there, renamed."""

import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from server.migration import source
from server.migration.compare import Difference
from server.migration.master import NOT_COPIED
from server.migration.snapshot import MASTER
from server.migration.tables import quote
from server.storage import contract

PART = ".part"
MOST_SHOWN = 20
# The state of a file that is there, against the one that was made.
ABSENT, EQUAL, EARLIER, STRANGE = "absent", "equal", "earlier", "strange"
_NAMES = r"SELECT name FROM {}.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' "

Fingerprint = dict[str, str]


@dataclass
class Made:
    """A file that was made, and where it belongs."""

    name: str
    part: Path
    final: Path
    fingerprint: Fingerprint = field(default_factory=dict)
    state: str = ABSENT
    differences: list[Difference] = field(default_factory=list)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the same files; ends with the process."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    handle = os.open(there, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise contract.Busy(f"another migration into {folder} is running") from error
        yield
    finally:
        os.close(handle)


def new_file(path: Path) -> None:
    """An empty file for nobody else's eyes, where an earlier run may have left a part."""
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def remove(path: Path) -> None:
    """Remove a database's files, the main one last: a stale log must not meet a new file."""
    for suffix in ("-journal", "-shm", "-wal", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextmanager
def filled(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to fill the file fast, within one transaction.

    Only when it has ended is the file on the disk; nobody looks at it before.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        for pragma in (
            "journal_mode = MEMORY",
            "synchronous = OFF",
            "foreign_keys = OFF",
            # Rows come first; what is promised of them is looked at when all are there.
            "ignore_check_constraints = ON",
        ):
            conn.execute(f"PRAGMA {pragma}")
        conn.execute("BEGIN")
        yield conn
        conn.execute("COMMIT")
    sync(path)


def sync(path: Path) -> None:
    """Wait until the file, or the folder's list of files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fingerprint(path: Path, name: str) -> Fingerprint:
    """What each table of the file holds: names of columns, and values with their types."""
    with source.opened(path, raw=True) as conn:
        return {table: _of_table(conn, table) for table in _tables(conn, "main", name)}


def _tables(conn: sqlite3.Connection, schema: str, name: str) -> list[str]:
    rows = conn.execute(_NAMES.format(schema) + "ESCAPE '\\' ORDER BY name").fetchall()
    names = (row[0].decode() if isinstance(row[0], bytearray) else row[0] for row in rows)
    return [table for table in names if name != MASTER or table not in NOT_COPIED]


def _of_table(conn: sqlite3.Connection, table: str) -> str:
    columns = _columns(conn, "main", table)
    listed = ", ".join(map(quote, columns))
    total = count = 0
    for row in conn.execute(f"SELECT {listed} FROM {quote(table)}"):
        count += 1
        total += int.from_bytes(hashlib.sha256(repr(row).encode()).digest())
    return f"{count} {total % 2**256:064x} {listed}"


def _columns(conn: sqlite3.Connection, schema: str, table: str) -> list[str]:
    """All but the hidden ones, in the order of their names."""
    found = conn.execute(f"PRAGMA {schema}.table_xinfo({quote(table)})").fetchall()
    names = (row[1].decode() if isinstance(row[1], bytearray) else row[1] for row in found)
    return sorted(name for name, row in zip(names, found, strict=True) if row[6] != 1)


def survey(made: Made, earlier: list[Fingerprint]) -> None:
    """Say what is in the file's place; `earlier` is what runs before have put there."""
    made.fingerprint = fingerprint(made.part, made.name)
    wal = made.final.with_name(f"{made.final.name}-wal")
    if not os.path.lexists(made.final):
        if wal.exists() and wal.stat().st_size:
            made.state = STRANGE
            made.differences = [_whole(made, f"{wal.name} is there without its file")]
        return
    try:
        present = fingerprint(made.final, made.name)
        lower = sequences_below(made)
    except (sqlite3.Error, OSError) as error:
        made.state = STRANGE
        made.differences = [_whole(made, f"{made.final.name} can't be read: {error}")]
        return
    if present == made.fingerprint and not lower:
        made.state = EQUAL
    elif present in earlier:
        made.state = EARLIER
    else:
        made.state = STRANGE
    if made.state != EQUAL:
        made.differences = lower + [
            difference
            for table in sorted({*present, *made.fingerprint})
            if present.get(table) != made.fingerprint.get(table)
            for difference in _differences(made, table)
        ]


def _whole(made: Made, what: str) -> Difference:
    return Difference(made.name, "", what, "", None, "row")


def sequences_below(made: Made) -> list[Difference]:
    """Tables whose next id, in the file that is there, was given away already."""
    ours, theirs = _highest(made.part), _highest(made.final)
    return [
        Difference(made.name, table, "the highest id given away", "", str(highest), str(other))
        for table, highest in ours.items()
        if (other := theirs.get(table, 0)) < highest
    ]


def _highest(path: Path) -> dict[str, int]:
    """By table, for those that have rows or had some."""
    with source.opened(path) as conn:
        try:
            found = dict(conn.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
        except sqlite3.OperationalError:
            found = {}
        for (table,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            key = [row for row in conn.execute(f"PRAGMA table_info({quote(table)})") if row[5]]
            if len(key) == 1 and key[0][2].upper() == "INTEGER":
                sql = f"SELECT max({quote(key[0][1])}) FROM {quote(table)}"
                found[table] = max(found.get(table) or 0, conn.execute(sql).fetchone()[0] or 0)
    return found


def _differences(made: Made, table: str) -> Iterator[Difference]:
    """The first rows of a table that aren't in both files."""
    with source.opened(made.final) as conn:
        conn.text_factory = lambda raw: raw.decode("utf-8", "replace")
        conn.execute("ATTACH ? AS made", (f"{made.part.resolve().as_uri()}?mode=ro",))
        sides = {schema: _columns(conn, schema, table) for schema in ("made", "main")}
        if sides["made"] != sides["main"]:
            place = "the whole table" if not all(sides.values()) else "its columns"
            known = (", ".join(sides[schema]) or None for schema in ("made", "main"))
            yield Difference(made.name, table, place, "", *known)
            return
        columns = sides["main"]
        key = _key(conn, table) or columns
        ours, theirs = (
            {tuple(row[columns.index(name)] for name in key): row for row in rows}
            for rows in (_beyond(conn, "made", "main", table), _beyond(conn, "main", "made", table))
        )
    for found in list(dict.fromkeys([*ours, *theirs]))[:MOST_SHOWN]:
        shown = ", ".join(f"{name} {value}" for name, value in zip(key, found, strict=True))
        column, one, other = _first_difference(columns, ours.get(found), theirs.get(found))
        yield Difference(made.name, table, shown, column, one, other)
    if not ours and not theirs:
        yield Difference(made.name, table, "rows", "", "values of other types", "others")


def _key(conn: sqlite3.Connection, table: str) -> list[str]:
    info = conn.execute(f"PRAGMA table_info({quote(table)})").fetchall()
    return [row[1] for row in sorted(info, key=lambda row: int(row[5])) if row[5]]


def _beyond(conn: sqlite3.Connection, one: str, other: str, table: str) -> list[tuple[object, ...]]:
    """Rows of one file that the other hasn't."""
    columns = ", ".join(map(quote, _columns(conn, one, table)))
    sql = " EXCEPT ".join(
        f"SELECT {columns} FROM {schema}.{quote(table)}" for schema in (one, other)
    )
    return conn.execute(f"{sql} LIMIT {MOST_SHOWN}").fetchall()


def _first_difference(
    columns: list[str], ours: tuple[object, ...] | None, theirs: tuple[object, ...] | None
) -> tuple[str, str | None, str | None]:
    """The column, and what either side has in it; a row that is missing is None."""
    if ours is None or theirs is None:
        return "", "row" if ours else None, "row" if theirs else None
    return next(
        (column, f"{one!s:.60}", f"{other!s:.60}")
        for column, one, other in zip(columns, ours, theirs, strict=True)
        if one != other
    )


def check_unused(path: Path) -> None:
    """Raise `Busy` while anybody has the file open; its log is in it afterwards."""
    uri = f"{path.resolve().as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as conn:
        try:
            conn.execute("PRAGMA locking_mode = EXCLUSIVE")
            conn.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise contract.Busy(f"{path} is in use: stop the service first") from error


def place(made: Made, backup: Path) -> None:
    """Give the file its name; what an earlier run had put there is kept as a backup."""
    if made.final.exists():
        source.back_up(made.final, backup / f"{made.name}.sqlite3", lambda done, total: None)
        remove_log(made.final)
    made.part.replace(made.final)
    sync(made.final.parent)


def retire(path: Path, backup: Path) -> None:
    """Move away an earlier copy of what the source no longer has."""
    source.back_up(path, backup / path.name, lambda done, total: None)
    remove(path)


def remove_log(path: Path) -> None:
    """Remove the logs of a file that goes; nobody has it open."""
    for suffix in ("-journal", "-shm", "-wal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def others(folder: Path, names: set[str]) -> list[Path]:
    """The projects' files that are there and belong to none of these databases."""
    found = sorted(folder.glob("*.sqlite3")) if folder.is_dir() else []
    return [path for path in found if path.stem not in names and not path.name.startswith(".")]


def is_earlier(path: Path, earlier: list[Fingerprint]) -> bool:
    """Whether the file is as a run before has put it there."""
    try:
        return fingerprint(path, path.stem) in earlier
    except sqlite3.Error:
        return False


def stranger(path: Path) -> Difference:
    """A file that belongs to no project."""
    return Difference(path.stem, "", f"the file {path.name}", "", None, "row")


def remove_parts(master: Path, folder: Path) -> None:
    """Remove what runs that were killed, and this one, have left unfinished."""
    remove(master.with_name(master.name + PART))
    for path in folder.glob(f"*.sqlite3{PART}") if folder.is_dir() else []:
        remove(path)
