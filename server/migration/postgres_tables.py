"""A table of PostgreSQL's for SQLite: its lines in CREATE TABLE, and how its rows are read."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from server.migration import postgres_tokens, target
from server.migration.postgres_catalog import CatalogColumn, CatalogConstraint, CatalogTable
from server.migration.postgres_defaults import translate_default
from server.migration.postgres_expressions import BYTEWISE, Expressions
from server.migration.postgres_functions import NUMBERS, enclosed
from server.migration.postgres_names import fitting
from server.migration.postgres_types import Typed, find_type
from server.migration.project_leftovers import Leftover, Untranslatable
from server.migration.project_values import Value
from server.migration.tables import Column, ForeignKey, Kind, Table, quote

_ACTIONS = {"a": "", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
_COLUMNS, _KEY, _UNIQUE, _CHECKS, _FOREIGN = range(5)


@dataclass(frozen=True)
class Line:
    """A line of CREATE TABLE; one with a leftover may be left out.

    `condition` is what it promises of the rows, where SQLite hasn't looked while they came.
    """

    sql: str
    place: int
    leftover: Leftover | None = None
    condition: str = ""


@dataclass(frozen=True)
class FileTable:
    """A table under the names that SQLite has; `values` are its columns for expressions."""

    source: CatalogTable
    name: str
    names: dict[str, str]
    typed: dict[str, Typed]
    values: dict[str, Value]
    generated: dict[str, str]
    leftovers: tuple[Leftover, ...]

    @property
    def numbered(self) -> CatalogColumn | None:
        """The column of the key that SQLite numbers as PostgreSQL's sequence does."""
        if len(self.source.key) != 1:
            return None
        found = next(column for column in self.source.columns if column.name == self.source.key[0])
        return found if found.sequence and self.typed[found.name].kind is Kind.INTEGER else None

    @property
    def sequence(self) -> str:
        """What gives the ids of the rows on PostgreSQL."""
        return (self.numbered.sequence or "") if self.numbered else ""

    @property
    def computed(self) -> frozenset[str]:
        """The columns that SQLite computes, by their names there."""
        return frozenset(self.names[name] for name in self.generated)

    def listed(self, columns: tuple[str, ...]) -> str:
        """Columns by their names on SQLite, as they stand in parentheses."""
        return ", ".join(quote(self.names[column]) for column in columns)

    def table(self, keys: tuple[ForeignKey, ...]) -> Table:
        """The table as rows are written to it, and read again."""
        columns = tuple(
            Column(self.names[c.name], self.typed[c.name].kind, not c.not_null)
            for c in self.source.columns
        )
        return Table(self.name, columns, tuple(self.names[name] for name in self._order()), keys)

    def there(self) -> Table:
        """The table as rows are read from PostgreSQL."""
        columns = tuple(
            Column(c.name, self.typed[c.name].kind, not c.not_null, shown=self.typed[c.name].shown)
            for c in self.source.columns
        )
        return Table(self.source.name, columns, self._order(), relation=relation(self.source))

    def _order(self) -> tuple[str, ...]:
        """The key, where both databases sort it in one way."""
        kinds = {self.typed[name].kind for name in self.source.key}
        return () if Kind.NUMERIC in kinds else self.source.key

    def lines(self) -> Iterator[Line]:
        """All lines but the foreign keys."""
        for column in self.source.columns:
            yield self._column(column)
            if self.typed[column.name].declared.startswith("VARCHAR("):
                yield self._longest(column)
        for constraint in self.source.constraints:
            if constraint.kind == "p" and not self.numbered:
                sql = f"{_named(self.source, constraint)}PRIMARY KEY "
                yield Line(f"{sql}({self.listed(constraint.columns)})", _KEY)
            elif constraint.kind == "u":
                sql = f"{_named(self.source, constraint)}UNIQUE ({self.listed(constraint.columns)})"
                yield Line(sql, _UNIQUE)
            elif constraint.kind == "c" and (line := self._check(constraint)):
                yield line

    def _column(self, column: CatalogColumn) -> Line:
        sql = f"{quote(self.names[column.name])} {self.typed[column.name].declared}"
        if self.numbered is column:
            name = quote(self.names[column.name])
            return Line(f"{name} INTEGER PRIMARY KEY AUTOINCREMENT", _COLUMNS)
        if column.not_null:
            sql += " NOT NULL"
        if column.name in self.generated:
            sql += f" GENERATED ALWAYS AS {self.generated[column.name]} STORED"
        elif default := _default(self.source, column, self.typed[column.name])[0]:
            sql += f" DEFAULT {default}"
        return Line(sql, _COLUMNS)

    def _longest(self, column: CatalogColumn) -> Line:
        """What VARCHAR(n) promises on PostgreSQL, and doesn't on SQLite."""
        size = self.typed[column.name].declared[len("VARCHAR(") : -1]
        return Line(f"CHECK (length({quote(self.names[column.name])}) <= {size})", _CHECKS)

    def _check(self, constraint: CatalogConstraint) -> Line | None:
        try:
            value = Expressions(postgres_tokens.read(constraint.condition or ""), self.values)
            condition = enclosed(value.whole())
        except Untranslatable:
            return None
        sql = f"{_named(self.source, constraint)}CHECK {condition}"
        return Line(sql, _CHECKS, constraint_leftover(self.source, constraint), condition)

    def foreign_key(
        self, constraint: CatalogConstraint, parent: "FileTable | None"
    ) -> Line | Leftover:
        """A foreign key, or why there is none."""
        leftover = constraint_leftover(self.source, constraint)
        if parent is None:
            return leftover.because("the table that it names doesn't move")
        if constraint.sets_some or constraint.match_full:
            return leftover.because("SQLite has no such foreign keys")
        sql = f"{_named(self.source, constraint)}FOREIGN KEY ({self.listed(constraint.columns)}) "
        sql += f"REFERENCES {quote(parent.name)} ({parent.listed(constraint.references)})"
        for event, action in (("DELETE", constraint.on_delete), ("UPDATE", constraint.on_update)):
            sql += f" ON {event} {_ACTIONS[action]}" if _ACTIONS[action] else ""
        if constraint.deferrable and constraint.deferred:
            sql += " DEFERRABLE INITIALLY DEFERRED"
        return Line(sql, _FOREIGN)


def relation(table: CatalogTable) -> str:
    """What PostgreSQL selects the table's own rows from."""
    return f"{'ONLY ' if table.inherited else ''}public.{quote(table.name)}"


def constraint_leftover(table: CatalogTable, constraint: CatalogConstraint) -> Leftover:
    """What a constraint becomes that has no counterpart."""
    kinds = {"p": "primary key", "u": "unique", "c": "check", "f": "foreign key"}
    kind = kinds.get(constraint.kind, "exclusion")
    return Leftover(kind, f"{table.name}.{constraint.name}", constraint.text, "")


def _named(table: CatalogTable, constraint: CatalogConstraint) -> str:
    """CONSTRAINT with a name that somebody chose; PostgreSQL's own need not be kept."""
    own = rf"{re.escape(table.name)}(_.+)?_(pkey|key|check|fkey)\d*"
    return "" if re.fullmatch(own, constraint.name) else f"CONSTRAINT {quote(constraint.name)} "


def plan_table(
    conn: target.Connection, source: CatalogTable, name: str, bytewise: bool
) -> FileTable:
    """What the table becomes; reads values where they decide."""
    names = fitting(column.name for column in source.columns)
    typed = {c.name: find_type(conn, relation(source), c) for c in source.columns}
    values = {
        c.name: Value(
            quote(names[c.name]),
            typed[c.name].kind,
            BYTEWISE if c.collation in ("C", "POSIX") or (bytewise and not c.collation) else "",
            plain=True,
        )
        for c in source.columns
        if typed[c.name].usable
    }
    leftovers = list(_lost(source, typed))
    generated = {}
    for column in source.columns:
        if column.generated:
            found = _generated(source, column, typed[column.name], values)
            if isinstance(found, Leftover):
                leftovers.append(found)
            else:
                generated[column.name] = found
    leftovers += _unchecked(source, values)
    return FileTable(source, name, names, typed, values, generated, tuple(leftovers))


def _lost(source: CatalogTable, typed: dict[str, Typed]) -> Iterator[Leftover]:
    """What of types, defaults and collations doesn't move."""
    for column in source.columns:
        place = f"{source.name}.{column.name}"
        if lost := typed[column.name].lost:
            yield Leftover("type", place, column.declared, "").because(lost)
        if column.collation and column.collation not in ("C", "POSIX"):
            reason = "SQLite compares texts byte by byte"
            yield Leftover("collation", place, column.collation, "").because(reason)
        if (column.identity or column.sequence) and source.key != (column.name,):
            reason = "SQLite numbers only what alone is the primary key"
            sql = column.default or "GENERATED AS IDENTITY"
            yield Leftover("default", place, sql, "").because(reason)
        elif reason := _default(source, column, typed[column.name])[1]:
            yield Leftover("default", place, column.default or "", "").because(reason)


def _default(source: CatalogTable, column: CatalogColumn, typed: Typed) -> tuple[str, str]:
    """The default on SQLite, or why there is none."""
    if column.default is None or column.generated or column.sequence:
        return "", ""
    try:
        return translate_default(column, typed), ""
    except Untranslatable as why:
        return "", str(why)


def _generated(
    source: CatalogTable, column: CatalogColumn, typed: Typed, values: dict[str, Value]
) -> str | Leftover:
    """The expression of a generated column, which may not depend on another such."""
    plain = {c.name: values[c.name] for c in source.columns if c.name in values and not c.generated}
    place = f"{source.name}.{column.name}"
    try:
        value = Expressions(postgres_tokens.read(column.default or ""), plain).whole()
        if value.kind is not typed.kind and not ({value.kind, typed.kind} <= NUMBERS):
            raise Untranslatable("its type isn't that of the column")
    except Untranslatable as why:
        reason = f"its values move, the expression doesn't: {why}"
        return Leftover("generated column", place, column.default or "", "").because(reason)
    return enclosed(value)


def _unchecked(source: CatalogTable, values: dict[str, Value]) -> Iterator[Leftover]:
    """Constraints without a counterpart; the foreign keys are looked at with their parents."""
    for constraint in source.constraints:
        leftover = constraint_leftover(source, constraint)
        if constraint.kind == "x":
            yield leftover.because("SQLite has no such constraints")
        elif constraint.kind in ("p", "u") and constraint.deferrable:
            yield leftover.because("SQLite checks it at once, not at the end of a transaction")
        elif constraint.kind == "c":
            try:
                Expressions(postgres_tokens.read(constraint.condition or ""), values).whole()
            except Untranslatable as why:
                yield leftover.because(why)
