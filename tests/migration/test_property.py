"""Whatever SQLite holds: it arrives as it is, or the row is named, and nothing else happens."""

import json
import os
import shutil
import sqlite3
from contextlib import closing, suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from server.migration.census import Options
from server.migration.master import master_tables
from server.migration.tables import Column, Kind, Table, quote
from tests.migration.moving import Move, Outcome
from tests.migration.sources import TIME

EXAMPLES = int(os.environ.get("EXAMPLES", "15"))
# Blobs that are to become texts, so that a text may hold any bytes.
AS_TEXT = "CAST(? AS TEXT)"
ODD_TEXTS = [b"", b" ", b"\\N", b"\\.", b"\r\n", b"\t\\", "\u2028\U0001f469 e\u0301".encode()]
ODD_TEXTS += [b"\0", b"a\0b", b"\xff", b"\xed\xa0\x80", b"\xff\0", b"NULL", b"x" * 3000, b"t"]
ODD_TEXTS += [b"TRUE", b"maybe", b"7", b" 7", b"3.7", b"1e5", b"nan", b"inf", b"0x10", b"{}", b"["]
ODD_TEXTS += [b'{"a": "\\u0000"}', b'{"a": NaN}', b"2025-02-30", b"2025-06-01", b"12:00", b"now"]
ODD_TEXTS += [b"2025-06-01 12:00:00", b"2025-06-01T12:00:00.1234567Z", b"2025-06-01 24:00:00Z"]
ODD_TEXTS += [b"2025-06-01 12:00+14:00", b"0001-01-01 00:00+01:00", b"2460000.5", TIME.encode()]
NUMBERS = [0, 1, -1, 2, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 3.7, 1.0, 0.1 + 0.2, 5e-324, 1e308]
NUMBERS += [float("inf"), 1e15, -2.5]
VALUES = st.one_of(
    st.none(),
    st.sampled_from(NUMBERS),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.sampled_from([b"", b"\0", b"\\x00", bytes(range(256))]).map(lambda blob: ("blob", blob)),
    st.binary(max_size=4).map(lambda blob: ("blob", blob)),
    st.sampled_from(ODD_TEXTS).map(lambda text: ("text", text)),
    st.text(max_size=6).map(lambda text: ("text", text.encode("utf-8", "surrogatepass"))),
    st.datetimes().map(lambda at: ("text", str(at.replace(tzinfo=UTC)).encode())),
)
WORDS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
TABLES = master_tables()
PLACES = [f"{table.name}.{column.name}" for table in TABLES for column in table.columns]


def put(conn: sqlite3.Connection, place: str, value: Any) -> None:
    """Let the last row of a table have the value, past all that would forbid it."""
    table, _, column = place.partition(".")
    mark, bound = "?", value
    if isinstance(value, tuple):
        mark, bound = ("?", value[1]) if value[0] == "blob" else (AS_TEXT, value[1])
    sql = f"UPDATE OR IGNORE {quote(table)} SET {quote(column)} = {mark} WHERE rowid IN "
    rows = f"(SELECT max(rowid) FROM {quote(table)})"
    with suppress(sqlite3.IntegrityError):  # an id that is no number
        conn.execute(f"{sql}{rows}", (bound,))


def read(move: Move, path: Path, table: Table) -> list[str]:
    """What both sides have of a table, each value with its meaning, past the migration's code."""
    names = ", ".join(quote(column.name) for column in table.columns)
    with closing(sqlite3.connect(path)) as conn:
        ours = conn.execute(f"SELECT {names} FROM {quote(table.name)}").fetchall()
    theirs = move.ask(f"SELECT {names} FROM {quote(table.name)}")
    meant = [[meaning(v, c) for v, c in zip(row, table.columns, strict=True)] for row in ours]
    found = [[meaning(v, c) for v, c in zip(row, table.columns, strict=True)] for row in theirs]
    assert sorted(map(repr, meant)) == sorted(map(repr, found))
    return sorted(map(repr, meant))


def meaning(value: Any, column: Column) -> Any:
    """A value of either side as what it means in its column."""
    if value is None:
        return None
    if column.kind is Kind.TIME:
        moment = value if isinstance(value, datetime) else spelt(value)
        return (moment.replace(tzinfo=moment.tzinfo or UTC)).astimezone(UTC).isoformat()
    if column.kind is Kind.BOOLEAN:
        return WORDS[value.lower()] if isinstance(value, str) else bool(value)
    return bytes(value) if isinstance(value, memoryview) else value


def spelt(text: str) -> datetime:
    """A time as Python reads it, which has no fractions of a microsecond."""
    return datetime.fromisoformat(text.strip().replace("1234567Z", "123456Z"))


@pytest.fixture
def bench(move: Move, tmp_path: Path) -> Move:
    """A target with its tables, to be emptied after each example, and a source to be put back."""
    assert move.call().code == 0
    (tmp_path / "project_databases").rename(tmp_path / "elsewhere")
    shutil.copy(move.path, tmp_path / "whole")
    return move


def empty(move: Move) -> None:
    """A target that nobody has used."""
    names = ", ".join(quote(table.name) for table in TABLES)
    move.ask(f"SET session_replication_role = replica; TRUNCATE {names} CASCADE")
    for folder in move.backups.iterdir():
        folder.rename(move.path.parent / f"{folder.name}-{len(list(move.path.parent.iterdir()))}")


ZONE = ZoneInfo("UTC")
DECIDED = Options(
    zone=ZONE,
    nul="replace",
    invalid_utf8="replace",
    misfits="quarantine",
    orphans="quarantine",
    duplicate_emails="quarantine",
    missing_databases="skip",
)


@settings(
    derandomize=True,
    deadline=None,
    max_examples=EXAMPLES,
    phases=[Phase.explicit, Phase.generate],  # an example takes too long to be made smaller
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    values=st.lists(
        st.tuples(st.sampled_from(PLACES), VALUES),
        min_size=1,
        max_size=12,
        unique_by=lambda pair: pair[0],
    )
)
@example(values=[("projects.id", 2**63 - 1), ("users.email", ("text", b"\xff"))])
def test_any_value_in_any_column(bench: Move, values: list[Any]) -> None:
    """Only two ends are right: 0 with equal values on both sides, or 3 that names each odd row.

    What it names is settled by the options that it names: then it must end with 0.
    """
    move = bench
    empty(move)
    shutil.copy(move.path.with_name("whole"), move.path)
    with move.source() as conn:
        conn.execute("PRAGMA foreign_keys = OFF")
        for place, value in values:
            put(conn, place, value)
    outcome = move.call(Options(missing_databases="skip"))
    if outcome.code == 3:
        rows = {(each["table"], each["row"]) for each in outcome.report["findings"]}
        assert rows
        assert all(row for _, row in rows)
        assert all(each["option"] for each in outcome.report["findings"])
        outcome = move.call(DECIDED)
        assert outcome.code == 0, (outcome.report["result"], values)
        reported = {(each["table"], each["row"]) for each in outcome.report["changes"]}
        assert rows <= reported | {row for row in rows if row[0] == "projects"} | taken(outcome)
    assert outcome.code == 0, (outcome.report["result"], values)
    path = compared(outcome, "master")
    for table in TABLES:
        read(move, path, table)


def compared(outcome: Outcome, name: str) -> Path:
    """What the target must hold: the source as it was, unless an option has changed it."""
    folder = Path(outcome.report["folder"])
    copied = folder / "copied" / f"{name}.sqlite3"
    kept = outcome.report["changes"] and copied.exists()
    return copied if kept else folder / "backup" / f"{name}.sqlite3"


def taken(outcome: Outcome) -> set[tuple[str, str]]:
    """Rows that were taken out for another reason than the first that was found."""
    folder = Path(outcome.report["folder"])
    kept = folder / "quarantine.jsonl"
    # Not splitlines(): a text may have a U+2028.
    lines = kept.read_text("utf-8").split("\n")[:-1] if kept.exists() else []
    return {(line["table"], f"id {line['row'].get('id')}") for line in map(json.loads, lines)}


DECLARED = (
    "",
    "INTEGER",
    "TEXT",
    "REAL",
    "NUMERIC",
    "BLOB",
    "BOOLEAN",
    "JSON",
    "TIMESTAMP",
    "DATE",
)
PROJECT_VALUES = VALUES.filter(lambda value: not isinstance(value, int) or abs(value) < 2**63)


@st.composite
def project_tables(draw: st.DrawFn) -> tuple[list[str], bool, list[list[Any]]]:
    """The types of a table's columns, whether it has a key, and rows."""
    declared = draw(st.lists(st.sampled_from(DECLARED), min_size=1, max_size=3))
    width = st.lists(PROJECT_VALUES, min_size=len(declared), max_size=len(declared))
    return declared, draw(st.booleans()), draw(st.lists(width, max_size=4))


def fill(conn: sqlite3.Connection, tables: list[Any]) -> None:
    """Make the tables with their rows."""
    for number, (declared, keyed, rows) in enumerate(tables):
        columns = [f"c{place} {kind}" for place, kind in enumerate(declared)]
        key = ["id INTEGER PRIMARY KEY"] if keyed else []
        conn.execute(f"CREATE TABLE t{number} ({', '.join(key + columns)})")
        names = ", ".join(f"c{place}" for place in range(len(columns)))
        for row in rows:
            marks = ", ".join(
                AS_TEXT if isinstance(value, tuple) and value[0] == "text" else "?" for value in row
            )
            bound = [value[1] if isinstance(value, tuple) else value for value in row]
            conn.execute(f"INSERT INTO t{number} ({names}) VALUES ({marks})", bound)


@settings(
    derandomize=True,
    deadline=None,
    max_examples=EXAMPLES,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(tables=st.lists(project_tables(), min_size=1, max_size=4))
@example(tables=[(["BLOB"], True, [[("blob", b"x")], [7]])])
def test_any_value_in_a_projects_table(move: Move, tables: list[Any]) -> None:
    """The same for tables that somebody made: 0 with equal values, or 3 that names each odd row."""
    with move.source() as conn:
        name = conn.execute("SELECT db_name FROM projects").fetchone()[0]
    move.file(name).unlink()
    with closing(sqlite3.connect(move.file(name))) as conn:
        fill(conn, tables)
        conn.commit()
    outcome = move.call()
    if outcome.code == 3:
        findings = outcome.report["findings"]
        assert all(each["row"] and each["option"] for each in findings), findings
        assert {each["database"] for each in findings} == {name}
        outcome = move.call(DECIDED)
        reported = {(each["table"], each["row"]) for each in outcome.report["changes"]}
        assert {(each["table"], each["row"]) for each in findings} <= reported
    assert outcome.code == 0, (outcome.report["result"], outcome.report["differences"], tables)
    with closing(sqlite3.connect(compared(outcome, name))) as conn:
        for number in range(len(tables)):
            ours = conn.execute(f"SELECT * FROM t{number}").fetchall()
            theirs = move.ask(f"SELECT * FROM t{number}", name=name)
            assert same(ours, theirs), (ours, theirs)
    for run in move.backups.iterdir():
        run.rename(move.path.parent / f"{run.name}-{len(list(move.path.parent.iterdir()))}")
    move.ask(f"DROP DATABASE {name} WITH (FORCE)", name="postgres")


def same(ours: list[Any], theirs: list[Any]) -> bool:
    """Whether the rows mean the same, in any order."""
    left = list(theirs)
    for row in ours:
        found = [place for place, each in enumerate(left) if all(map(matches, row, each))]
        if not found:
            return False
        del left[found[0]]
    return not left


def matches(ours: Any, theirs: Any) -> bool:
    """Whether a value of SQLite means one of PostgreSQL's, of whatever type."""
    if ours is None or theirs is None:
        return ours is theirs
    if isinstance(theirs, datetime):
        return spelt(ours).astimezone(UTC) == theirs.astimezone(UTC)
    if isinstance(theirs, bool):
        return (WORDS[ours.lower()] if isinstance(ours, str) else bool(ours)) is theirs
    if isinstance(theirs, Decimal):
        return Decimal(str(ours)) == theirs
    if isinstance(ours, str) and not isinstance(theirs, str):
        return bool(json.loads(ours) == theirs)
    return bool((bytes(theirs) if isinstance(theirs, memoryview) else theirs) == ours)
