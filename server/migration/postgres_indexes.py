"""PostgreSQL's indexes for SQLite."""

from collections.abc import Iterator

from server.migration import postgres_tokens
from server.migration.postgres_catalog import CatalogIndex
from server.migration.postgres_expressions import Expressions
from server.migration.postgres_functions import enclosed
from server.migration.postgres_tables import FileTable
from server.migration.project_leftovers import Leftover, Statement, Untranslatable
from server.migration.tables import Kind, quote


def index_statement(table: FileTable, index: CatalogIndex, name: str) -> Statement | Leftover:
    """The index as SQLite makes it, or why there is none."""
    leftover = Leftover("index", index.name, index.text, "")
    if not index.plain:
        return leftover.because("SQLite has no such indexes")
    try:
        parts = ", ".join(_parts(table, index))
        condition = _condition(table, index)
    except Untranslatable as why:
        return leftover.because(why)
    what = "UNIQUE INDEX" if index.unique else "INDEX"
    sql = f"CREATE {what} {quote(name)} ON {quote(table.name)} ({parts}){condition}"
    return Statement(sql, leftover.because("SQLite refuses it"))


def _parts(table: FileTable, index: CatalogIndex) -> Iterator[str]:
    for column, part, descending in zip(index.columns, index.parts, index.descending, strict=True):
        if column is not None:
            sql = quote(table.names[column])
        else:
            sql = enclosed(Expressions(postgres_tokens.read(part), table.values).whole())
        yield f"{sql} DESC" if descending else sql


def _condition(table: FileTable, index: CatalogIndex) -> str:
    if index.condition is None:
        return ""
    value = Expressions(postgres_tokens.read(index.condition), table.values).whole()
    if value.kind is not Kind.BOOLEAN:
        raise Untranslatable("its condition isn't one on SQLite")
    return f" WHERE {value.sql}"
