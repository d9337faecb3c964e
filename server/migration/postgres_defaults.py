"""PostgreSQL's column defaults as SQLite's."""

import re

from server.migration import postgres_tokens
from server.migration.postgres_catalog import CatalogColumn
from server.migration.postgres_expressions import Expressions
from server.migration.postgres_functions import NUMBERS, enclosed
from server.migration.postgres_types import Typed, is_present
from server.migration.project_leftovers import Untranslatable
from server.migration.project_values import quote_text
from server.migration.tables import Kind
from server.migration.values import read_time

# What `project_defaults` makes of SQLite's words for the present moment, as PostgreSQL prints it.
_NOW = "to_char((CURRENT_TIMESTAMP AT TIME ZONE 'UTC'::text), '{}'::text)"
_PRESENT = {
    _NOW.format("YYYY-MM-DD HH24:MI:SS"): "CURRENT_TIMESTAMP",
    _NOW.format("YYYY-MM-DD"): "CURRENT_DATE",
    _NOW.format("HH24:MI:SS"): "CURRENT_TIME",
}
_MOMENT = re.compile(r"'(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?\+00)'::timestamp.*")
_LITERAL = re.compile(r"('(?:[^']|'')*')::[^'()]+(\(\d+\))?[^'()]*", re.DOTALL)


def translate_default(column: CatalogColumn, typed: Typed) -> str:
    """The default of a column; empty where it is NULL; raises `Untranslatable`."""
    sql = column.default or ""
    if typed.kind is Kind.TIME:
        return _time(column)
    if sql in _PRESENT and typed.kind is Kind.TEXT:
        return _PRESENT[sql]
    if not typed.usable and typed.kind is Kind.TEXT:
        return _spelt(sql)
    value = Expressions(postgres_tokens.read(sql), {}).whole()
    if value.kind is None:
        return ""
    if value.kind is not typed.kind and not {value.kind, typed.kind} <= NUMBERS:
        raise Untranslatable("it is of another type than the column")
    if not value.constant or value.sql.startswith("CAST"):
        return enclosed(value)
    return repr(float(value.sql)) if typed.kind is Kind.FLOAT else value.sql


def _time(column: CatalogColumn) -> str:
    if is_present(column):
        return "CURRENT_TIMESTAMP"
    match = _MOMENT.fullmatch(column.default or "")
    if match is None:
        raise Untranslatable("it is computed")
    return quote_text(read_time(match[1]))


def _spelt(sql: str) -> str:
    """The literal of a type that SQLite hasn't, as the text that its values have."""
    if match := _LITERAL.fullmatch(sql):
        return match[1]
    raise Untranslatable("it is computed")
