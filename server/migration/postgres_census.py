"""What in a PostgreSQL database SQLite can't hold, found before anything is written."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from server.migration import target
from server.migration.census import ORPHANS, Finding, Options
from server.migration.master import NOT_COPIED, master_tables
from server.migration.postgres_schema import Pair
from server.migration.snapshot import MASTER
from server.migration.tables import Column, Kind, Table, quote
from server.migration.values import QUARANTINE

_MISFITS = {
    Kind.TIME: (
        "({0} < '0001-01-01 00:00:00+00' OR {0} >= '10000-01-01 00:00:00+00')",
        "which is no time of the years 1 to 9999",
    ),
    Kind.FLOAT: ("{0} = 'NaN'", "which SQLite makes NULL"),
    Kind.NUMERIC: ("{0} IN ('NaN', 'Infinity', '-Infinity')", "which is no number of SQLite's"),
}


def examine(
    conn: target.Connection, database: str, pairs: tuple[Pair, ...], options: Options
) -> list[Finding]:
    """All that isn't settled by the options."""
    findings = []
    if options.misfits == "fail":
        findings += [found for pair in pairs for found, _ in misfits(conn, database, pair.there)]
    if options.orphans == "fail":
        findings += [found for pair in pairs for found in orphans(conn, database, pair, pairs)]
    return findings


def count(conn: target.Connection, pairs: tuple[Pair, ...]) -> int:
    """How many rows the tables have."""
    counts = (target.value(conn, f"SELECT count(*) FROM {_relation(pair.there)}") for pair in pairs)
    return sum(map(int, counts))


def misfits(conn: target.Connection, database: str, there: Table) -> Iterator[tuple[Finding, str]]:
    """The values without a counterpart, each with its row as JSON."""
    for column in there.columns:
        if column.kind not in _MISFITS:
            continue
        condition, why = _MISFITS[column.kind]
        name = quote(column.name)
        for key, value, row in target.rows(
            conn,
            f"SELECT {_key(there, 't')}, t.{name}::text, row_to_json(t.*)::text "
            f"FROM {_relation(there)} AS t WHERE {condition.format('t.' + name)}",
        ):
            problem = f"is {value}, {why}"
            yield Finding(database, there.name, key, column.name, problem, QUARANTINE), row


def _relation(there: Table) -> str:
    return there.relation or quote(there.name)


def _key(there: Table, alias: str) -> str:
    """A row's key for people, as `source.key_text` spells it."""
    if not there.key:
        return f"'row ' || {alias}.ctid::text"
    parts = (f"{_text(name)} || ' ' || {alias}.{quote(name)}::text" for name in there.key)
    return " || ', ' || ".join(parts)


def _text(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def fitting(pairs: tuple[Pair, ...], options: Options) -> tuple[Pair, ...]:
    """The tables as they are copied: without rows that hold a misfit, if the options say so."""
    return tuple(map(_without_misfits, pairs)) if options.misfits == "quarantine" else pairs


def _without_misfits(pair: Pair) -> Pair:
    conditions = [
        _MISFITS[column.kind][0].format(quote(column.name))
        for column in pair.there.columns
        if column.kind in _MISFITS
    ]
    if not conditions:
        return pair
    odd = " OR ".join(conditions)
    relation = f"(SELECT ctid, * FROM {_relation(pair.there)} WHERE ({odd}) IS NOT TRUE) AS fitting"
    return replace(pair, there=replace(pair.there, relation=relation))


def take_out(
    conn: target.Connection, database: str, pairs: tuple[Pair, ...], quarantine: Path
) -> list[Finding]:
    """Keep the rows with misfits in the file of what was taken out."""
    changes = []
    with quarantine.open("a", encoding="utf-8") as file:
        for pair in pairs:
            for finding, row in misfits(conn, database, pair.there):
                why = f"{finding.column} {finding.problem}"
                kept = {"database": database, "table": finding.table, "why": why}
                kept["row"] = json.loads(row)
                file.write(json.dumps(kept, ensure_ascii=False) + "\n")
                changes.append(finding)
    return changes


def orphans(
    conn: target.Connection, database: str, pair: Pair, pairs: tuple[Pair, ...]
) -> Iterator[Finding]:
    """The rows that name a row which isn't there."""
    parents = {each.table.name: each for each in pairs}
    for key in pair.table.foreign_keys:
        parent = parents[key.table]
        columns = [_column(pair, name) for name in key.columns]
        named = [_column(parent, name) for name in key.references]
        same = " AND ".join(
            f"parent.{quote(to.name)} = child.{quote(column.name)}"
            for column, to in zip(columns, named, strict=True)
        )
        given = " AND ".join(f"child.{quote(column.name)} IS NOT NULL" for column in columns)
        values = " || ', ' || ".join(f"child.{quote(column.name)}::text" for column in columns)
        for row, wanted in target.rows(
            conn,
            f"SELECT {_key(pair.there, 'child')}, {values} FROM {_aliased(pair.there, 'child')} "
            f"WHERE {given} AND NOT EXISTS "
            f"(SELECT FROM {_aliased(parent.there, 'parent')} WHERE {same})",
        ):
            problem = f"names {parent.there.name} {wanted}, which isn't there"
            place = ", ".join(column.name for column in columns)
            yield Finding(database, pair.there.name, row, place, problem, ORPHANS)


def _column(pair: Pair, name: str) -> Column:
    """The column on PostgreSQL of this name on SQLite."""
    place = [column.name for column in pair.table.columns].index(name)
    return pair.there.columns[place]


def _aliased(there: Table, alias: str) -> str:
    relation = _relation(there)
    return f"{relation.removesuffix(' AS fitting')} AS {alias}"


def unknown(conn: target.Connection) -> list[Finding]:
    """Tables and columns of the master that this code doesn't know; and those that it lacks."""
    known = {table.name: {column.name for column in table.columns} for table in master_tables()}
    there = {name: set(columns) for name, columns in target.rows(conn, _COLUMNS)}
    findings = []
    for table, columns in there.items():
        if table in NOT_COPIED:
            continue
        if table not in known:
            findings.append(_unknown(table, "", "isn't a table of this service"))
        findings += [
            _unknown(table, column, "isn't a column of this service")
            for column in sorted(columns - known.get(table, columns))
        ]
    for table, columns in known.items():
        findings += [
            Finding(MASTER, table, "", column, "is missing in the source", "")
            for column in sorted(columns - there.get(table, set()))
        ]
    return findings


def _unknown(table: str, column: str, problem: str) -> Finding:
    return Finding(MASTER, table, "", column, problem, "--unknown=keep")


_COLUMNS = """
    SELECT c.relname::text, array_agg(attname::text) FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped
    WHERE c.relkind IN ('r', 'p') AND c.relnamespace = (
        SELECT relnamespace FROM pg_class WHERE oid = to_regclass('users'))
    GROUP BY c.relname ORDER BY c.relname
"""
