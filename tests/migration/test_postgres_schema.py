"""Schemas of users' own PostgreSQL databases on SQLite: made there, or said why not."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import database
from server.migration import target as at_target
from server.migration.postgres_build import Differs, build_project, prove
from server.migration.postgres_schema import read_postgres_schema
from server.migration.postgres_source import held
from server.migration.project_leftovers import Leftover
from server.migration.tables import quote
from server.settings import get_settings
from server.storage import migrate
from tests import postgres
from tests.conftest import with_settings, without_settings

DATABASE = "postgres_schemas"


@dataclass(frozen=True)
class Moved:
    """What SQLite has of a schema, in lines, and what it hasn't."""

    made: list[str]
    left: list[str]


@pytest.fixture(scope="module")
def source(postgres_server: postgres.Server) -> Iterator[at_target.Connection]:
    """A fresh database, as the migration reads it; whoever uses it empties it first."""
    with closing(postgres_server.connect()) as admin, admin.cursor() as cur:
        cur.execute(f"CREATE DATABASE {DATABASE}")
    server = postgres_server
    place = {"DB_HOST": server.host, "DB_PORT": str(server.port), "DB_USER": server.superuser}
    with_settings({**place, "DB_PASSWORD": server.password, "USE_POSTGRES": "true"})
    try:
        conn = at_target.connect(get_settings(), DATABASE)
    finally:
        without_settings()
    with closing(conn):
        yield conn


def fill(conn: at_target.Connection, script: str) -> None:
    """Make what a script makes, and nothing else."""
    others = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_|^information_schema$'"
    for (name,) in at_target.rows(conn, others):
        at_target.execute(conn, f"DROP SCHEMA {quote(name)} CASCADE")
    at_target.execute(conn, "CREATE SCHEMA public")
    at_target.execute(conn, "SET search_path = public")
    at_target.execute(conn, script)


def build(conn: at_target.Connection, path: Path) -> list[Leftover]:
    """Bring it into a file, with its rows; what stays behind."""
    with held(conn, DATABASE) as moment:
        pairs = read_postgres_schema(conn).pairs
        return build_project(path, moment, pairs, {}, lambda name, count: None).leftovers


def move(conn: at_target.Connection, script: str, path: Path) -> Moved:
    """Bring what the script makes into a file, compare the views, and describe it."""
    fill(conn, script)
    leftovers = build(conn, path)
    with closing(sqlite3.connect(path)) as made:
        entries = made.execute("SELECT type, name, sql FROM sqlite_master WHERE sql <> ''")
        found = [entry for entry in entries if not entry[1].startswith("sqlite_")]
        for kind, name, sql in found:
            if kind == "table":
                assert made.execute(f"SELECT count(*) FROM {quote(name)}").fetchone() == (
                    own_rows(conn, name),
                )
            if kind == "view" and at_target.value(conn, "SELECT to_regclass(%s)", (quote(name),)):
                order = list if "ORDER" in sql else set
                rows = at_target.rows(conn, f"SELECT * FROM {quote(name)}")
                assert order(made.execute(f"SELECT * FROM {quote(name)}")) == order(rows), sql
    lines = [shortened(sql) for _, _, sql in found]
    return Moved(lines, sorted(shortened(f"{x.kind} {x.name}: {x.sql}") for x in leftovers))


def own_rows(conn: at_target.Connection, name: str) -> int:
    """How many rows are in the table itself, or its partitions; none where it has another name."""
    kind = at_target.value(
        conn, "SELECT relkind::text FROM pg_class WHERE oid = to_regclass(%s)", (quote(name),)
    )
    only = "ONLY " if kind == "r" else ""
    return int(at_target.value(conn, f"SELECT count(*) FROM {only}{quote(name)}")) if kind else 0


def shortened(text: str) -> str:
    """On one line."""
    return " ".join(text.split())


@dataclass(frozen=True)
class Case:
    """A script for PostgreSQL, what SQLite gets of it, and what stays."""

    name: str
    script: str
    made: list[str]
    left: list[str]


def read_cases() -> Iterator[Case]:
    """The cases of postgres_schemas.txt."""
    text = Path(__file__).with_name("postgres_schemas.txt").read_text("utf-8")
    for part in text.split("=== ")[1:]:
        name, _, rest = part.partition("\n")
        script, _, found = rest.partition("--- made\n")
        made, _, left = found.partition("--- left\n")
        yield Case(name, script, made.split("\n"), left.split("\n"))


CASES = list(read_cases())


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_schema_moves(source: at_target.Connection, tmp_path: Path, case: Case) -> None:
    """Each schema is made as it was meant, and whatever isn't made is listed: nothing else."""
    moved = move(source, case.script, tmp_path / "made.sqlite3")
    assert moved.made == [line for line in case.made if line]
    assert moved.left == [line for line in case.left if line]


def templates() -> list[str]:
    """The templates of projects that the service brings."""
    with closing(sqlite3.connect(":memory:")) as conn:
        step = migrate.steps("sqlite")[1]
        conn.execute("CREATE TABLE project_types (name, description, template_sql)")
        conn.executescript(step.sql)
        return [row[0] for row in conn.execute("SELECT template_sql FROM project_types")]


def described(path: Path) -> dict[str, list[Any]]:
    """A file's tables as SQLite's own pragmas have them."""
    found: dict[str, list[Any]] = {}
    with closing(sqlite3.connect(path)) as conn:
        names = conn.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'sqlite_sequence'"
        ).fetchall()
        for (name,) in names:
            found[name] = conn.execute(f"PRAGMA table_xinfo({name})").fetchall()
            found[name] += conn.execute(f"PRAGMA foreign_key_list({name})").fetchall()
            for index in conn.execute(f"PRAGMA index_list({name})").fetchall():
                parts = conn.execute(f"PRAGMA index_xinfo({index[1]})").fetchall()
                found[name].append((index[1:], parts))
        for pragma in ("application_id", "user_version"):
            found[pragma] = conn.execute(f"PRAGMA {pragma}").fetchall()
        # No pragma tells of these.
        texts = conn.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        found["checks"] = [(name, (sql or "").count("CHECK")) for name, sql in texts]
    return found


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_template_comes_as_the_service_makes_it(
    source: at_target.Connection, tmp_path: Path, number: int
) -> None:
    """A project made on PostgreSQL is on SQLite what it would be had it been made there."""
    template = templates()[number]
    fill(source, template or "SELECT 1")
    assert build(source, tmp_path / "back.sqlite3") == []
    with_settings({"USE_POSTGRES": "false", "DB_PATH": str(tmp_path / "master.db")})
    try:
        database.create_project_database("own", template, 1)
    finally:
        without_settings()
    ours = described(tmp_path / "project_databases" / "own_db.sqlite3")
    assert described(tmp_path / "back.sqlite3") == ours
    assert len(ours) == 3 or number


def test_the_proof_sees_every_value(source: at_target.Connection, tmp_path: Path) -> None:
    """A value that isn't the one that PostgreSQL gave is named: table, row and column."""
    fill(
        source,
        "CREATE TABLE t (id int PRIMARY KEY, i int, k boolean, f float8, n numeric, s text, "
        "j json, at timestamptz, b bytea); INSERT INTO t VALUES "
        "(1, 2, true, 0.1, 1.5, '', '{}', '2026-01-01 00:00+00', '\\x00')",
    )
    spoilt = {"i": 3, "k": 0, "f": 0.2, "n": 1.25, "s": None, "j": "{ }", "b": b""}
    spoilt["at"] = "2026-01-01 00:00:00.000001+00:00"
    path = tmp_path / "made.sqlite3"
    with held(source, DATABASE) as moment:
        pairs = read_postgres_schema(source).pairs
        found = build_project(path, moment, pairs, {}, lambda name, count: None).found
        with closing(sqlite3.connect(path, isolation_level=None)) as conn:
            for column, value in spoilt.items():
                (before,) = conn.execute(f"SELECT {column} FROM t").fetchone()
                conn.execute(f"UPDATE t SET {column} = ?", (value,))
                with pytest.raises(Differs) as caught:
                    prove(path, moment, pairs, found)
                assert [(d.table, d.row, d.column) for d in caught.value.found] == [
                    ("t", "id 1", column)
                ]
                conn.execute(f"UPDATE t SET {column} = ?", (before,))
            prove(path, moment, pairs, found)
            conn.execute("DELETE FROM t")
            with pytest.raises(Differs):
                prove(path, moment, pairs, found)
