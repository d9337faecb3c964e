"""Parts of an expression for PostgreSQL: their kinds and collations, and how they compare."""

import re
from dataclasses import dataclass, replace

from server.migration.project_leftovers import Untranslatable
from server.migration.project_tokens import Token
from server.migration.tables import Kind

_UPPER, _LOWER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"
_NUMBERS = {Kind.INTEGER, Kind.BOOLEAN, Kind.FLOAT, Kind.NUMERIC}
LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Value:
    """SQL for PostgreSQL with its kind, None for NULL.

    `collation` is empty for what has none of its own; `explicit` tells one that COLLATE gave;
    `plain` is true of a column that stands alone; `constant` of a literal.
    """

    sql: str
    kind: Kind | None
    collation: str = ""
    explicit: bool = False
    plain: bool = False
    constant: bool = False

    def collated(self, collation: str) -> "Value":
        """The same under COLLATE."""
        return replace(self, collation=collation, explicit=True)

    def inner(self) -> "Value":
        """The same in parentheses, which hides nothing but that it stands alone."""
        return replace(self, plain=False)


NULL = Value("NULL", None)


def quote_text(value: str) -> str:
    """A text as both databases spell it."""
    return "'" + value.replace("'", "''") + "'"


def literal(token: Token) -> Value:
    """A number, text or blob."""
    if token.kind == "string":
        return Value(quote_text(token.value), Kind.TEXT, constant=True)
    if token.kind == "blob":
        return Value(rf"'\x{token.text[2:-1].lower()}'::bytea", Kind.BYTES, constant=True)
    if token.kind != "number":
        raise Untranslatable(f"{token.text or 'its end'} has no counterpart")
    if re.fullmatch(r"0[xX].*|\d+", token.text):
        whole = int(token.text, 16 if token.text[1:2] in ("x", "X") else 10)
        if whole <= LARGEST:
            return Value(str(whole), Kind.INTEGER, constant=True)
    if token.text[1:2] in ("x", "X"):
        raise Untranslatable(f"{token.text} is too long")
    return Value(f"'{token.text}'::double precision", Kind.FLOAT, constant=True)


def truth(value: Value) -> str:
    """The value as a condition."""
    if value.kind is None:
        return "NULL::boolean"
    if value.kind is Kind.BOOLEAN:
        return value.sql
    return f"({number(value)} <> 0)"


def number(value: Value) -> str:
    """The value as a number; literals as wide as columns are."""
    if value.kind is None:
        return "NULL::bigint"
    if value.kind not in _NUMBERS:
        raise Untranslatable("SQLite computes with what isn't a number")
    if value.kind is Kind.BOOLEAN:
        return f"({value.sql})::integer::bigint"
    return f"{value.sql}::bigint" if value.constant and value.kind is Kind.INTEGER else value.sql


def integer(value: Value) -> str:
    """The value as a whole number."""
    if value.kind in (Kind.FLOAT, Kind.NUMERIC):
        raise Untranslatable("SQLite makes a whole number of it first")
    return number(value)


def real(value: Value) -> str:
    """The value as a float, as which SQLite computes."""
    return f"{number(value)}::double precision"


def text(value: Value) -> str:
    """The value as text, where SQLite spells it the same."""
    if value.kind in (Kind.TEXT, None):
        return f"{value.sql}::text" if value.kind is None else value.sql
    if value.kind in (Kind.INTEGER, Kind.BOOLEAN):
        return f"{number(value)}::text"
    raise Untranslatable("SQLite makes a text of it in its own way")


def folded(sql: str, collation: str) -> str:
    """A text as the collation sees it."""
    if collation == "NOCASE":
        return f"translate({sql}, '{_UPPER}', '{_LOWER}')"
    if collation == "RTRIM":
        return f"rtrim({sql}, ' ')"
    if collation in ("BINARY", ""):
        return sql
    raise Untranslatable(f"the collation {collation} is the application's own")


def sides(left: Value, right: Value) -> tuple[str, str]:
    """Two values so that PostgreSQL finds equal what SQLite does."""
    kinds = {left.kind, right.kind} - {None}
    if Kind.JSON in kinds:
        raise Untranslatable("SQLite compares the text of JSON")
    if len(kinds) == 1 and kinds != {Kind.TEXT}:
        return left.sql, right.sql
    if kinds <= _NUMBERS:
        return number(left), number(right)
    if kinds != {Kind.TEXT}:
        raise Untranslatable("it compares values of different types")
    chosen = right if right.explicit and not left.explicit else left
    collation = chosen.collation or right.collation
    return folded(left.sql, collation), folded(right.sql, collation)


def compare(sign: str, left: Value, right: Value) -> Value:
    """A comparison; texts come in the order of their bytes."""
    first, second = sides(left, right)
    if sign[0] in "<>" and sign not in ("<>",) and Kind.TEXT in (left.kind, right.kind):
        first = f'{first} COLLATE "C"'
    sign = {"==": "=", "!=": "<>"}.get(sign, sign)
    return Value(f"({first} {sign} {second})", Kind.BOOLEAN)


def contained(value: Value, among: list[Value]) -> Value:
    """`value IN (…)`; the collation is that of the value on the left.

    But SQLite makes `=` of one value alone, where that of the right counts, too.
    """
    if any(other.explicit for other in among):
        raise Untranslatable("IN has a COLLATE on its right")
    left = value.collated(value.collation or "BINARY")
    pairs = [sides(left, other) for other in among]
    if len({first for first, _ in pairs}) == 1:
        sql = f"{pairs[0][0]} IN ({', '.join(second for _, second in pairs)})"
    else:
        sql = " OR ".join(f"{first} = {second}" for first, second in pairs)
    return Value(f"({sql})", Kind.BOOLEAN)


def unified(values: list[Value]) -> tuple[list[str], Kind | None]:
    """Values of which one is the result, and their common kind."""
    kinds = {value.kind for value in values} - {None}
    if len(kinds) <= 1:
        return [value.sql for value in values], next(iter(kinds), None)
    if kinds <= {Kind.INTEGER, Kind.BOOLEAN}:
        return [number(value) for value in values], Kind.INTEGER
    raise Untranslatable("its results are of different types")


def matched(sign: str, left: Value, pattern: Value, escape: Value | None) -> Value:
    """LIKE, which folds ASCII letters, or GLOB with a pattern that is known."""
    if left.kind is not Kind.TEXT or pattern.kind is not Kind.TEXT:
        raise Untranslatable(f"{sign} compares what isn't text")
    if sign == "GLOB":
        if not pattern.constant or escape:
            raise Untranslatable("GLOB has a pattern that is computed")
        expression = quote_text(_regular(pattern.sql[1:-1].replace("''", "'")))
        return Value(f'({left.sql} COLLATE "C" ~ {expression})', Kind.BOOLEAN)
    mark = "''" if escape is None else escape.sql
    if escape and not re.fullmatch(r"'[^A-Za-z%_']'", mark):
        raise Untranslatable("LIKE has an ESCAPE that is a letter or computed")
    folding = f"{folded(left.sql, 'NOCASE')} LIKE {folded(pattern.sql, 'NOCASE')}"
    return Value(f"({folding} ESCAPE {mark})", Kind.BOOLEAN)


_GLOB = re.compile(r"\*|\?|\[\^?\]?[^\]]*\]|.", re.DOTALL)


def _regular(pattern: str) -> str:
    """A pattern of GLOB as a regular expression."""
    return "^(?:" + "".join(_regular_part(part) for part in _GLOB.findall(pattern)) + ")$"


def _regular_part(part: str) -> str:
    if part in ("*", "?"):
        return {"*": ".*", "?": "."}[part]
    if len(part) == 1:
        if part == "[":
            raise Untranslatable("its pattern has a [ without an end")
        return f"\\{part}" if part.isascii() and not part.isalnum() else part
    inside = part[1:-1]
    negation = "^" if inside.startswith("^") else ""
    inside = inside.removeprefix("^")
    if not inside or re.search(r"[\[\]\\^]|^-|-$", inside):
        raise Untranslatable(f"the pattern {part} has no counterpart")
    return f"[{negation}{inside}]"
