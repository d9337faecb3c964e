"""The types of PostgreSQL's columns on SQLite: what is declared, and how values are read."""

from dataclasses import dataclass

from server.migration import target
from server.migration.postgres_catalog import CatalogColumn
from server.migration.tables import Kind, quote

_PRESENT = ("CURRENT_TIMESTAMP", "now()", "transaction_timestamp()")
_PLAIN = {
    "smallint": (Kind.INTEGER, "SMALLINT"),
    "integer": (Kind.INTEGER, "INTEGER"),
    "bigint": (Kind.INTEGER, "BIGINT"),
    "boolean": (Kind.BOOLEAN, "BOOLEAN"),
    "real": (Kind.FLOAT, "REAL"),
    "double precision": (Kind.FLOAT, "DOUBLE PRECISION"),
    "text": (Kind.TEXT, "TEXT"),
    "bytea": (Kind.BYTES, "BLOB"),
}
# Neither minus zero nor more than 15 digits stay what they are in a column that SQLite takes for
# one of numbers. With BLOB in its type it leaves them alone; `project_types` still reads a number.
_FLOATS_AS_THEY_ARE, _NUMBERS_AS_THEY_ARE = "DOUBLE BLOB", "NUMERIC BLOB"
_MINUS_ZERO = r"float8send({0}) = '\x8000000000000000'"
_LONG = (
    "{0} NOT IN ('NaN', 'Infinity', '-Infinity') AND CASE WHEN scale(trim_scale({0})) = 0 "
    "THEN abs({0}) > 9223372036854775807 ELSE length(abs(trim_scale({0}))::text) > 16 END"
)


@dataclass(frozen=True)
class Typed:
    """What a column is on SQLite.

    `shown` is what PostgreSQL selects for it; `lost` says what of the type has no counterpart;
    `usable` is false where expressions over the column would mean something else.
    """

    kind: Kind
    declared: str
    shown: str = ""
    lost: str = ""
    usable: bool = True


def is_present(column: CatalogColumn) -> bool:
    """Whether the default is the present moment."""
    return column.default in _PRESENT


def find_type(conn: target.Connection, relation: str, column: CatalogColumn) -> Typed:
    """The type of a column; its values decide where SQLite's numbers would bend some."""
    found = _by_base(conn, relation, column)
    reasons = [found.lost] if found.lost else []
    if column.domain:
        reasons.append("SQLite has no domains")
    if column.full != column.base and column.base not in ("character varying", "character"):
        reasons.append("SQLite has types of any length only")
    return Typed(found.kind, found.declared, found.shown, "; ".join(reasons), found.usable)


def _by_base(conn: target.Connection, relation: str, column: CatalogColumn) -> Typed:
    name, base = quote(column.name), column.base
    if base in ("real", "double precision") and _any(conn, relation, _MINUS_ZERO.format(name)):
        return Typed(Kind.FLOAT, _FLOATS_AS_THEY_ARE, "", "minus zero stays with this type alone")
    if base in _PLAIN:
        # PostgreSQL computes with `real` in single precision.
        return Typed(*_PLAIN[base], usable=base != "real")
    if base == "character varying":
        return Typed(Kind.TEXT, column.full.replace("character varying", "VARCHAR"))
    if base == "character":
        shown = f"textin(bpcharout({name}))"
        lost = "SQLite doesn't fill texts up with spaces, nor ignores these"
        return Typed(Kind.TEXT, column.full.replace("character", "CHAR"), shown, lost, False)
    if base == "timestamp with time zone":
        # The spelling of the service's own tables, which tells a time by its default.
        return Typed(Kind.TIME, "TEXT" if is_present(column) else "TIMESTAMPTZ")
    if base in ("json", "jsonb"):
        lost = "SQLite keeps the text of JSON" if base == "jsonb" else ""
        return Typed(Kind.JSON, "JSON TEXT", f"{name}::text", lost)
    if base == "numeric":
        return _numeric(conn, relation, column)
    lost = "SQLite has no such type; its values are texts"
    return Typed(Kind.TEXT, "TEXT", f"{name}::text", lost, False)


def _numeric(conn: target.Connection, relation: str, column: CatalogColumn) -> Typed:
    name = quote(column.name)
    if _any(conn, relation, _LONG.format(name)):
        lost = "its longest numbers are texts, which no number of SQLite holds"
        return Typed(Kind.NUMERIC, _NUMBERS_AS_THEY_ARE, f"trim_scale({name})", lost, False)
    return Typed(Kind.NUMERIC, column.full.upper(), f"trim_scale({name})")


def _any(conn: target.Connection, relation: str, condition: str) -> bool:
    found = target.value(conn, f"SELECT EXISTS (SELECT FROM {relation} WHERE {condition})")
    return bool(found)
