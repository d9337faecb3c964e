"""PostgreSQL's column defaults as SQLite's."""

import re

from server.migration import postgres_tokens
from server.migration.postgres_catalog import CatalogColumn
from server.migration.postgres_expressions import Expressions
from server.migration.postgres_functions import NUMBERS
from server.migration.postgres_types import Typed, is_present
from server.migration.project_leftovers import Untranslatable
from server.migration.project_values import quote_text
from server.migration.tables import Kind
from server.migration.values import Misfit, canonical

# What `project_defaults` makes of SQLite's words for the present moment, as PostgreSQL prints it.
_NOW = "to_char((CURRENT_TIMESTAMP AT TIME ZONE 'UTC'::text), '{}'::text)"
_PRESENT = {
    _NOW.format("YYYY-MM-DD HH24:MI:SS"): "CURRENT_TIMESTAMP",
    _NOW.format("YYYY-MM-DD"): "CURRENT_DATE",
    _NOW.format("HH24:MI:SS"): "CURRENT_TIME",
}
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
    return value.sql if value.constant and value.sql[0] != "C" else f"({value.sql})"


def _time(column: CatalogColumn) -> str:
    if is_present(column):
        return "CURRENT_TIMESTAMP"
    match = _LITERAL.fullmatch(column.default or "")
    try:
        moment = canonical(bytearray(match[1][1:-1].encode()), Kind.TIME, None) if match else None
    except Misfit as misfit:
        raise Untranslatable(misfit.reason) from misfit
    if not isinstance(moment, str):
        raise Untranslatable("it is computed")
    return quote_text(moment)


def _spelt(sql: str) -> str:
    """The literal of a type that SQLite hasn't, as the text that its values have."""
    if match := _LITERAL.fullmatch(sql):
        return match[1]
    raise Untranslatable("it is computed")
