"""What in an SQLite database has no counterpart on PostgreSQL, found before anything is written.

`examine` only reads. `settle` changes a copy of the snapshot as the options say, after which
every value in it is canonical; what it takes out is kept beside the report.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import tzinfo
from functools import partial
from pathlib import Path
from typing import Any

from server.migration import source
from server.migration.promises import unkept
from server.migration.source import key_text
from server.migration.tables import Column, Kind, Table, quote
from server.migration.values import CANONICAL_SQL, NUL, QUARANTINE, UTF8, Misfit, canonical

ORPHANS = "--orphans=quarantine"
ROW_NAMES = ("rowid", "_rowid_", "oid")
SEARCHES = 2  # at once

Search = Callable[[sqlite3.Connection, str, list[Table]], Iterator[tuple["Finding", "Suspect"]]]


@dataclass(frozen=True)
class Options:
    """How findings are to be settled; without a word each is refused."""

    zone: tzinfo | None = None
    nul: str = "fail"
    invalid_utf8: str = "fail"
    misfits: str = "fail"
    orphans: str = "fail"
    duplicate_emails: str = "fail"
    unknown: str = "fail"
    missing_databases: str = "fail"


@dataclass(frozen=True)
class Finding:
    """A place without a counterpart; `option` settles it, empty where only a person can."""

    database: str
    table: str
    row: str
    column: str
    problem: str
    option: str


@dataclass
class Settled:
    """What was changed on the copy: each change that an option asked for, and spellings.

    The findings are what these changes brought about, and no option allows.
    """

    changes: list[Finding] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    respelt: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Suspect:
    """A row that may hold something odd: what finds it again, and all its values."""

    table: Table
    place: tuple[Any, ...]
    values: tuple[Any, ...]

    @property
    def key(self) -> str:
        """The row's key for people, or its number where it has none."""
        names = [column.name for column in self.table.columns]
        values = dict(zip(names, self.values, strict=True))
        if not self.table.key:
            return f"row {self.place[0]}"
        return key_text(self.table, tuple(values[name] for name in self.table.key))


@dataclass
class Census:
    """What a database has that isn't settled, and whether all of it is canonical as it is."""

    findings: list[Finding] = field(default_factory=list)
    clean: bool = True

    def add(self, found: "Census") -> None:
        """Take in what another search has found."""
        self.findings += found.findings
        self.clean = self.clean and found.clean


def examine(
    path: Path, database: str, read_tables: Callable[[], list[Table]], options: Options
) -> Census:
    """Look at every value; what is found comes in the order of the tables.

    The searches share nothing, and SQLite lets go of the interpreter while it reads: two at once
    take little more than half the time.
    """

    def search(look: Callable[[sqlite3.Connection], Census]) -> Census:
        with source.opened(path) as conn:
            return look(conn)

    census = Census()
    with ThreadPoolExecutor(max_workers=SEARCHES) as pool:
        damage = pool.submit(search, partial(_look_for_damage, database=database))
        try:
            looks = _searches(database, read_tables(), options)
            for found in [pool.submit(search, look) for look in looks]:
                census.add(found.result())
        except sqlite3.DatabaseError:
            if damage.result().clean:
                raise
        # What a search says of a damaged file means nothing.
        return census if damage.result().clean else damage.result()


def _look_for_damage(conn: sqlite3.Connection, database: str) -> Census:
    damage = conn.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage == "ok":
        return Census()
    return Census(
        [Finding(database, "", "", "", f"the file is damaged: {damage}", "")], clean=False
    )


def _searches(
    database: str, tables: list[Table], options: Options
) -> Iterator[Callable[[sqlite3.Connection], Census]]:
    for table in tables:
        yield partial(_look_for_misfits, database=database, table=table, options=options)
    for search, option in (
        (orphans, options.orphans),
        (duplicate_emails, options.duplicate_emails),
        (unkept_promises, options.misfits),
    ):
        yield partial(_look, search=search, database=database, tables=tables, option=option)


def _look_for_misfits(
    conn: sqlite3.Connection, database: str, table: Table, options: Options
) -> Census:
    census = Census()
    for suspect in suspects(conn, table):
        census.clean = False
        for column, value in zip(table.columns, suspect.values, strict=True):
            census.findings += [
                _finding(database, suspect, column, misfit)
                for misfit in _misfits(column, value, options)
                if not _quarantines(misfit, options)
            ]
    return census


def _look(
    conn: sqlite3.Connection, search: Search, database: str, tables: list[Table], option: str
) -> Census:
    found = [finding for finding, _ in search(conn, database, tables)]
    return Census(found if option == "fail" else [], clean=not found)


def _finding(database: str, suspect: Suspect, column: Column, misfit: Misfit) -> Finding:
    return Finding(
        database, suspect.table.name, suspect.key, column.name, misfit.reason, misfit.option
    )


def _quarantines(misfit: Misfit, options: Options) -> bool:
    return misfit.option == QUARANTINE and options.misfits == "quarantine"


def _misfits(column: Column, value: object, options: Options) -> Iterator[Misfit]:
    """Why the value can't stay; a text may be odd in two ways at once."""
    try:
        _settled_value(column, value, options)
    except Misfit as misfit:
        yield misfit
        if misfit.option == UTF8 and options.nul == "fail" and b"\0" in bytes_of(value):
            yield Misfit("has a NUL, which PostgreSQL can't store", NUL)


def bytes_of(value: object) -> bytes:
    """A text's bytes."""
    return bytes(value) if isinstance(value, bytearray) else b""


def _settled_value(column: Column, value: object, options: Options) -> object:
    """The canonical value, after what the options allow to replace; raises `Misfit`."""
    if value is None and not column.nullable:
        raise Misfit("is NULL, which the column doesn't allow", QUARANTINE)
    if isinstance(value, bytearray) and column.kind is Kind.TEXT:
        if options.invalid_utf8 == "replace":
            value = bytearray(value.decode("utf-8", "replace").encode())
        if options.nul == "replace":
            value = bytearray(value.replace(b"\0", "\ufffd".encode()))
    return canonical(value, column.kind, options.zone)


def suspects(conn: sqlite3.Connection, table: Table) -> Iterator[Suspect]:
    """The rows that aren't surely canonical; all of them where a text is not UTF-8."""
    place = row_place(conn, table)
    width = len(place)
    columns = [*place, *(quote(column.name) for column in table.columns)]
    sure = " AND ".join(
        f"({quote(column.name)} IS NULL OR {condition})" if column.nullable else f"({condition})"
        for column in table.columns
        for condition in [CANONICAL_SQL[column.kind].format(quote(column.name))]
    )
    odd = "" if _has_bad_text(conn, table) else f" WHERE NOT ({sure})"
    conn.text_factory = bytearray
    # Row by row by Python: what is asked for meanwhile may change the connection's factory.
    for row in conn.execute(f"SELECT {', '.join(columns)} FROM {quote(table.name)}{odd}"):
        yield Suspect(table, row[:width], row[width:])


def row_place(conn: sqlite3.Connection, table: Table) -> list[str]:
    """The columns that find a row again: its number, or the key where rows have no number."""
    names = {column.name.lower() for column in table.columns}
    for name in ROW_NAMES:
        if name not in names:
            try:
                conn.execute(f"SELECT {name} FROM {quote(table.name)} LIMIT 0")
            except sqlite3.OperationalError:
                break
            return [name]
    return [quote(name) for name in table.key]


def _has_bad_text(conn: sqlite3.Connection, table: Table) -> bool:
    columns = [
        quote(column.name)
        for column in table.columns
        if column.kind not in (Kind.INTEGER, Kind.BOOLEAN, Kind.BYTES, Kind.FLOAT)
    ]
    if not columns:
        return False
    conn.text_factory = str
    try:
        for _ in conn.execute(f"SELECT {', '.join(columns)} FROM {quote(table.name)}"):
            pass
    except sqlite3.OperationalError as error:
        if "UTF-8" not in str(error):
            raise
        return True
    return False


def orphans(
    conn: sqlite3.Connection, database: str, tables: list[Table]
) -> Iterator[tuple[Finding, Suspect]]:
    """The rows that name a row which isn't there."""
    conn.text_factory = bytearray
    for table in tables:
        for key in table.foreign_keys:
            names = [column.name for column in table.columns]
            place = row_place(conn, table)
            columns = [*(f"child.{name}" for name in place)]
            columns += [f"child.{quote(name)}" for name in names]
            same = " AND ".join(
                f"parent.{quote(to)} = child.{quote(name)}"
                for name, to in zip(key.columns, key.references, strict=True)
            )
            given = " AND ".join(f"child.{quote(name)} IS NOT NULL" for name in key.columns)
            for row in conn.execute(
                f"SELECT {', '.join(columns)} FROM {quote(table.name)} AS child WHERE {given} "
                f"AND NOT EXISTS (SELECT 1 FROM {quote(key.table)} AS parent WHERE {same})"
            ).fetchall():
                suspect = Suspect(table, row[: len(place)], row[len(place) :])
                values = dict(zip(names, suspect.values, strict=True))
                wanted = ", ".join(_shown(values[name]) for name in key.columns)
                column = ", ".join(key.columns)
                problem = f"names {key.table} {wanted}, which isn't there"
                yield (
                    Finding(database, table.name, suspect.key, column, problem, ORPHANS),
                    suspect,
                )


def _lowered(letter: str) -> str:
    """PostgreSQL lowers letter by letter, whatever their neighbours."""
    lower = letter.lower()
    return lower if len(lower) == 1 else letter


def _shown(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)


def duplicate_emails(
    conn: sqlite3.Connection, database: str, tables: list[Table]
) -> Iterator[tuple[Finding, Suspect]]:
    """Users whose e-mails PostgreSQL takes for the same: it lowers all letters, SQLite's ASCII."""
    users = next((table for table in tables if table.name == "users"), None)
    if database != "master" or users is None:
        return
    conn.text_factory = bytearray
    seen: dict[str, object] = {}
    columns = ", ".join(quote(column.name) for column in users.columns)
    for number, *row in conn.execute(f"SELECT rowid, {columns} FROM users ORDER BY id"):
        suspect = Suspect(users, (number,), tuple(row))
        values = dict(zip((column.name for column in users.columns), row, strict=True))
        email = "".join(map(_lowered, _shown(values["email"])))
        if email in seen:
            problem = f"is the e-mail of user {seen[email]} but for its case"
            option = "--duplicate-emails=quarantine"
            yield Finding(database, "users", suspect.key, "email", problem, option), suspect
        else:
            seen[email] = values["id"]


def unkept_promises(
    conn: sqlite3.Connection, database: str, tables: list[Table]
) -> Iterator[tuple[Finding, Suspect]]:
    """The master's rows that break its own constraints, or are too long for its indexes."""
    if database != "master":
        return
    by_name = {table.name: table for table in tables}
    for promise in list(unkept(conn)):
        table = by_name[promise.table]
        names = ", ".join(quote(column.name) for column in table.columns)
        conn.text_factory = bytearray
        for number, *row in conn.execute(
            f"SELECT rowid, {names} FROM {quote(table.name)} WHERE {promise.broken}"
        ).fetchall():
            suspect = Suspect(table, (number,), tuple(row))
            where, problem = ", ".join(promise.columns), promise.problem
            finding = Finding(database, table.name, suspect.key, where, problem, QUARANTINE)
            yield finding, suspect


class Settling:
    """Changes a copy of the snapshot as the options say."""

    def __init__(
        self,
        conn: sqlite3.Connection,
        database: str,
        tables: list[Table],
        options: Options,
        quarantine: Path,
    ) -> None:
        self._conn = conn
        self._database = database
        self._tables = tables
        self._options = options
        self._quarantine = quarantine
        self.settled = Settled()

    def run(self, snapshot: sqlite3.Connection) -> Settled:
        """Settle everything; the snapshot is what is read, the copy what is changed."""
        # Triggers and cascades would change what nobody has asked for.
        self._conn.execute("PRAGMA foreign_keys = OFF")
        self._conn.execute("PRAGMA recursive_triggers = OFF")
        self._conn.execute("PRAGMA ignore_check_constraints = ON")
        _drop_triggers(self._conn)
        with self._conn:
            for table in self._tables:
                for suspect in suspects(snapshot, table):
                    self._settle(suspect)
            for search, option in (
                (duplicate_emails, self._options.duplicate_emails),
                (unkept_promises, self._options.misfits),
            ):
                found = list(search(self._conn, self._database, self._tables))
                if option == "fail":
                    self.settled.findings += [finding for finding, _ in found]
                else:
                    for finding, suspect in found:
                        self._take_out(suspect, finding)
            self._settle_orphans()
        return self.settled

    def _settle_orphans(self) -> None:
        """What is taken out leaves orphans of its own."""
        while left := list(orphans(self._conn, self._database, self._tables)):
            if self._options.orphans == "fail":
                self.settled.findings += [finding for finding, _ in left]
                return
            for finding, suspect in left:
                self._settle_orphan(finding, suspect)

    def _settle(self, suspect: Suspect) -> None:
        new = {}
        for column, value in zip(suspect.table.columns, suspect.values, strict=True):
            try:
                settled = _settled_value(column, value, self._options)
            except Misfit as misfit:
                self._take_out(suspect, _finding(self._database, suspect, column, misfit))
                return
            if _differs(settled, value):
                new[column.name] = settled
                self._note(suspect, column, value)
        if new:
            try:
                self._update(suspect, new)
            except sqlite3.IntegrityError:
                self._settle_collision(suspect, new)

    def _settle_collision(self, suspect: Suspect, new: dict[str, object]) -> None:
        """Two rows that were different, and are the same once they are spelt in one way."""
        finding = Finding(
            self._database,
            suspect.table.name,
            suspect.key,
            ", ".join(new),
            "would be that of another row, too, once it is settled",
            QUARANTINE,
        )
        if self._options.misfits == "fail":
            self.settled.findings.append(finding)
        else:
            self._take_out(suspect, finding)

    def _note(self, suspect: Suspect, column: Column, value: object) -> None:
        """An option's change is reported with its place, another spelling of the same counted."""
        try:
            canonical(value, column.kind, None)
        except Misfit as misfit:
            self.settled.changes.append(_finding(self._database, suspect, column, misfit))
        else:
            self.settled.respelt[f"{self._database}.{suspect.table.name}.{column.name}"] += 1

    def _settle_orphan(self, finding: Finding, suspect: Suspect) -> None:
        columns = [suspect.table.column(name) for name in finding.column.split(", ")]
        if self._options.orphans == "null" and all(column.nullable for column in columns):
            self.settled.changes.append(finding)
            self._update(suspect, {column.name: None for column in columns})
        else:
            self._take_out(suspect, finding)

    def _update(self, suspect: Suspect, new: dict[str, object]) -> None:
        assignments = ", ".join(f"{quote(name)} = ?" for name in new)
        self._conn.execute(
            f"UPDATE {quote(suspect.table.name)} SET {assignments} WHERE {self._found(suspect)}",
            (*new.values(), *suspect.place),
        )

    def _take_out(self, suspect: Suspect, finding: Finding) -> None:
        deleted = self._conn.execute(
            f"DELETE FROM {quote(suspect.table.name)} WHERE {self._found(suspect)}",
            suspect.place,
        )
        if deleted.rowcount:
            self.settled.changes.append(finding)
            names = (column.name for column in suspect.table.columns)
            row = {
                name: _json_value(value) for name, value in zip(names, suspect.values, strict=True)
            }
            with self._quarantine.open("a", encoding="utf-8") as file:
                why = f"{finding.column} {finding.problem}"
                kept = {"database": self._database, "table": suspect.table.name, "why": why}
                file.write(json.dumps({**kept, "row": row}, ensure_ascii=False) + "\n")

    def _found(self, suspect: Suspect) -> str:
        place = row_place(self._conn, suspect.table)
        return " AND ".join(f"{name} = ?" for name in place)


def _differs(settled: object, value: object) -> bool:
    if isinstance(settled, str) and isinstance(value, bytearray):
        return settled.encode() != value
    return type(settled) is not type(value) or settled != value


def _json_value(value: object) -> object:
    """A value for the file of what was taken out; what JSON can't say goes as hexadecimal."""
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    if isinstance(value, bytearray):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return {"text": value.hex()}
    return value


def _drop_triggers(conn: sqlite3.Connection) -> None:
    names = conn.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for (name,) in names:
        conn.execute(
            f"DROP TRIGGER {quote(name.decode() if isinstance(name, bytearray) else name)}"
        )
