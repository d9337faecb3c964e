"""SQLite's expressions on PostgreSQL: each database is asked, and they must say the same."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.errors import NumericValueOutOfRange
from psycopg2.extensions import cursor

from server.migration.project_expressions import Expressions
from server.migration.project_leftovers import Untranslatable
from server.migration.project_tokens import Reader
from server.migration.project_values import Value, truth
from server.migration.tables import Kind
from tests import postgres

COLUMNS = {
    "i": ("INTEGER", Kind.INTEGER),
    "j": ("INTEGER", Kind.INTEGER),
    "r": ("REAL", Kind.FLOAT),
    "d": ("NUMERIC", Kind.NUMERIC),
    "b": ("BOOLEAN", Kind.BOOLEAN),
    "t": ("TEXT", Kind.TEXT),
    "u": ("TEXT COLLATE NOCASE", Kind.TEXT),
    "v": ("TEXT COLLATE RTRIM", Kind.TEXT),
    "x": ("BLOB", Kind.BYTES),
}
KNOWN = {
    name: Value(f'"{name}"', kind, declared.partition(" COLLATE ")[2] or "BINARY", plain=True)
    for name, (declared, kind) in COLUMNS.items()
}
ROWS = [
    (1, 2, 1.5, 3, 1, "abc", "ABC", "abc ", b"abc"),
    (0, -3, -0.5, 2.5, 0, "", "x%_", "", b""),
    (None,) * 9,
    (5, 5, 5.0, 5, 1, "é\nZ", "É", "a  b ", b"\x00\xff"),
    (-7, 2, 2.5, -1.5, 0, "a%", "A_", "[b]", b"a"),
    (2**40, 7, 1e10, 0, 1, "B", "b", "B", b"B"),
]


@dataclass(frozen=True)
class Databases:
    """The same rows in both."""

    sqlite: sqlite3.Connection
    postgres: cursor

    def compare(self, expression: str) -> str:
        """Compare an expression's truth for each row; the SQL for PostgreSQL."""
        rows = self.sqlite.execute(f"SELECT ({expression}) FROM t ORDER BY rowid").fetchall()
        sql = truth(Expressions(Reader(expression), KNOWN).whole())
        try:
            self.postgres.execute(f"SELECT {sql} FROM t ORDER BY ctid")
        except NumericValueOutOfRange:
            return sql  # PostgreSQL says so where SQLite goes on with floats
        expected = [None if row[0] is None else bool(row[0]) for row in rows]
        assert [row[0] for row in self.postgres.fetchall()] == expected, sql
        return sql


@pytest.fixture(scope="module")
def databases(postgres_server: postgres.Server) -> Iterator[Databases]:
    """Both databases with their rows."""
    with (
        closing(sqlite3.connect(":memory:")) as lite,
        closing(postgres_server.connect()) as conn,
        conn.cursor() as cur,
    ):
        lite.text_factory = lambda raw: raw.decode("utf-8", "replace")
        places = ", ".join("?" * len(COLUMNS))
        columns = ", ".join(f"{name} {declared}" for name, (declared, _) in COLUMNS.items())
        lite.execute(f"CREATE TABLE t ({columns})")
        lite.executemany(f"INSERT INTO t VALUES ({places})", ROWS)
        columns = ", ".join(f"{name} {kind.value}" for name, (_, kind) in COLUMNS.items())
        cur.execute(f"CREATE TEMP TABLE t ({columns})")
        for row in ROWS:
            values = [*row[:4], None if row[4] is None else bool(row[4]), *row[5:]]
            cur.execute(f"INSERT INTO t VALUES ({places.replace('?', '%s')})", values)
        yield Databases(lite, cur)


def listed(heading: str) -> list[str]:
    """The expressions under a heading of project_expressions.txt, one on each line."""
    text = Path(__file__).with_name("project_expressions.txt").read_text("utf-8")
    part = text.partition(f"=== {heading}\n")[2].partition("===")[0]
    return [line for line in part.split("\n") if line]


@pytest.mark.parametrize("expression", listed("same"))
def test_an_expression_means_the_same(databases: Databases, expression: str) -> None:
    """For each row the condition is as true on PostgreSQL as on SQLite.

    `LIKE` has no case there, `=` none for some columns, NULL is what a division by zero gives.
    """
    databases.compare(expression)


@pytest.mark.parametrize("expression", listed("refused"))
def test_what_might_mean_something_else_is_refused(expression: str) -> None:
    """A condition that PostgreSQL would take, and hold otherwise, must not get there."""
    with pytest.raises(Untranslatable):
        truth(Expressions(Reader(expression), KNOWN).whole())


NUMBERS = ["0", "1", "2", "-3", "5", "2.5", "0x10", "1e2", "TRUE", "NULL", "i", "j", "r", "d", "b"]
TEXTS = ["'abc'", "'a%'", "'_b_'", "''", "'ABC '", '"zz"', "t", "u", "v", "'[a-c]*'", "'*b?'"]
SIGNS = ["=", "==", "<>", "<", "<=", ">", ">=", "AND", "OR", "+", "-", "*", "/", "%", "&", "|"]
SIGNS += ["||", "IS", "IS NOT", "LIKE", "NOT LIKE", "GLOB", "IS DISTINCT FROM", "COLLATE NOCASE ="]
ENDS = ["ISNULL", "NOT NULL", "IS NULL", "IS TRUE", "IS NOT FALSE", "COLLATE NOCASE"]
TEMPLATES = [
    *("{} " + end for end in ENDS),
    *("{} " + sign + " {}" for sign in SIGNS),
    *("NOT {}", "-{}", "~{}", "({})", "length({})", "lower({})", "trim({})", "abs({})"),
    *("coalesce({}, {})", "nullif({}, {})", "max({}, {})", "instr({}, {})", "{} IN ({}, {})"),
    *("{} BETWEEN {} AND {}", "{} NOT BETWEEN {} AND {}"),
    *("CASE WHEN {} THEN {} ELSE {} END", "CASE {} WHEN {} THEN {} END"),
]


def combined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Expressions of expressions."""
    return st.builds(
        lambda template, some: template.format(*some),
        st.sampled_from(TEMPLATES),
        st.tuples(parts, parts, parts),
    )


@given(
    left=st.recursive(st.sampled_from(NUMBERS), combined, max_leaves=5),
    right=st.recursive(st.sampled_from(NUMBERS + TEXTS), combined, max_leaves=5),
    sign=st.sampled_from(["=", "AND"]),
)
@settings(
    derandomize=True,
    deadline=None,
    max_examples=400,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_random_expressions_mean_the_same(
    databases: Databases, left: str, right: str, sign: str
) -> None:
    """Whatever is translated is as true as on SQLite: precedence, collations, types, NULL."""
    with suppress(Untranslatable, sqlite3.OperationalError):
        databases.compare(f"{left} {sign} {right}")
