"""What a project's tables promise about their rows, as statements for after the data."""

from collections.abc import Callable, Iterator
from functools import partial

from server.migration.project_definitions import Check, Reference, read_index
from server.migration.project_leftovers import Leftover, Statement, Untranslatable
from server.migration.project_names import Names
from server.migration.project_source import IndexPart, Source, SourceIndex, SourceTable
from server.migration.project_tables import TargetTable, expression
from server.migration.project_tokens import Reader, caseless
from server.migration.project_values import folded, truth
from server.migration.tables import ForeignKey, Kind, quote

REFUSED = "PostgreSQL refuses it."
Found = Iterator[Statement | Leftover]


def _attempt(leftover: Leftover, translate: Callable[[], str]) -> Statement | Leftover:
    """The statement, or the leftover with the reason why there is none."""
    try:
        return Statement(translate(), leftover)
    except Untranslatable as why:
        return leftover.because(why)


def unique_statements(table: TargetTable, relations: Names) -> Found:
    """Unique constraints, and what a primary key means beyond PostgreSQL's."""
    if not table.keyed:
        yield _unique(table, table.source.key, relations)
    for index in table.source.indexes:
        names = tuple(part.name for part in index.parts if part.name is not None)
        if index.origin == "c" or (index.origin == "pk" and not _folds(table, index)):
            continue
        if _folds(table, index):
            yield _folded_unique(table, index, relations)
        else:
            yield _unique(table, names, relations)


def _folds(table: TargetTable, index: SourceIndex) -> bool:
    return any(_collation(table, part) not in ("", "BINARY") for part in index.parts)


def _collation(table: TargetTable, part: IndexPart) -> str:
    """The part's collation where it counts: for text."""
    if part.name is not None and table.kind(part.name) is not Kind.TEXT:
        return ""
    return part.collation


def _unique(table: TargetTable, columns: tuple[str, ...], relations: Names) -> Statement:
    name = _unique_name(table, columns, relations)
    sql = f"UNIQUE ({', '.join(quote(column) for column in columns)})"
    return Statement(
        f"ALTER TABLE {quote(table.name)} ADD CONSTRAINT {quote(name)} "
        f"UNIQUE ({table.listed(columns)})",
        Leftover("unique", table.source.name, sql, REFUSED),
    )


def _unique_name(table: TargetTable, columns: tuple[str, ...], relations: Names) -> str:
    chosen = table.source.definition.unique_names.get(tuple(caseless(name) for name in columns))
    name = relations.fresh(chosen or "_".join((table.name, *columns, "key")))
    if chosen:
        table.constraints.note(chosen, name)
    return table.constraints.fresh(name)


def _folded_unique(
    table: TargetTable, index: SourceIndex, relations: Names
) -> Statement | Leftover:
    columns = tuple(part.name or "" for part in index.parts)
    collated = ", ".join(
        f"{quote(part.name or '')} COLLATE {part.collation}" for part in index.parts
    )
    name = _unique_name(table, columns, relations)
    leftover = Leftover("unique", table.source.name, f"UNIQUE ({collated})", REFUSED)

    def translate() -> str:
        parts = ", ".join(_part(table, part, None) for part in index.parts)
        return f"CREATE UNIQUE INDEX {quote(name)} ON {quote(table.name)} ({parts})"

    return _attempt(leftover, translate)


def _part(table: TargetTable, part: IndexPart, reader: Reader | None) -> str:
    if part.name is not None:
        value = table.columns[caseless(part.name)]
    elif reader is not None:
        value = expression(reader, table)
    sql = folded(value.sql, part.collation) if value.kind is Kind.TEXT else value.sql
    if not (value.plain and sql == value.sql):
        sql = f"({sql})"
    return f"{sql} DESC" if part.descending else sql


def index_statements(table: TargetTable, relations: Names) -> Found:
    """The indexes that CREATE INDEX made."""
    for index in table.source.indexes:
        if index.origin == "c":
            leftover = Leftover("index", index.name, index.sql, REFUSED)
            yield _attempt(leftover, partial(_index, table, index, relations))


def _index(table: TargetTable, index: SourceIndex, relations: Names) -> str:
    definition = read_index(index.sql)
    parts = ", ".join(
        _part(table, part, reader)
        for part, reader in zip(index.parts, definition.parts, strict=True)
    )
    what = "UNIQUE INDEX" if index.unique else "INDEX"
    sql = f"CREATE {what} {quote(relations[index.name])} ON {quote(table.name)} ({parts})"
    if definition.condition is None:
        return sql
    return f"{sql} WHERE {truth(expression(definition.condition, table))}"


def check_statements(table: TargetTable) -> Found:
    """CHECK constraints."""
    for check in table.source.definition.checks:
        yield _check(table, check, _named(table, check.name))


def _named(table: TargetTable, name: str) -> str:
    """The start of a constraint that keeps its name; without one PostgreSQL finds one."""
    return f"CONSTRAINT {quote(table.constraints.keep(name))} " if name else ""


def _check(table: TargetTable, check: Check, named: str) -> Statement | Leftover:
    name = f"{table.source.name}.{check.name}" if check.name else table.source.name
    leftover = Leftover("check", name, f"CHECK ({check.condition.text})", REFUSED)
    start = f"ALTER TABLE {quote(table.name)} ADD {named}CHECK "
    return _attempt(leftover, lambda: f"{start}({truth(expression(check.condition, table))})")


def resolve(source: Source, table: SourceTable, key: ForeignKey) -> ForeignKey | Leftover:
    """The foreign key with the names as they were made, or why there can be none."""
    leftover = _lost_reference(table, key)
    parent = source.table(key.table)
    if parent is None:
        return leftover.because(f"there is no table {key.table}")
    columns = [table.column(name) for name in key.columns]
    references = [parent.column(name) for name in key.references]
    if len(columns) != len(references) or not all(columns) or not all(references):
        return leftover.because(f"the columns of {parent.name} that it names aren't there")
    names = tuple(column.name for column in columns if column)
    to = tuple(column.name for column in references if column)
    unique = [parent.key, *(index.key() for index in parent.indexes)]
    if not any(found and set(found) == set(to) for found in unique):
        return leftover.because(f"nothing makes these columns of {parent.name} unique")
    return ForeignKey(names, parent.name, to, key.on_delete, key.on_update)


def _lost_reference(table: SourceTable, key: ForeignKey) -> Leftover:
    columns = ", ".join(quote(name) for name in key.columns)
    to = ", ".join(quote(name) for name in key.references)
    sql = f"FOREIGN KEY ({columns}) REFERENCES {quote(key.table)} ({to}) "
    sql += f"ON DELETE {key.on_delete} ON UPDATE {key.on_update}"
    return Leftover("foreign key", table.name, sql, REFUSED)


def foreign_key_statement(
    child: TargetTable, parent: TargetTable, key: ForeignKey, reference: Reference
) -> Statement:
    """A foreign key that `resolve` has found to be one."""
    sql = (
        f"ALTER TABLE {quote(child.name)} ADD {_named(child, reference.name)}"
        f"FOREIGN KEY ({child.listed(key.columns)}) "
        f"REFERENCES {quote(parent.name)} ({parent.listed(key.references)}) "
        f"ON DELETE {key.on_delete} ON UPDATE {key.on_update}"
    )
    if reference.deferred:
        sql += " DEFERRABLE INITIALLY DEFERRED"
    return Statement(sql, _lost_reference(child.source, key))
