"""The functions, operators and casts of PostgreSQL that SQLite can compute the same."""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from server.migration.project_leftovers import Untranslatable
from server.migration.project_values import LARGEST, Value
from server.migration.tables import Kind

NUMBERS = {Kind.INTEGER, Kind.FLOAT, Kind.NUMERIC}
_KINDS = {
    "smallint": Kind.INTEGER,
    "integer": Kind.INTEGER,
    "bigint": Kind.INTEGER,
    "boolean": Kind.BOOLEAN,
    "double precision": Kind.FLOAT,
    "numeric": Kind.NUMERIC,
    "text": Kind.TEXT,
    "character varying": Kind.TEXT,
    "name": Kind.TEXT,
    "bytea": Kind.BYTES,
    "json": Kind.JSON,
    "jsonb": Kind.JSON,
}
_UPPER, _LOWER = "'ABCDEFGHIJKLMNOPQRSTUVWXYZ'", "'abcdefghijklmnopqrstuvwxyz'"


def enclosed(value: Value) -> str:
    """The value in parentheses, which every operation has already."""
    return value.sql if value.sql.startswith("(") else f"({value.sql})"


def check_comparable(sign: str, left: Value, right: Value) -> None:
    """Refuse what the two databases would compare in different ways."""
    kinds = {left.kind, right.kind} - {None}
    if kinds & {Kind.TIME, Kind.JSON}:
        raise Untranslatable("SQLite compares times and JSON as texts")
    if len(kinds) > 1 and not kinds <= NUMBERS:
        raise Untranslatable("it compares values of different types")
    bytewise = "C" in (left.collation, right.collation) and not (left.constant and right.constant)
    if sign not in ("=", "<>") and kinds == {Kind.TEXT} and not _by_bytes(left, right, bytewise):
        raise Untranslatable("PostgreSQL orders texts by the rules of a language here")


def _by_bytes(left: Value, right: Value, bytewise: bool) -> bool:
    """A literal has no order of its own."""
    return bytewise and all(v.collation == "C" for v in (left, right) if not v.constant)


def common_kind(values: list[Value]) -> Kind | None:
    """The kind of values of which one is the result."""
    kinds = {value.kind for value in values} - {None}
    if Kind.INTEGER in kinds and all(_is_whole(value) for value in values):
        # What PostgreSQL sums up is no longer a whole number to it.
        return Kind.INTEGER
    if len(kinds) > 1:
        raise Untranslatable("its results are of different types")
    return next(iter(kinds), None)


def _is_whole(value: Value) -> bool:
    return value.kind in (Kind.INTEGER, None) or (value.constant and value.sql.isdecimal())


def computed(sign: str, left: Value, right: Value) -> Value:
    """Arithmetic on whole numbers, or on floats."""
    kinds = {left.kind, right.kind}
    if kinds == {Kind.INTEGER}:
        return Value(f"({left.sql} {sign} {right.sql})", Kind.INTEGER)
    if kinds == {Kind.FLOAT} and sign != "%":
        return Value(f"({left.sql} {sign} {right.sql})", Kind.FLOAT)
    raise Untranslatable("SQLite computes otherwise with these types")


def negative(value: Value) -> Value:
    """The number with the other sign."""
    if value.kind not in NUMBERS:
        raise Untranslatable("it takes what is no number for one")
    return Value(f"-{value.sql}", value.kind, constant=value.constant)


def matched(value: Value, pattern: Value, *, negated: bool) -> Value:
    """LIKE, which minds the case of letters as GLOB does on SQLite."""
    if value.kind is not Kind.TEXT or not pattern.constant or pattern.kind is not Kind.TEXT:
        raise Untranslatable("LIKE has a pattern that is computed")
    if "\\" in pattern.sql:
        raise Untranslatable("LIKE has an escape in its pattern")
    glob = re.sub(r"[*?\[]", lambda found: f"[{found[0]}]", pattern.sql)
    glob = glob.replace("%", "*").replace("_", "?")
    word = "NOT GLOB" if negated else "GLOB"
    return Value(f"({value.sql} {word} {glob})", Kind.BOOLEAN)


def cast(value: Value, wanted: str) -> Value:
    """A cast that changes nothing, or the same on both sides."""
    name, _, size = wanted.partition("(")
    kind = Kind.TIME if wanted == "timestamp with time zone" else _KINDS.get(name.strip())
    if kind is None:
        raise Untranslatable(f"a cast to {wanted} has no counterpart")
    if value.kind is None:
        return Value("NULL", kind, constant=True)
    if value.constant and value.kind is Kind.TEXT:
        return _constant(value, kind, size)
    if size:
        raise Untranslatable(f"a cast to {wanted} has no counterpart")
    if kind is value.kind:
        return value
    return _converted(value, kind, wanted)


def _converted(value: Value, kind: Kind, wanted: str) -> Value:
    if kind is Kind.INTEGER and value.kind is Kind.BOOLEAN:
        return Value(value.sql, kind)
    if kind is Kind.TEXT and value.kind is Kind.INTEGER:
        return Value(f"CAST({value.sql} AS TEXT)", kind, "C")
    if kind is Kind.NUMERIC and value.kind is Kind.INTEGER:
        return Value(value.sql, kind, constant=value.constant)
    if kind is Kind.FLOAT and value.constant and value.kind in NUMBERS:
        return Value(_number(value.sql, kind), kind, constant=True)
    if kind is Kind.FLOAT and value.kind in NUMBERS:
        return Value(f"CAST({value.sql} AS REAL)", kind, constant=value.constant)
    raise Untranslatable(f"a cast to {wanted} has no counterpart")


def _constant(value: Value, kind: Kind, size: str) -> Value:
    text = value.sql[1:-1].replace("''", "'")
    if size and not (kind is Kind.TEXT and len(text) <= int(size.rstrip(")"))):
        raise Untranslatable("a cast cuts or rounds")
    if kind in (Kind.TEXT, Kind.JSON):
        return Value(value.sql, kind, value.collation, constant=True)
    if kind in NUMBERS:
        return Value(_number(text, kind), kind, constant=True)
    if kind is Kind.BYTES and re.fullmatch(r"\\x([0-9a-f]{2})*", text):
        return Value(f"x'{text[2:]}'", kind, constant=True)
    if kind is Kind.BOOLEAN and text in ("t", "f", "true", "false"):
        return Value("TRUE" if text[0] == "t" else "FALSE", kind, constant=True)
    raise Untranslatable(f"the literal {value.sql} has no counterpart")


def _number(text: str, kind: Kind) -> str:
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise Untranslatable(f"the number {text} has no counterpart") from error
    if not number.is_finite() or (kind is Kind.INTEGER and abs(number) > LARGEST):
        raise Untranslatable(f"the number {text} has no counterpart")
    if kind is Kind.FLOAT:
        return repr(float(number))
    return text


def call(name: str, values: list[Value]) -> Value:
    """The function of these arguments; raises `Untranslatable`."""
    function = _FUNCTIONS.get((name, len(values))) or _FUNCTIONS.get((name, -1))
    if function is None:
        raise Untranslatable(f"{name}() of PostgreSQL has no counterpart")
    return function(*values)


def _only(value: Value, *kinds: Kind) -> str:
    if value.kind not in kinds:
        raise Untranslatable("a function takes what isn't of its type")
    return value.sql


def _length(value: Value) -> Value:
    return Value(f"length({_only(value, Kind.TEXT, Kind.BYTES)})", Kind.INTEGER)


def _trimming(function: str) -> Callable[..., Value]:
    def trimmed(*values: Value) -> Value:
        sqls = ", ".join(_only(value, Kind.TEXT) for value in values)
        return Value(f"{function}({sqls})", Kind.TEXT, values[0].collation)

    return trimmed


def _abs(value: Value) -> Value:
    return Value(f"abs({_only(value, Kind.INTEGER, Kind.FLOAT)})", value.kind)


def _coalesce(*values: Value) -> Value:
    listed = ", ".join(value.sql for value in values)
    return Value(f"coalesce({listed})", common_kind(list(values)), values[0].collation)


def _nullif(left: Value, right: Value) -> Value:
    check_comparable("=", left, right)
    return Value(f"nullif({left.sql}, {right.sql})", left.kind, left.collation)


def _translate(value: Value, old: Value, new: Value) -> Value:
    """Only what folds ASCII's letters, as SQLite's own functions do."""
    name = {(_UPPER, _LOWER): "lower", (_LOWER, _UPPER): "upper"}.get((old.sql, new.sql))
    if name is None:
        raise Untranslatable("translate() of PostgreSQL has no counterpart")
    return Value(f"{name}({_only(value, Kind.TEXT)})", Kind.TEXT, value.collation)


def _replace(value: Value, old: Value, new: Value) -> Value:
    sqls = ", ".join(_only(part, Kind.TEXT) for part in (value, old, new))
    return Value(f"replace({sqls})", Kind.TEXT, value.collation)


def _strpos(value: Value, part: Value) -> Value:
    return Value(f"instr({_only(value, Kind.TEXT)}, {_only(part, Kind.TEXT)})", Kind.INTEGER)


def _substr(value: Value, *place: Value) -> Value:
    if not all(part.constant and part.sql.isdecimal() for part in place) or place[0].sql == "0":
        raise Untranslatable("substr() counts from where a column says")
    numbers = ", ".join(part.sql for part in place)
    return Value(f"substr({_only(value, Kind.TEXT)}, {numbers})", Kind.TEXT, value.collation)


_FUNCTIONS: dict[tuple[str, int], Callable[..., Value]] = {
    ("length", 1): _length,
    ("char_length", 1): _length,
    ("character_length", 1): _length,
    ("btrim", 1): _trimming("trim"),
    ("btrim", 2): _trimming("trim"),
    ("ltrim", 1): _trimming("ltrim"),
    ("ltrim", 2): _trimming("ltrim"),
    ("rtrim", 1): _trimming("rtrim"),
    ("rtrim", 2): _trimming("rtrim"),
    ("abs", 1): _abs,
    ("coalesce", -1): _coalesce,
    ("nullif", 2): _nullif,
    ("translate", 3): _translate,
    ("replace", 3): _replace,
    ("strpos", 2): _strpos,
    ("substr", 2): _substr,
    ("substr", 3): _substr,
}
