"""SQLite's column defaults as PostgreSQL's."""

import json
import re
from decimal import Decimal

from server.migration.project_expressions import Expressions
from server.migration.project_leftovers import Untranslatable
from server.migration.project_tokens import Reader, Token
from server.migration.project_values import LARGEST, Value, literal, number, quote_text
from server.migration.tables import Kind

# What SQLite writes for the present moment, always in UTC, as PostgreSQL's to_char spells it.
_DAY, _CLOCK = "YYYY-MM-DD", "HH24:MI:SS"
_MOMENT = f"{_DAY} {_CLOCK}"
_NOW = {
    "current_timestamp": _MOMENT,
    "current_date": _DAY,
    "current_time": _CLOCK,
    "datetime('now')": _MOMENT,
    "date('now')": _DAY,
    "time('now')": _CLOCK,
}
_NOW_AS = re.compile(r"strftime\('([^']*)','now'\)", re.IGNORECASE)
_FORMATS = {
    "%Y": "YYYY",
    "%m": "MM",
    "%d": "DD",
    "%H": "HH24",
    "%M": "MI",
    "%S": "SS",
    "%f": "SS.MS",
    "T": '"T"',
    "Z": '"Z"',
}
_FORMAT = re.compile(r"%[YmdHMSf]|[TZ]|[-: ]")


def translate_default(sql: str, kind: Kind) -> str:
    """The default of a column of this kind; empty where it is NULL; raises `Untranslatable`."""
    present = _present(sql, kind)
    if present:
        return present
    reader = Reader(_bare(sql))
    value = _named(reader) or Expressions(reader, {}).whole()
    if value.kind is None:
        return ""
    return _ASSIGNED[kind](value)


def kind_of_default(sql: str) -> Kind | None:
    """What a literal is; None of all else."""
    reader = Reader(_bare(sql))
    try:
        value = _named(reader) or Expressions(reader, {}).whole()
    except Untranslatable:
        return None
    if not value.constant:
        return None
    return Kind.INTEGER if value.kind is Kind.BOOLEAN else value.kind


def _bare(sql: str) -> str:
    """Without parentheses around all of it."""
    reader = Reader(sql)
    while reader.peek().says("("):
        inner = reader.group()
        if not reader.done:
            return sql
        sql, reader = inner.text, Reader(inner.text)
    return sql


def _named(reader: Reader) -> Value | None:
    """A bare word, or one in "quotes", that SQLite takes for a text."""
    token = reader.peek()
    alone = reader.peek(1).kind == "end"
    if not alone or not (
        token.kind == "quoted" or (token.kind == "word" and not token.says("NULL", "TRUE", "FALSE"))
    ):
        return None
    return literal(Token("string", quote_text(reader.take().value), 0, 0))


def _present(sql: str, kind: Kind) -> str:
    """The default that is the present moment, else empty."""
    spelt = re.sub(r"\s*([(),])\s*", r"\1", _bare(sql))
    known = _NOW.get(spelt.lower())
    if (match := _NOW_AS.fullmatch(spelt)) is not None:
        known = _FORMAT.sub(lambda part: _FORMATS.get(part[0], part[0]), match[1])
        if _FORMAT.sub("", match[1]):
            raise Untranslatable(f"the format {match[1]} has no counterpart")
    if known is None:
        return ""
    if kind is Kind.TIME and known.startswith(_DAY) and _CLOCK in known:
        return "CURRENT_TIMESTAMP"
    if kind is not Kind.TEXT:
        raise Untranslatable("it is a time in a column of another type")
    return f"to_char(CURRENT_TIMESTAMP AT TIME ZONE 'UTC', {quote_text(known)})"


def _integer(value: Value) -> str:
    if value.kind is Kind.TEXT and value.constant:
        return str(_whole(value.sql[1:-1]))
    if value.kind in (Kind.INTEGER, Kind.BOOLEAN):
        return value.sql if value.kind is Kind.INTEGER else number(value)
    if value.kind is Kind.FLOAT and value.constant:
        return str(_whole(_digits(value)))
    raise Untranslatable("it is no whole number")


def _digits(value: Value) -> str:
    return re.sub(r"[^-+.0-9eE]", "", value.sql.replace("::double precision", ""))


def _whole(digits: str) -> int:
    if not re.fullmatch(r"\s*[+-]?\d+(\.0*)?\s*", digits, re.ASCII):
        raise Untranslatable("it is no whole number")
    whole = int(Decimal(digits.strip()))
    if abs(whole) > LARGEST:
        raise Untranslatable("it is larger than any whole number of PostgreSQL")
    return whole


def _boolean(value: Value) -> str:
    if value.kind is Kind.BOOLEAN:
        return value.sql
    truths = {"0": "FALSE", "1": "TRUE", "'0'": "FALSE", "'1'": "TRUE"}
    truths |= {"'false'": "FALSE", "'true'": "TRUE"}
    if value.constant and value.sql.lower() in truths:
        return truths[value.sql.lower()]
    raise Untranslatable("it is neither true nor false")


def _float(value: Value) -> str:
    if value.kind is Kind.TEXT and value.constant:
        return _number_text(value)
    return f"{number(value)}::double precision"


def _numeric(value: Value) -> str:
    if value.kind is Kind.TEXT and value.constant:
        return _number_text(value)
    return _digits(value) if value.constant and value.kind is Kind.FLOAT else number(value)


def _number_text(value: Value) -> str:
    if not re.fullmatch(r"'[+-]?\d+(\.\d*)?'", value.sql, re.ASCII):
        raise Untranslatable("it is no number")
    return value.sql[1:-1]


def _text(value: Value) -> str:
    if value.kind is Kind.TEXT:
        return value.sql
    if value.constant and value.sql.isdecimal():
        return quote_text(value.sql)
    if value.kind in (Kind.INTEGER, Kind.BOOLEAN):
        return f"{number(value)}::text"
    raise Untranslatable("SQLite makes a text of it in its own way")


def _bytes(value: Value) -> str:
    if value.kind is Kind.BYTES:
        return value.sql
    raise Untranslatable("it is no blob")


def _time(value: Value) -> str:
    raise Untranslatable("it is a time in SQLite's spelling")


def _json(value: Value) -> str:
    if value.kind is Kind.TEXT and value.constant:
        _check_json(value.sql[1:-1].replace("''", "'"))
        return value.sql
    raise Untranslatable("it is no JSON")


def _check_json(text: str) -> None:
    try:
        json.loads(text)
    except ValueError as error:
        raise Untranslatable("it is no JSON") from error


_ASSIGNED = {
    Kind.INTEGER: _integer,
    Kind.BOOLEAN: _boolean,
    Kind.FLOAT: _float,
    Kind.NUMERIC: _numeric,
    Kind.TEXT: _text,
    Kind.BYTES: _bytes,
    Kind.TIME: _time,
    Kind.JSON: _json,
}
