"""The functions of SQLite that PostgreSQL can compute the same."""

from collections.abc import Callable

from server.migration.project_leftovers import Untranslatable
from server.migration.project_values import (
    NULL,
    Value,
    folded,
    integer,
    number,
    quote_text,
    sides,
    text,
    truth,
    unified,
)
from server.migration.tables import Kind

_STORED_AS = {
    Kind.INTEGER: "integer",
    Kind.BOOLEAN: "integer",
    Kind.FLOAT: "real",
    Kind.TEXT: "text",
    Kind.TIME: "text",
    Kind.BYTES: "blob",
}


def call(name: str, values: list[Value]) -> Value:
    """The function of these arguments; raises `Untranslatable`."""
    function = _FUNCTIONS.get((name, len(values))) or _FUNCTIONS.get((name, -1))
    if function is None:
        raise Untranslatable(f"{name}() of SQLite has no counterpart")
    value = function(*values)
    return value if value.kind else NULL


def _only(value: Value, *kinds: Kind) -> str:
    if value.kind not in kinds:
        raise Untranslatable("a function takes what isn't of its type")
    return value.sql


def _length(value: Value) -> Value:
    return Value(f"length({_only(value, Kind.TEXT, Kind.BYTES)})::bigint", Kind.INTEGER)


def _lower(value: Value) -> Value:
    return Value(folded(_only(value, Kind.TEXT), "NOCASE"), Kind.TEXT)


def _upper(value: Value) -> Value:
    first, last = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return Value(f"translate({_only(value, Kind.TEXT)}, '{first}', '{last}')", Kind.TEXT)


def _trimming(function: str) -> Callable[..., Value]:
    def trimmed(value: Value, *characters: Value) -> Value:
        cut = text(characters[0]) if characters else "' '"
        return Value(f"{function}({_only(value, Kind.TEXT)}, {cut})", Kind.TEXT)

    return trimmed


def _abs(value: Value) -> Value:
    whole = value.kind in (Kind.INTEGER, Kind.BOOLEAN)
    return Value(f"abs({number(value)})", Kind.INTEGER if whole else value.kind)


def _coalesce(*values: Value) -> Value:
    sqls, kind = unified(list(values))
    return Value(f"coalesce({', '.join(sqls)})", kind)


def _nullif(left: Value, right: Value) -> Value:
    first, second = sides(left, right)
    return Value(f"(CASE WHEN {first} = {second} THEN NULL ELSE {left.sql} END)", left.kind)


def _iif(condition: Value, yes: Value, no: Value) -> Value:
    sqls, kind = unified([yes, no])
    return Value(f"(CASE WHEN {truth(condition)} THEN {sqls[0]} ELSE {sqls[1]} END)", kind)


def _instr(value: Value, part: Value) -> Value:
    found = f"strpos({_only(value, Kind.TEXT)}, {_only(part, Kind.TEXT)})::bigint"
    return Value(found, Kind.INTEGER)


def _substr(value: Value, *place: Value) -> Value:
    if not all(part.constant and part.sql.isdecimal() for part in place) or place[0].sql == "0":
        raise Untranslatable("substr() counts from the end, or from where a column says")
    numbers = ", ".join(part.sql for part in place)
    return Value(f"substr({_only(value, Kind.TEXT)}, {numbers})", Kind.TEXT)


def _replace(value: Value, old: Value, new: Value) -> Value:
    sqls = ", ".join(_only(part, Kind.TEXT) for part in (value, old, new))
    return Value(f"replace({sqls})", Kind.TEXT)


def _extreme(function: str) -> Callable[..., Value]:
    def extreme(first: Value, *others: Value) -> Value:
        """NULL where one is NULL; PostgreSQL's would pass over it."""
        if not others:
            raise Untranslatable("it is an aggregate here")
        numbers = [number(value) for value in (first, *others)]
        if len({value.kind for value in (first, *others)}) > 1:
            raise Untranslatable("its arguments are of different types")
        missing = " OR ".join(f"{sql} IS NULL" for sql in numbers)
        chosen = f"{function}({', '.join(numbers)})"
        kind = Kind.INTEGER if first.kind is Kind.BOOLEAN else first.kind
        return Value(f"(CASE WHEN {missing} THEN NULL ELSE {chosen} END)", kind)

    return extreme


def _typeof(value: Value) -> Value:
    stored = _STORED_AS.get(value.kind) if value.kind else None
    if stored is None:
        raise Untranslatable("typeof() depends on the value")
    sql = f"(CASE WHEN {value.sql} IS NULL THEN 'null' ELSE {quote_text(stored)} END)"
    return Value(sql, Kind.TEXT)


def _json_valid(value: Value) -> Value:
    if value.kind is not Kind.JSON:
        raise Untranslatable("PostgreSQL 15 can't say whether a text is JSON")
    return Value(f"(CASE WHEN {value.sql} IS NULL THEN NULL ELSE TRUE END)", Kind.BOOLEAN)


def _hex(value: Value) -> Value:
    """Empty for NULL, as SQLite has it."""
    sql = f"coalesce(upper(encode({_only(value, Kind.BYTES)}, 'hex')), '')"
    return Value(sql, Kind.TEXT)


_FUNCTIONS: dict[tuple[str, int], Callable[..., Value]] = {
    ("length", 1): _length,
    ("lower", 1): _lower,
    ("upper", 1): _upper,
    ("trim", 1): _trimming("btrim"),
    ("trim", 2): _trimming("btrim"),
    ("ltrim", 1): _trimming("ltrim"),
    ("ltrim", 2): _trimming("ltrim"),
    ("rtrim", 1): _trimming("rtrim"),
    ("rtrim", 2): _trimming("rtrim"),
    ("abs", 1): _abs,
    ("coalesce", -1): _coalesce,
    ("ifnull", 2): _coalesce,
    ("nullif", 2): _nullif,
    ("iif", 3): _iif,
    ("instr", 2): _instr,
    ("substr", 2): _substr,
    ("substr", 3): _substr,
    ("substring", 2): _substr,
    ("substring", 3): _substr,
    ("replace", 3): _replace,
    ("max", -1): _extreme("greatest"),
    ("min", -1): _extreme("least"),
    ("typeof", 1): _typeof,
    ("json_valid", 1): _json_valid,
    ("hex", 1): _hex,
}


def cast(value: Value, declared: str) -> Value:
    """CAST to a declared type, where both databases make the same of it."""
    wanted = declared.upper()
    if "INT" in wanted:
        if value.kind is Kind.FLOAT:
            return Value(f"trunc({value.sql})::bigint", Kind.INTEGER)
        return Value(integer(value), Kind.INTEGER)
    if any(word in wanted for word in ("CHAR", "CLOB", "TEXT")):
        return Value(text(value), Kind.TEXT)
    if any(word in wanted for word in ("REAL", "FLOA", "DOUB")):
        return Value(f"{number(value)}::double precision", Kind.FLOAT)
    raise Untranslatable(f"CAST to {declared} has no counterpart")
