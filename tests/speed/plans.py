"""How the databases find what a statement asks for, and what is wrong with it."""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from tests.speed.crowd import GROWING

# A page of 50 with what hangs on it, in a session of 10,000 messages, among 5,000 projects.
MOST_ROWS = 200
MOST_BUFFERS = 300
# Of SQLite's machine, which does about ten for a row that is only looked at.
MOST_STEPS = 20_000
STEPS = 100
_READS = re.compile(r"SELECT|WITH|EXECUTE")
_EXPLAINED = re.compile(r"SELECT|WITH|EXECUTE|INSERT|UPDATE|DELETE")
_PREPARES = re.compile(r"PREPARE (\w+) AS ")
_EXECUTES = re.compile(r"EXECUTE (\w+)")
# Locks, settings, the end of others: EXPLAIN (ANALYZE) would do it.
_DOES_SOMETHING = re.compile(r"pg_\w*lock|pg_terminate|set_config")
_SCAN = re.compile(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?")
_MADE = re.compile(r"(?:MATERIALIZE|CO-ROUTINE) (\w+)")
Node = dict[str, Any]
Complaint = tuple[str, str]
"""A statement, and what is wrong with its plan."""


class Explainer(Protocol):
    """A database that tells how it finds things."""

    def complaints(self, texts: Iterable[str]) -> Iterator[Complaint]:
        """What is wrong with the plans of statements that were recorded."""
        ...


class Postgres:
    """Asks PostgreSQL, on a cursor in autocommit."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        cursor.execute(
            "SELECT indexrelid::regclass::text, indrelid::regclass::text, indpred IS NOT NULL "
            "FROM pg_index"
        )
        self._indexes = {name: (table, partial) for name, table, partial in cursor.fetchall()}

    def complaints(self, texts: Iterable[str]) -> Iterator[Complaint]:
        """Prepared statements are tried by their custom and by their generic plans."""
        prepared = {found[1]: text for text in texts if (found := _PREPARES.match(text))}
        for text in prepared.values():
            self._cursor.execute(text)
        for text in texts:
            if not _EXPLAINED.match(text):
                continue
            name = _EXECUTES.match(text)
            for mode in ("custom", "generic") if name else ("custom",):
                self._cursor.execute(f"SET plan_cache_mode = force_{mode}_plan")
                for why in self._wrong(text):
                    yield prepared[name[1]] if name else text, f"{mode} plan: {why}"

    def indexes(self, text: str) -> set[str]:
        """The indexes that a statement is answered from."""
        return {node["Index Name"] for node in _flat(self._plan(text)) if "Index Name" in node}

    def _wrong(self, text: str) -> Iterator[str]:
        nodes = list(_flat(self._plan(text)))
        for node in nodes:
            yield from self._scan(node)
        growing = any(self._table(node) in GROWING for node in nodes)
        if growing and _READS.match(text) and not _DOES_SOMETHING.search(text):
            yield from self._much(self._plan(text, "ANALYZE, BUFFERS, TIMING OFF,"))

    def _plan(self, text: str, options: str = "") -> Node:
        # To change many rows of a small table PostgreSQL does well to read it whole; what must be
        # there, and is taken as soon as it is large, is another way.
        allowed = "on" if _READS.match(text) else "off"
        for way in ("seqscan", "hashjoin", "mergejoin"):
            self._cursor.execute(f"SET enable_{way} = {allowed}")
        self._cursor.execute(f"EXPLAIN ({options} FORMAT JSON) {text}")
        plan: Node = self._cursor.fetchone()[0][0]["Plan"]
        return plan

    def _table(self, node: Node) -> str | None:
        index = self._indexes.get(node.get("Index Name", ""))
        table: str | None = index[0] if index else node.get("Relation Name")
        return table

    def _scan(self, node: Node) -> Iterator[str]:
        table, name = self._table(node), node.get("Index Name")
        if table not in GROWING:
            return
        if node["Node Type"] == "Seq Scan":
            yield f"reads all of {table}"
        elif name and "Index Cond" not in node and not self._indexes[name][1]:
            yield f"reads all of {table} along {name}"

    def _much(self, plan: Node) -> Iterator[str]:
        rows = sum(_rows(node) for node in _flat(plan) if node.get("Relation Name") in GROWING)
        buffers = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        if rows > MOST_ROWS or buffers > MOST_BUFFERS:
            yield f"reads {rows:.0f} rows, {buffers} buffers"


def _flat(node: Node) -> Iterator[Node]:
    yield node
    for child in node.get("Plans", []):
        yield from _flat(child)


def _rows(node: Node) -> float:
    """What a scan has read, with what it then left out."""
    removed = sum(value for key, value in node.items() if key.startswith("Rows Removed"))
    rows: float = (node["Actual Rows"] + removed) * node["Actual Loops"]
    return rows


class Sqlite:
    """Asks SQLite, on a connection of the service's kind."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self._partial = {
            row["name"]
            for row in self._rows(
                "SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '% WHERE %'"
            )
        }

    def complaints(self, texts: Iterable[str]) -> Iterator[Complaint]:
        """What reads a whole table, and what does much for what it answers."""
        for text in texts:
            if _EXPLAINED.match(text):
                yield from ((text, why) for why in self._wrong(text))

    def _wrong(self, text: str) -> Iterator[str]:
        steps = [row["detail"] for row in self._rows(f"EXPLAIN QUERY PLAN {text}")]
        # Rows that a part of the statement has made, under a name that a table may have, too.
        made = {found[1] for step in steps if (found := _MADE.match(step))}
        # Tables that it doesn't name are those of foreign keys, which have a test of their own.
        named = set(re.findall(r"\w+", text)) & GROWING - made
        for step in steps:
            found = _SCAN.match(step)
            if found and found[1] in named and found[2] not in self._partial:
                yield f"reads all of {found[1]}: {step}"
        if _READS.match(text) and (taken := self._steps(text)) > MOST_STEPS:
            yield f"takes {taken} steps"

    def _steps(self, text: str) -> int:
        taken = 0

        def count() -> None:
            nonlocal taken
            taken += STEPS

        self._conn.set_progress_handler(count, STEPS)
        self._rows(text)
        self._conn.set_progress_handler(None, 0)
        return taken

    def _rows(self, text: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._conn.execute(text).fetchall()
        return rows
