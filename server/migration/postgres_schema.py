"""The schema of a project's PostgreSQL database, for SQLite.

The opposite of `project_schema`, by the same rule: what has no counterpart is a `Leftover`, and
nothing is dropped silently. SQLite has the last word about each line that may be left out.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from server.migration import target
from server.migration.postgres_catalog import Catalog, read_catalog
from server.migration.postgres_indexes import index_statement
from server.migration.postgres_names import fitting
from server.migration.postgres_tables import FileTable, Line, plan_table
from server.migration.postgres_views import Relation, translate_view
from server.migration.project_leftovers import Leftover, Statement, Untranslatable
from server.migration.tables import ForeignKey, Table, parents_first

REFUSED = "SQLite refuses it"


@dataclass(frozen=True)
class Pair:
    """A table as SQLite gets it, and as PostgreSQL has it, with the same columns in one order.

    `sequence` gives the ids on PostgreSQL, empty where nothing does; SQLite itself computes the
    columns that are `computed`.
    """

    table: Table
    there: Table
    sequence: str = ""
    computed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Promise:
    """What must be true of the rows that came: a condition of SQLite's, or a leftover."""

    table: str
    condition: str
    leftover: Leftover


@dataclass(frozen=True)
class FileSchema:
    """What is made on SQLite before the data and after it, and what stays behind."""

    pairs: tuple[Pair, ...]
    create: tuple[str, ...]
    finish: tuple[Statement, ...]
    promises: tuple[Promise, ...]
    leftovers: tuple[Leftover, ...]
    encoding: str


def read_postgres_schema(
    conn: target.Connection, refused: Mapping[Leftover, str] | None = None
) -> FileSchema:
    """Read it within the connection's transaction.

    What is among `refused` was tried with these rows and is left behind, with the reason.
    """
    return _Translation(conn, read_catalog(conn), refused or {}).schema()


class _Translation:
    """One schema on its way, with what has been found so far."""

    def __init__(
        self, conn: target.Connection, catalog: Catalog, refused: Mapping[Leftover, str]
    ) -> None:
        self._catalog = catalog
        self._refused = refused
        self._leftovers: list[Leftover] = []
        tables = [table for table in catalog.tables if table.columns]
        self._leftovers += [
            Leftover("table", table.name, "", "SQLite has no tables without columns.")
            for table in catalog.tables
            if not table.columns
        ]
        wanted = [table.name for table in tables] + [view.name for view in catalog.views]
        wanted += [index.name for table in tables for index in table.indexes]
        self._names = fitting(wanted)
        self._planned = {
            table.number: plan_table(conn, table, self._names[table.name], catalog.bytewise)
            for table in tables
        }

    def schema(self) -> FileSchema:
        """All of it."""
        promises = []
        create = {}
        for planned in self._planned.values():
            lines = list(self._accepted(planned, self._lines(planned)))
            create[planned.name] = _create(planned.name, lines)
            promises += [
                Promise(planned.name, line.condition, line.leftover)
                for line in lines
                if line.condition and line.leftover
            ]
            self._leftovers += planned.leftovers
        finish = [*self._indexes(), *self._views()]
        self._leftovers += [*self._renamed(), *self._catalog.others]
        pairs = {planned.name: self._pair(planned) for planned in self._planned.values()}
        order = [table.name for table in parents_first(pair.table for pair in pairs.values())]
        return FileSchema(
            tuple(pairs[name] for name in order),
            tuple(create[name] for name in order),
            tuple(finish),
            tuple(promises),
            tuple(self._leftovers),
            self._catalog.encoding,
        )

    def _lines(self, planned: FileTable) -> Iterator[Line]:
        yield from planned.lines()
        for constraint in planned.source.constraints:
            if constraint.kind == "f":
                parent = self._planned.get(constraint.parent)
                found = planned.foreign_key(constraint, parent)
                if isinstance(found, Leftover):
                    self._leftovers.append(found)
                else:
                    yield found

    def _accepted(self, planned: FileTable, lines: Iterator[Line]) -> Iterator[Line]:
        """The lines that SQLite takes; the others become leftovers."""
        kept = list(lines)
        required = [line for line in kept if line.leftover is None]
        for line in kept:
            if line.leftover is None:
                yield line
            elif line.leftover in self._refused:
                self._leftovers.append(line.leftover.because(self._refused[line.leftover]))
            elif reason := _refusal(_create(planned.name, [*required, line])):
                self._leftovers.append(line.leftover.because(f"{REFUSED}: {reason}"))
            else:
                yield line

    def _pair(self, planned: FileTable) -> Pair:
        keys = tuple(
            ForeignKey(
                tuple(planned.names[name] for name in key.columns),
                parent.name,
                tuple(parent.names[name] for name in key.references),
            )
            for key in planned.source.constraints
            if key.kind == "f" and (parent := self._planned.get(key.parent))
        )
        return Pair(planned.table(keys), planned.there(), planned.sequence, planned.computed)

    def _indexes(self) -> Iterator[Statement]:
        for planned in self._planned.values():
            for index in planned.source.indexes:
                found = index_statement(planned, index, self._names[index.name])
                if isinstance(found, Leftover):
                    self._leftovers.append(found)
                else:
                    yield found

    def _views(self) -> Iterator[Statement]:
        """Views, each after those that it reads, as they were made."""
        relations = {
            planned.source.name: Relation(planned.name, planned.values)
            for planned in self._planned.values()
        }
        for view in self._catalog.views:
            leftover = Leftover("view", view.name, view.sql, REFUSED)
            try:
                sql, relation = translate_view(
                    view.sql, list(view.columns), relations, self._names[view.name]
                )
            except Untranslatable as why:
                self._leftovers.append(leftover.because(why))
            else:
                relations[view.name] = relation
                yield Statement(sql, leftover)

    def _renamed(self) -> Iterator[Leftover]:
        pairs = list(self._names.items())
        for planned in self._planned.values():
            pairs += [
                (f"{planned.source.name}.{name}", f"{planned.source.name}.{new}")
                for name, new in planned.names.items()
            ]
        for name, new in pairs:
            if name != new:
                yield Leftover("name", name, name, f"SQLite can't have this name; it is {new}.")


def _create(name: str, lines: list[Line]) -> str:
    inside = ",\n    ".join(line.sql for line in sorted(lines, key=lambda line: line.place))
    quoted = name.replace('"', '""')
    return f'CREATE TABLE "{quoted}" (\n    {inside}\n)'


def _refusal(statement: str) -> str:
    """Why SQLite doesn't take the statement; empty when it does."""
    with closing(sqlite3.connect(":memory:")) as conn:
        try:
            conn.execute(statement)
        except sqlite3.Error as error:
            return str(error)
    return ""
