"""The schema of a project's SQLite database, for PostgreSQL.

Such a schema is its users' own. Tables, columns, keys, constraints and indexes move, and views
where they surely mean the same; whatever doesn't is a `Leftover`, so that nothing is dropped
silently. PostgreSQL has the last word about each statement of `finish`.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from server.migration import project_constraints as constraints
from server.migration.project_definitions import Reference
from server.migration.project_leftovers import Leftover, Statement, Untranslatable
from server.migration.project_names import RELATION, Names
from server.migration.project_source import (
    Source,
    SourceTable,
    plain_rows,
    read_source,
    shadows_of,
)
from server.migration.project_tables import TargetTable, create_table, plan_table
from server.migration.project_tokens import caseless
from server.migration.project_views import Relation, translate_view
from server.migration.tables import Column, ForeignKey, Table, parents_first, quote

__all__ = ["Leftover", "ProjectSchema", "Statement", "read_project_schema"]


@dataclass(frozen=True)
class ProjectSchema:
    """What is made on PostgreSQL before the data and after it, and what stays behind.

    `tables` are what rows are copied from, parents first, `targets` the same under the names
    that PostgreSQL has, with the same columns in the same order.
    """

    tables: tuple[Table, ...]
    targets: tuple[Table, ...]
    create: tuple[str, ...]
    finish: tuple[Statement, ...]
    leftovers: tuple[Leftover, ...]


def read_project_schema(conn: sqlite3.Connection) -> ProjectSchema:
    """Read it from a snapshot that nobody changes; the connection stays as it was."""
    with plain_rows(conn):
        return _Translation(conn).schema()


class _Translation:
    """One schema on its way, with what has been found so far."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self._source = read_source(conn)
        self._names = Names(RELATION, _relation_names(self._source))
        self._finish: list[Statement] = []
        self._leftovers: list[Leftover] = []
        self._planned = {
            table.name: plan_table(conn, self._source, table, self._names[table.name])
            for table in self._source.tables
        }
        self._keys = {table.name: list(self._resolved(table)) for table in self._source.tables}

    def schema(self) -> ProjectSchema:
        """All of it."""
        tables = parents_first(self._table(planned) for planned in self._planned.values())
        create = [self._create(self._planned[table.name]) for table in tables]
        planned = [self._planned[table.name] for table in tables]
        for table in planned:
            self._take(constraints.unique_statements(table, self._names))
        for table in planned:
            self._take(constraints.index_statements(table, self._names))
        for table in planned:
            self._take(constraints.check_statements(table))
        for table in planned:
            self._take(self._foreign_keys(table))
        self._take(self._views())
        self._leftovers += self._others()
        targets = tuple(self._target(table) for table in tables)
        finish, leftovers = tuple(self._finish), tuple(self._leftovers)
        return ProjectSchema(tuple(tables), targets, tuple(create), finish, leftovers)

    def _take(self, found: Iterable[Statement | Leftover]) -> None:
        for each in found:
            if isinstance(each, Statement):
                self._finish.append(each)
            else:
                self._leftovers.append(each)

    def _create(self, table: TargetTable) -> str:
        sql, leftovers = create_table(table, self._names)
        self._leftovers += [*table.leftovers, *leftovers]
        return sql

    def _resolved(self, table: SourceTable) -> Iterator[tuple[ForeignKey, Reference]]:
        """The foreign keys that can move; the others become leftovers."""
        for key, reference in zip(table.foreign_keys, table.definition.references, strict=True):
            found = constraints.resolve(self._source, table, key)
            if isinstance(found, Leftover):
                self._leftovers.append(found)
            else:
                yield found, reference

    def _foreign_keys(self, table: TargetTable) -> Iterator[Statement]:
        for key, reference in self._keys[table.source.name]:
            parent = self._planned[key.table]
            yield constraints.foreign_key_statement(table, parent, key, reference)

    def _table(self, table: TargetTable) -> Table:
        """The table as rows are read from it."""
        source = table.source
        key = source.key if table.keyed else ()
        columns = tuple(
            Column(
                column.name,
                table.kind(column.name),
                not (column.not_null or column.name in key),
                column.default,
            )
            for column in table.copied
        )
        return Table(source.name, columns, key, tuple(key for key, _ in self._keys[source.name]))

    def _target(self, table: Table) -> Table:
        """The same table as rows are written to it."""
        names = self._planned[table.name].names
        keys = tuple(
            replace(
                key,
                columns=tuple(names[name] for name in key.columns),
                table=self._names[key.table],
                references=tuple(self._planned[key.table].names[n] for n in key.references),
            )
            for key in table.foreign_keys
        )
        columns = tuple(replace(column, name=names[column.name]) for column in table.columns)
        key = tuple(names[name] for name in table.key)
        return Table(self._names[table.name], columns, key, keys)

    def _views(self) -> Iterator[Statement | Leftover]:
        """Views, each after those that it reads."""
        relations = {
            caseless(name): Relation(planned.name, planned.columns)
            for name, planned in self._planned.items()
        }
        waiting = dict(self._source.views)
        reasons: dict[str, str] = {}
        while waiting:
            moved = False
            for name, sql in list(waiting.items()):
                try:
                    statement, relation = translate_view(
                        self._conn, name, sql, relations, self._names[name]
                    )
                except Untranslatable as why:
                    reasons[name] = str(why)
                else:
                    relations[caseless(name)] = relation
                    del waiting[name]
                    moved = True
                    refused = Leftover("view", name, sql, constraints.REFUSED)
                    yield Statement(statement, refused)
            if not moved:
                break
        for name, sql in waiting.items():
            yield Leftover("view", name, sql, "").because(reasons[name])

    def _others(self) -> Iterator[Leftover]:
        for name, given in self._names.changed:
            reason = f'PostgreSQL can\'t have this name; there it is "{given}".'
            yield Leftover("name", name, name, reason)
        for table in self._planned.values():
            for name, given in table.constraints.changed:
                reason = f"PostgreSQL can't have this constraint's name; there it is \"{given}\"."
                yield Leftover("name", f"{table.source.name}.{name}", name, reason)
        for name, sql in self._source.triggers:
            yield Leftover("trigger", name, sql, "PostgreSQL's triggers are another language.")
        for name, sql in self._source.virtual:
            yield Leftover("virtual table", name, sql, self._virtual_reason(name, sql))

    def _virtual_reason(self, name: str, sql: str) -> str:
        reason = "PostgreSQL has no such tables."
        try:
            rows = self._conn.execute(f"SELECT count(*) FROM {quote(name)}").fetchone()[0]
        except sqlite3.Error as error:
            reason += f" It can't be read ({error})."
        else:
            reason += f" Its {rows} rows stay behind."
        kept = [
            shadow
            for shadow in shadows_of(name, sql)
            if self._conn.execute(
                "SELECT 1 FROM sqlite_master WHERE lower(name) = ?", (shadow,)
            ).fetchone()
        ]
        return f"{reason} They are kept in {', '.join(kept)}." if kept else reason


def _relation_names(source: Source) -> list[str]:
    indexes = [
        index.name for table in source.tables for index in table.indexes if index.origin == "c"
    ]
    views = [name for name, _ in source.views]
    return [*(table.name for table in source.tables), *views, *indexes]
