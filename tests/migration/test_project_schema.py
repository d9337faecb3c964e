"""Schemas of users' own SQLite databases on PostgreSQL: made there, or said why not."""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection, cursor

from server.migration.project_schema import Leftover, ProjectSchema, read_project_schema
from server.migration.tables import Kind, quote
from tests import postgres

COLUMNS = """
SELECT c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, -1)
    || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
    || CASE WHEN a.attidentity <> '' THEN ' IDENTITY' ELSE '' END
    || CASE WHEN a.attgenerated <> '' THEN ' AS ' WHEN d.oid IS NULL THEN '' ELSE ' DEFAULT ' END
    || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v') AND a.attnum > 0
ORDER BY c.relkind, c.relname, a.attnum
"""
CONSTRAINTS = """
SELECT c.relname || ' ' || k.conname || ' ' || pg_get_constraintdef(k.oid)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE k.connamespace = 'public'::regnamespace AND k.contype <> 'n' ORDER BY 1
"""
INDEXES = """
SELECT replace(pg_get_indexdef(i.indexrelid), 'public.', '') FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = 'public'::regnamespace
AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid) ORDER BY 1
"""
# Longer than PostgreSQL's names.
LONG = "a_very_long_name_" * 5
# What would make the lines long.
SHORT = {
    "timestamp with time zone": "timestamptz",
    "(CURRENT_TIMESTAMP AT TIME ZONE 'UTC'::text)": "UTC",
    "'ABCDEFGHIJKLMNOPQRSTUVWXYZ'::text, 'abcdefghijklmnopqrstuvwxyz'::text": "A-Z, a-z",
}


@dataclass(frozen=True)
class Moved:
    """What PostgreSQL has of a schema, in lines, and what it hasn't: kind, name, reason."""

    made: list[str]
    left: list[str]


@contextmanager
def sqlite(script: str) -> Iterator[sqlite3.Connection]:
    """What a script makes in SQLite."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        conn.create_collation("mine", lambda left, right: (left > right) - (left < right))
        conn.create_function("regexp", 2, lambda *_: True, deterministic=True)
        conn.executescript(script.replace("LONG_", LONG))
        yield conn


@contextmanager
def applied(
    conn: connection, schema: ProjectSchema, source: sqlite3.Connection
) -> Iterator[tuple[cursor, list[Leftover]]]:
    """The schema with its rows, until the block ends, and what became a leftover there."""
    refused = []
    with conn.cursor() as cur:
        cur.execute("BEGIN")
        try:
            for sql in schema.create:
                cur.execute(sql)
            copy(source, schema, cur)
            for statement in schema.finish:
                cur.execute("SAVEPOINT before")
                try:
                    cur.execute(statement.sql)
                except psycopg2.Error:
                    cur.execute("ROLLBACK TO before")
                    assert statement.leftover is not None, statement.sql
                    refused.append(statement.leftover)
            yield cur, refused
        finally:
            cur.execute("ROLLBACK")


def copy(source: sqlite3.Connection, schema: ProjectSchema, cur: cursor) -> None:
    """Copy all rows; values that aren't of their column's kind are another module's matter."""
    for table, target in zip(schema.tables, schema.targets, strict=True):
        names = ", ".join(quote(column.name) for column in table.columns)
        into = ", ".join(quote(column.name) for column in target.columns).replace("%", "%%")
        places = ", ".join(["%s"] * len(table.columns))
        sql = f"INSERT INTO {quote(target.name)} ({into}) VALUES ({places})"
        for row in source.execute(f"SELECT {names} FROM {quote(table.name)}"):
            values = [
                bool(value) if column.kind is Kind.BOOLEAN and value is not None else value
                for column, value in zip(table.columns, row, strict=True)
            ]
            cur.execute(sql, values)


def move(conn: connection, script: str) -> Moved:
    """Make the schema on PostgreSQL, describe it, compare the views, and unmake it."""
    made = []
    with sqlite(script) as source:
        schema = read_project_schema(source)
        with applied(conn, schema, source) as (cur, refused):
            for query in (COLUMNS, CONSTRAINTS, INDEXES):
                cur.execute(query)
                made += [shortened(row[0]) for row in cur.fetchall()]
            found = [*schema.leftovers, *refused]
            left = [shortened(f"{left.kind} {left.name}: {left.sql}") for left in found]
            views = source.execute("SELECT name, sql FROM sqlite_master WHERE type = 'view'")
            for name, sql in views.fetchall():
                if shortened(f"view {name}: {sql}") not in left:
                    cur.execute(f"SELECT * FROM {quote(name)}")
                    rows = source.execute(f"SELECT * FROM {quote(name)}").fetchall()
                    # A set unless the view has an order; True is 1.
                    order = list if "ORDER" in sql else set
                    assert order(cur.fetchall()) == order(rows), sql
    return Moved(made, left)


def shortened(line: str) -> str:
    """A line without what is the same everywhere."""
    line = re.sub(r"(a_very_long_name_)+", "LONG_", line)
    for long, short in SHORT.items():
        line = line.replace(long, short)
    return " ".join(line.split())


@pytest.fixture(scope="module")
def target(postgres_server: postgres.Server) -> Iterator[connection]:
    """A fresh database."""
    with closing(postgres_server.connect()) as admin, admin.cursor() as cur:
        cur.execute("CREATE DATABASE project_schemas")
    with closing(postgres_server.connect("project_schemas")) as conn:
        yield conn


@dataclass(frozen=True)
class Case:
    """A script for SQLite, the lines that describe what it makes, and those of what stays."""

    name: str
    script: str
    made: list[str]
    left: list[str]


def read_cases() -> Iterator[Case]:
    """The cases of project_schemas.txt."""
    text = Path(__file__).with_name("project_schemas.txt").read_text("utf-8")
    for part in text.split("=== ")[1:]:
        name, _, rest = part.partition("\n")
        script, _, found = rest.partition("--- made\n")
        made, _, left = found.partition("--- left\n")
        yield Case(name, script, made.split("\n"), left.split("\n"))


CASES = list(read_cases())


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_schema_moves(target: connection, case: Case) -> None:
    """Each schema is made as it was meant, and whatever isn't made is listed: nothing else."""
    moved = move(target, case.script)
    assert moved.made == [line for line in case.made if line]
    assert sorted(moved.left) == sorted(line for line in case.left if line)


def test_the_connection_stays_as_it_was() -> None:
    """Whoever reads rows as bytes goes on so: a text factory that is lost bends every value."""
    with sqlite("CREATE TABLE t (a TEXT); INSERT INTO t VALUES ('x')") as conn:
        conn.text_factory, conn.row_factory = bytearray, sqlite3.Row
        assert read_project_schema(conn).tables[0].name == "t"
        assert conn.text_factory is bytearray
        assert conn.execute("SELECT a FROM t").fetchone()["a"] == b"x"


def test_parents_come_first() -> None:
    """Rows are copied in the order of the tables, each after what it names."""
    script = """
    CREATE TABLE "child" (id INTEGER PRIMARY KEY, p INT REFERENCES Parent, pg INT REFERENCES pg_x);
    CREATE TABLE parent (id INTEGER PRIMARY KEY, p INT REFERENCES grandparent);
    CREATE TABLE pg_x (id INTEGER PRIMARY KEY);
    CREATE TABLE grandparent (id INTEGER PRIMARY KEY);
    """
    with sqlite(script) as conn:
        schema = read_project_schema(conn)
    assert [table.name for table in schema.tables] == ["pg_x", "grandparent", "parent", "child"]
    keys = [key.table for key in schema.tables[3].foreign_keys]
    assert keys == ["parent", "pg_x"]
    assert [key.table for key in schema.targets[3].foreign_keys] == [
        "parent",
        schema.targets[0].name,
    ]
    assert [sql.split()[2] for sql in schema.create] == [
        f'"{table.name}"' for table in schema.targets
    ]


def test_only_foreign_keys_that_can_be_are_looked_at() -> None:
    """Rows without a parent are looked for by these; SQLite takes keys to anything."""
    case = next(case for case in CASES if case.name == "foreign keys to nothing")
    with sqlite(case.script) as conn:
        schema = read_project_schema(conn)
    found = {table.name: [key.columns for key in table.foreign_keys] for table in schema.tables}
    assert found == {"t": [("e",)], "keyless": []}


def test_texts_are_in_the_order_of_their_bytes() -> None:
    """PostgreSQL may have a language's order, in which 'B' comes after 'a'; not here, though."""
    script = """
    CREATE TABLE t (a TEXT CHECK (a > 'B'));
    CREATE VIEW v AS SELECT max(a) FROM t GROUP BY a ORDER BY a;
    """
    with sqlite(script) as conn:
        check, view = read_project_schema(conn).finish
    assert check.sql == """ALTER TABLE "t" ADD CHECK (("a" COLLATE "C" > 'B'))"""
    assert 'max("t"."a" COLLATE "C")' in view.sql
    assert view.sql.endswith('ORDER BY ("t"."a") COLLATE "C" ASC NULLS FIRST')


NAMES = ["a", "A b", "select", "ctid", "it's", 'q"q', "é", "%s", "pg_x", "t_pkey", "t_a_key", "t"]
NAMES += ["", "x" * 63, "x" * 64, "x" * 70, "é" * 40, "user", "check", "t_id_seq"]
TYPES = ["", "INT", "INTEGER", "TEXT", "BLOB", "REAL", "NUMERIC", "BOOLEAN", "JSON", "TIMESTAMP"]
TYPES += ["VARCHAR(9)", "DATE", "DATETIME", "whatever", "UNSIGNED BIG INT", "STRING", "ANY"]
EXTRAS = ["", "NOT NULL", "UNIQUE", "COLLATE NOCASE", "DEFAULT 1", "DEFAULT 'x'", "DEFAULT (1 + 1)"]
EXTRAS += ["DEFAULT CURRENT_TIMESTAMP", "CHECK ({} <> 1)", "CHECK ({} LIKE 'a%')", "DEFAULT x'00'"]
EXTRAS += ["CONSTRAINT a CHECK (length({}) > 1)", "AS (1) STORED", "DEFAULT TRUE", "PRIMARY KEY"]
EXTRAS += ["CHECK ({} IN (0, 1))", "REFERENCES {table}", "UNIQUE ON CONFLICT REPLACE", "DEFAULT a"]


@st.composite
def tables(draw: st.DrawFn) -> str:
    """One CREATE TABLE with an index and a view, which SQLite may refuse."""
    name = draw(st.sampled_from(NAMES))
    columns = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    lines = []
    for column in columns:
        extra = draw(st.lists(st.sampled_from(EXTRAS), max_size=3, unique=True))
        spelt = " ".join(extra).replace("{table}", quote(draw(st.sampled_from(NAMES))))
        lines.append(f"{quote(column)} {draw(st.sampled_from(TYPES))} {spelt}")
        lines[-1] = lines[-1].replace("{}", quote(column))
    chosen = ", ".join(map(quote, draw(st.lists(st.sampled_from(columns), min_size=1, max_size=2))))
    if draw(st.booleans()):
        lines.append(f"UNIQUE ({chosen})")
    index = f"CREATE INDEX {quote(draw(st.sampled_from(NAMES)) + 'i')} ON {quote(name)} ({chosen});"
    view = f"CREATE VIEW {quote(name + 'v')} AS SELECT * FROM {quote(name)} ORDER BY 1;"
    return f"CREATE TABLE {quote(name)} ({', '.join(lines)});\n{index}\n{view}\n"


@given(scripts=st.lists(tables(), min_size=1, max_size=3))
@settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_random_schemas_move(target: connection, scripts: list[str]) -> None:
    """PostgreSQL takes all that must be made before the data, and each part is made or listed."""
    with sqlite("") as source:
        for script in scripts:
            with suppress(sqlite3.OperationalError):
                source.executescript(script)
        schema = read_project_schema(source)
        with applied(target, schema, source) as (cur, _):
            cur.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
            made = {row[0] for row in cur.fetchall()}
        wanted = Counter(
            row[0] for row in source.execute("SELECT type FROM sqlite_master WHERE sql <> ''")
        )
    assert {table.name for table in schema.targets} <= made
    assert len(schema.targets) == wanted["table"]
    attempted = [statement.leftover for statement in schema.finish]
    found = Counter(left.kind for left in [*attempted, *schema.leftovers] if left)
    assert (found["view"], found["index"]) == (wanted["view"], wanted["index"])
