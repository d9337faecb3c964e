"""A project's tables for PostgreSQL: CREATE TABLE, and which columns are copied."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from server.migration.project_defaults import translate_default
from server.migration.project_expressions import QUALIFIED, Expressions
from server.migration.project_leftovers import Leftover, Untranslatable
from server.migration.project_names import ANY, COLUMN, Names
from server.migration.project_source import Source, SourceColumn, SourceTable
from server.migration.project_tokens import Reader, caseless
from server.migration.project_types import Typed, find_kind
from server.migration.project_values import Value, number
from server.migration.tables import Kind, quote

# A third of a page of PostgreSQL's, less what each row of an index needs besides.
LONGEST_KEY = 2600


@dataclass(frozen=True)
class TargetTable:
    """A table under the names that PostgreSQL has.

    `columns` are the columns by their names in lower case, `generated` those that PostgreSQL
    computes; `keyed` is false where the key has NULLs, which PostgreSQL's keys can't.
    """

    source: SourceTable
    name: str
    names: Names
    constraints: Names
    columns: dict[str, Value]
    kinds: dict[str, Kind]
    generated: dict[str, str]
    keyed: bool
    leftovers: tuple[Leftover, ...]

    def kind(self, column: str) -> Kind:
        """The kind of a column."""
        return self.kinds[caseless(column)]

    def listed(self, columns: tuple[str, ...]) -> str:
        """Columns by their names on PostgreSQL, as they stand in parentheses."""
        return ", ".join(quote(self.names[column]) for column in columns)

    @property
    def copied(self) -> tuple[SourceColumn, ...]:
        """The columns whose values are copied."""
        return tuple(c for c in self.source.columns if c.name not in self.generated)


def plan_table(
    conn: sqlite3.Connection, schema: Source, source: SourceTable, name: str
) -> TargetTable:
    """What the table becomes; reads values where they decide."""
    names = Names(COLUMN, (column.name for column in source.columns))
    typed = {column.name: find_kind(conn, schema, source, column) for column in source.columns}
    kinds = {caseless(name): each.kind for name, each in typed.items()}
    generated, leftovers = _generate(source, names, kinds)
    keyed = source.numbered or not _has_odd_key(conn, source)
    leftovers += _lost(source, names, typed)
    if not keyed:
        leftovers.append(_lost_key(source))
    return TargetTable(
        source,
        name,
        names,
        Names(ANY),
        _columns(source, names, kinds),
        kinds,
        generated,
        keyed,
        tuple(leftovers),
    )


def _columns(source: SourceTable, names: Names, kinds: dict[str, Kind]) -> dict[str, Value]:
    collations = source.definition.collations
    return {
        name: Value(quote(names[column.name]), kinds[name], collation, plain=True)
        for column in source.columns
        for name in [caseless(column.name)]
        for collation in [collations.get(name, "BINARY")]
    }


def _has_odd_key(conn: sqlite3.Connection, source: SourceTable) -> bool:
    """Whether keys are NULL, as SQLite allows, or longer than an index of PostgreSQL takes."""
    if not source.key:
        return False
    names = [quote(name) for name in source.key]
    missing = " OR ".join(f"{name} IS NULL" for name in names)
    length = " + ".join(f"length(CAST({name} AS BLOB))" for name in names)
    query = f"SELECT 1 FROM {quote(source.name)} WHERE {missing} OR {length} > {LONGEST_KEY}"
    return conn.execute(f"{query} LIMIT 1").fetchone() is not None


def _lost_key(source: SourceTable) -> Leftover:
    sql = f"PRIMARY KEY ({', '.join(quote(name) for name in source.key)})"
    reason = "A row has NULL or more than 2,600 bytes in the key, so it is a unique constraint."
    return Leftover("primary key", source.name, sql, reason)


def _generate(
    source: SourceTable, names: Names, kinds: dict[str, Kind]
) -> tuple[dict[str, str], list[Leftover]]:
    """The expressions of generated columns by name, and what is to be said about them.

    In `kinds` a column without a type gets that of its expression.
    """
    found: dict[str, str] = {}
    leftovers = []
    known = _columns(source, names, kinds)
    computed = [column for column in source.columns if column.generated]
    for column in computed:
        del known[caseless(column.name)]  # PostgreSQL lets none depend on another
    for column in computed:
        reader = source.definition.generated[caseless(column.name)]
        sql, name = reader.text, f"{source.name}.{column.name}"
        try:
            value = Expressions(reader, known).whole()
            if not column.declared and value.kind:
                # SQLite has no booleans, only their numbers.
                kind = Kind.INTEGER if value.kind is Kind.BOOLEAN else value.kind
                kinds[caseless(column.name)] = kind
            found[column.name] = _as_kind(value, kinds[caseless(column.name)])
            reason = "It is VIRTUAL on SQLite, and stored on PostgreSQL."
        except Untranslatable as why:
            reason = f"Its values move, the expression doesn't: {why}."
        if column.name not in found or column.hidden == 2:
            leftovers.append(Leftover("generated column", name, sql, reason))
    return found, leftovers


def _as_kind(value: Value, kind: Kind) -> str:
    if value.kind is kind:
        return value.sql
    if value.kind is Kind.BOOLEAN and kind is Kind.INTEGER:
        return number(value)
    if value.kind is Kind.INTEGER and kind in (Kind.FLOAT, Kind.NUMERIC):
        return f"({value.sql})::{kind.value}"
    raise Untranslatable("its type isn't that of the column")


def _lost(source: SourceTable, names: Names, typed: dict[str, Typed]) -> list[Leftover]:
    """What of the columns' names, types and collations doesn't move."""
    found = [each.leftover for each in typed.values() if each.leftover]
    for name, given in names.changed:
        reason = f'PostgreSQL can\'t have this name of a column; there it is "{given}".'
        found.append(Leftover("name", f"{source.name}.{name}", name, reason))
    for name, collation in source.definition.collations.items():
        column = source.column(name)
        if collation != "BINARY" and column and typed[column.name].kind is Kind.TEXT:
            reason = "PostgreSQL compares this column byte by byte; what is unique, indexed or "
            reason += "checked here keeps its collation where there is a statement for it."
            place = f"{source.name}.{column.name}"
            found.append(Leftover("collation", place, f"COLLATE {collation}", reason))
    for clause in source.definition.conflicts:
        if clause != "ABORT":
            reason = "PostgreSQL has no such rule in a table; a conflict is an error there."
            sql = f"ON CONFLICT {clause}"
            found.append(Leftover("conflict clause", source.name, sql, reason))
    return found


def create_table(table: TargetTable, relations: Names) -> tuple[str, list[Leftover]]:
    """CREATE TABLE with its primary key, and the defaults that can't move."""
    leftovers: list[Leftover] = []
    lines = [
        " ".join(_column(table, column, relations, leftovers)) for column in table.source.columns
    ]
    if table.source.key and table.keyed:
        name = relations.fresh(table.source.definition.key_name or f"{table.name}_pkey")
        table.constraints.fresh(name)
        key = table.listed(table.source.key)
        lines.append(f"CONSTRAINT {quote(name)} PRIMARY KEY ({key})")
    inside = ",\n    ".join(lines)
    return f"CREATE TABLE {quote(table.name)} (\n    {inside}\n)", leftovers


def _column(
    table: TargetTable, column: SourceColumn, relations: Names, leftovers: list[Leftover]
) -> Iterator[str]:
    name, kind = table.names[column.name], table.kind(column.name)
    yield f"{quote(name)} {kind.value}"
    if table.source.numbered and column.key:
        sequence = quote(relations.fresh(f"{table.name}_{name}_seq"))
        yield f"GENERATED BY DEFAULT AS IDENTITY (SEQUENCE NAME {sequence})"
    elif column.name in table.generated:
        yield f"GENERATED ALWAYS AS ({table.generated[column.name]}) STORED"
    elif column.default is not None:
        try:
            default = translate_default(column.default, kind)
        except Untranslatable as why:
            place = f"{table.source.name}.{column.name}"
            leftovers.append(Leftover("default", place, column.default, "").because(why))
        else:
            yield f"DEFAULT {default}" if default else ""
    if column.not_null:
        yield "NOT NULL"


def expression(reader: Reader, table: TargetTable) -> Value:
    """An expression over the table's columns, which may stand behind its name."""
    own = caseless(table.source.name)
    qualified = {f"{own}{QUALIFIED}{name}": value for name, value in table.columns.items()}
    return Expressions(reader, table.columns | qualified).whole()
