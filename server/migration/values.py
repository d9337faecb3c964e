"""What a value of SQLite is on PostgreSQL: its canonical form there and back, and what has none.

SQLite keeps any value in any column. `canonical` gives the value that means the same in the
column's kind, spelt in the one way that the service itself would have stored, and raises
`Misfit` where there is none. A database whose values are all canonical is copied by `field`.
"""

import json
import math
import re
import struct
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Any

from server.migration.tables import Kind

LARGEST = 2**63 - 1

# Date and time with the separators, fractions and offsets that SQLite's functions read.
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d(?::\d\d)?)(?:\.(\d+))?)?\s*(Z|z|[+-]\d\d:?\d\d)?", re.ASCII
)
_TRUTHS = {"true": 1, "t": 1, "false": 0, "f": 0, "0": 0, "1": 1}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class Misfit(Exception):
    """A value that has no counterpart; `option` is the command's option that settles it."""

    def __init__(self, reason: str, option: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.option = option


QUARANTINE = "--misfits=quarantine"
NUL = "--nul=replace"
UTF8 = "--invalid-utf8=replace"


def canonical(value: object, kind: Kind, zone: tzinfo | None) -> object:
    """The value as the service would store it in SQLite; `zone` is that of naive times.

    Text comes as `bytearray`, as it stands in the file, blobs as `bytes`.
    """
    if value is None:
        return None
    if isinstance(value, bytearray):
        return _FROM_TEXT[kind](_decode(value, kind), zone)
    return _FROM_OTHERS[kind](value)


def _decode(raw: bytearray, kind: Kind) -> str:
    """The text; only where any text may stand another one can take its place."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Misfit("is not UTF-8", UTF8 if kind is Kind.TEXT else QUARANTINE) from error
    if "\0" in text:
        option = NUL if kind is Kind.TEXT else QUARANTINE
        raise Misfit("has a NUL, which PostgreSQL can't store", option)
    return text


def _misfit(value: object, kind: Kind) -> Misfit:
    shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}..."
    name = type(value).__name__.replace("bytes", "a blob").replace("str", "the text")
    return Misfit(f"{name} {shown} is no {kind.name.lower()}", QUARANTINE)


def _integer_text(text: str, zone: tzinfo | None) -> object:
    raise _misfit(text, Kind.INTEGER)


def _boolean_text(text: str, zone: tzinfo | None) -> object:
    if text.lower() not in _TRUTHS:
        raise _misfit(text, Kind.BOOLEAN)
    return _TRUTHS[text.lower()]


def _float_text(text: str, zone: tzinfo | None) -> object:
    raise _misfit(text, Kind.FLOAT)


def _numeric_text(text: str, zone: tzinfo | None) -> object:
    if not _NUMBER.fullmatch(text):
        raise _misfit(text, Kind.NUMERIC)
    return text


def _json_text(text: str, zone: tzinfo | None) -> object:
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _misfit(text, Kind.JSON) from error
    return text


def _refuse_constant(word: str) -> None:
    raise ValueError(word)


def _bytes_text(text: str, zone: tzinfo | None) -> object:
    raise _misfit(text, Kind.BYTES)


def _time_text(text: str, zone: tzinfo | None) -> object:
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise _misfit(text, Kind.TIME)
    day, clock, fraction, offset = match.groups()
    if len(fraction or "") > 6 and fraction.rstrip("0")[6:]:
        raise Misfit(f"the time {text!r} is finer than a microsecond", QUARANTINE)
    spelt = f"{day}T{clock or '00:00:00'}.{(fraction or '0')[:6].ljust(6, '0')}"
    if clock and len(clock) == 5:
        spelt = f"{day}T{clock}:00.000000"
    try:
        moment = datetime.fromisoformat(spelt + (offset or "").upper())
    except ValueError as error:
        raise _misfit(text, Kind.TIME) from error
    return _time(moment, text, zone)


def _time(moment: datetime, shown: object, zone: tzinfo | None) -> str:
    if moment.tzinfo is None:
        if zone is None:
            raise Misfit(f"the time {shown!r} has no time zone", "--assume-timezone=ZONE")
        moment = moment.replace(tzinfo=zone)
    try:
        return moment.astimezone(UTC).isoformat(sep=" ", timespec="microseconds")
    except (OverflowError, ValueError) as error:
        raise _misfit(shown, Kind.TIME) from error


def _integer(value: object) -> object:
    if not isinstance(value, int):
        raise _misfit(value, Kind.INTEGER)
    return value


def _boolean(value: object) -> object:
    if value not in (0, 1):
        raise _misfit(value, Kind.BOOLEAN)
    return int(value)


def _float(value: object) -> object:
    if isinstance(value, int) and int(float(value)) == value:
        return float(value)
    if not isinstance(value, float):
        raise _misfit(value, Kind.FLOAT)
    return value


def _numeric(value: object) -> object:
    if not isinstance(value, int | float) or math.isinf(value):
        raise _misfit(value, Kind.NUMERIC)
    return value


def _text(value: object) -> object:
    raise _misfit(value, Kind.TEXT)


def _json(value: object) -> object:
    raise _misfit(value, Kind.JSON)


def _bytes(value: object) -> object:
    if not isinstance(value, bytes):
        raise _misfit(value, Kind.BYTES)
    return value


def _time_number(value: object) -> object:
    """Seconds since 1970, as programs store them; Julian days can't be told from those."""
    raise _misfit(value, Kind.TIME)


_FROM_TEXT: dict[Kind, Callable[[str, tzinfo | None], object]] = {
    Kind.INTEGER: _integer_text,
    Kind.BOOLEAN: _boolean_text,
    Kind.FLOAT: _float_text,
    Kind.NUMERIC: _numeric_text,
    Kind.TEXT: lambda text, zone: text,
    Kind.JSON: _json_text,
    Kind.TIME: _time_text,
    Kind.BYTES: _bytes_text,
}
_FROM_OTHERS: dict[Kind, Callable[[object], object]] = {
    Kind.INTEGER: _integer,
    Kind.BOOLEAN: _boolean,
    Kind.FLOAT: _float,
    Kind.NUMERIC: _numeric,
    Kind.TEXT: _text,
    Kind.JSON: _json,
    Kind.TIME: _time_number,
    Kind.BYTES: _bytes,
}

# SQL that is true of values that are surely canonical already; {0} is the column. What it isn't
# true of is looked at one by one.
CANONICAL_SQL = {
    Kind.INTEGER: "typeof({0}) = 'integer'",
    Kind.BOOLEAN: "typeof({0}) = 'integer' AND {0} IN (0, 1)",
    Kind.FLOAT: "typeof({0}) = 'real'",
    Kind.NUMERIC: "typeof({0}) = 'integer'",
    Kind.TEXT: "typeof({0}) = 'text' AND instr(CAST({0} AS BLOB), x'00') = 0",
    Kind.JSON: "typeof({0}) = 'text' AND instr(CAST({0} AS BLOB), x'00') = 0 AND json_valid({0})",
    Kind.TIME: "typeof({0}) = 'text' AND {0} GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9] "
    "[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9][0-9][0-9][0-9]+00:00' "
    "AND {0} > '0001' AND date(substr({0}, 1, 10)) = substr({0}, 1, 10) "
    "AND substr({0}, 12, 2) < '24'",
    Kind.BYTES: "typeof({0}) = 'blob'",
}


def _field_text(value: str) -> str:
    """The escapes that PostgreSQL itself prints; a search for each is the fastest way there is."""
    if "\\" in value:
        value = value.replace("\\", "\\\\")
    if "\n" in value:
        value = value.replace("\n", "\\n")
    if "\t" in value:
        value = value.replace("\t", "\\t")
    if "\r" in value:
        value = value.replace("\r", "\\r")
    if "\b" in value:
        value = value.replace("\b", "\\b")
    if "\f" in value:
        value = value.replace("\f", "\\f")
    if "\v" in value:
        value = value.replace("\v", "\\v")
    return value


def _field_time(value: Any) -> str:
    """PostgreSQL prints no zeros at the end of a fraction, and an offset of whole hours short."""
    return f"{value[:26].rstrip('0').rstrip('.')}+00"


def read_time(field: str) -> str:
    """What `_field_time` was made of: a time as the service spells it in SQLite."""
    moment, _, fraction = field.removesuffix("+00").partition(".")
    return f"{moment}.{fraction:0<6}+00:00"


def _field_numeric(value: Any) -> str:
    return format(Decimal(value if isinstance(value, str) else repr(value)), "f")


# A canonical value as COPY's text format has it (PostgreSQL's documentation of COPY), exactly as
# PostgreSQL prints it again; except for floats, which two programs print differently.
FIELD: dict[Kind, Callable[[Any], str]] = {
    Kind.INTEGER: str,
    Kind.BOOLEAN: lambda value: "t" if value else "f",
    Kind.FLOAT: repr,
    Kind.NUMERIC: _field_numeric,
    Kind.TEXT: _field_text,
    Kind.JSON: _field_text,
    Kind.TIME: _field_time,
    Kind.BYTES: lambda value: "\\\\x" + value.hex(),
}
NULL = "\\N"


def float_bits(value: float) -> str:
    """A float as the 16 digits of its IEEE 754 bits, as `encode(float8send(x), 'hex')` has it."""
    return struct.pack(">d", value).hex()
