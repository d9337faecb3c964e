"""SQLite's expressions as PostgreSQL's, where both surely mean the same.

Every part has a kind, as PostgreSQL has no comparison of a text with a number, and a collation.
What isn't known to be the same is refused: a rule that is kept in a file does no harm, one that
silently means something else does. Precedence: https://sqlite.org/lang_expr.html
"""

from collections.abc import Mapping

from server.migration import project_functions as functions
from server.migration.project_leftovers import Untranslatable
from server.migration.project_tokens import Reader, Token, caseless
from server.migration.project_values import (
    NULL,
    Value,
    compare,
    contained,
    integer,
    literal,
    matched,
    number,
    real,
    text,
    truth,
    unified,
)
from server.migration.tables import Kind

QUALIFIED = "\0"
_EQUAL, _COMPARE, _BITS, _ADD, _MULTIPLY, _JOIN, _COLLATE, _SIGN = range(4, 12)
_POWERS = {
    "OR": 1,
    "AND": 2,
    **dict.fromkeys(("=", "==", "<>", "!=", "IS", "IN", "LIKE", "GLOB", "MATCH"), _EQUAL),
    **dict.fromkeys(("REGEXP", "BETWEEN", "ISNULL", "NOTNULL", "NOT"), _EQUAL),
    **dict.fromkeys(("<", "<=", ">", ">="), _COMPARE),
    **dict.fromkeys(("&", "|", "<<", ">>"), _BITS),
    **dict.fromkeys(("+", "-"), _ADD),
    **dict.fromkeys(("*", "/", "%"), _MULTIPLY),
    **dict.fromkeys(("||", "->", "->>"), _JOIN),
    "COLLATE": _COLLATE,
}
_WORDS = ("SELECT", "EXISTS", "RAISE", "WITH", "CURRENT_TIMESTAMP", "CURRENT_DATE", "CURRENT_TIME")


class Expressions:
    """Reads expressions over columns that are known by their names in lower case.

    `QUALIFIED` joins a column's name to that of its table where one stands before it.
    """

    def __init__(self, reader: Reader, columns: Mapping[str, Value]) -> None:
        self.reader = reader
        self._columns = columns

    def whole(self) -> Value:
        """The expression that all of the text is."""
        value = self.expression()
        if not self.reader.done:
            raise Untranslatable(f"{self.reader.peek().text} has no counterpart")
        return value

    def expression(self, least: int = 0) -> Value:
        """The longest expression from here on whose operators bind at least so."""
        left = self._first()
        while (power := self._power()) and power >= least:
            left = self._operated(left, power)
        return left

    def _power(self) -> int:
        token = self.reader.peek()
        if token.says("NOT") and not self.reader.peek(1).says(
            "NULL", "LIKE", "GLOB", "MATCH", "REGEXP", "BETWEEN", "IN"
        ):
            return 0
        known = token.kind in ("word", "sign")
        return _POWERS.get(token.text.upper(), 0) if known else 0

    def _operated(self, left: Value, power: int) -> Value:
        if self.reader.accept("NOT", "NULL"):
            return _absent(left, negated=True)
        negated = self.reader.accept("NOT")
        sign = self.reader.take().text.upper()
        value = self._special(sign, left)
        if value is not None:
            return Value(f"(NOT {truth(value)})", Kind.BOOLEAN) if negated else value
        right = self.expression(power + 1)
        if sign in ("AND", "OR"):
            return Value(f"({truth(left)} {sign} {truth(right)})", Kind.BOOLEAN)
        if power in (_EQUAL, _COMPARE):
            return compare(sign, left, right)
        if sign == "||":
            return Value(f"({text(left)} || {text(right)})", Kind.TEXT)
        return _computed(sign, left, right)

    def _special(self, sign: str, left: Value) -> Value | None:
        """What an operator is that doesn't just stand between two values."""
        if sign in ("ISNULL", "NOTNULL"):
            return _absent(left, negated=sign == "NOTNULL")
        if sign == "IS":
            return self._is(left)
        if sign == "IN":
            return self._in(left)
        if sign == "BETWEEN":
            low = self.expression(_COMPARE)
            self.reader.expect("AND")
            least, most = compare(">=", left, low), self._most(left)
            return Value(f"({least.sql} AND {most.sql})", Kind.BOOLEAN)
        if sign in ("LIKE", "GLOB"):
            return self._matched(sign, left)
        if sign == "COLLATE":
            return left.collated(self.reader.take().value.upper())
        if sign in ("MATCH", "REGEXP", "->", "->>"):
            raise Untranslatable(f"{sign} has no counterpart")
        return None

    def _most(self, left: Value) -> Value:
        return compare("<=", left, self.expression(_COMPARE))

    def _is(self, left: Value) -> Value:
        negated = self.reader.accept("NOT")
        if self.reader.accept("DISTINCT", "FROM"):
            negated = not negated
        right = self.expression(_COMPARE)
        if right.constant and right.kind is Kind.BOOLEAN:
            word = f"{'NOT ' if negated else ''}{right.sql}"
            return Value(f"({truth(left)} IS {word})", Kind.BOOLEAN)
        if right.kind is None:
            return _absent(left, negated=negated)
        return compare("IS DISTINCT FROM" if negated else "IS NOT DISTINCT FROM", left, right)

    def _in(self, left: Value) -> Value:
        if not self.reader.peek().says("("):
            raise Untranslatable("IN with a table has no counterpart")
        group = self.reader.group()
        if group.done:
            return Value("FALSE", Kind.BOOLEAN)
        return contained(left, [self._inside(part).whole() for part in group.parts()])

    def _matched(self, sign: str, left: Value) -> Value:
        pattern = self.expression(_COMPARE)
        escape = self.expression(_COMPARE) if self.reader.accept("ESCAPE") else None
        return matched(sign, left, pattern, escape)

    def _inside(self, reader: Reader) -> "Expressions":
        return type(self)(reader, self._columns)

    def _first(self) -> Value:
        token = self.reader.peek()
        if token.says("("):
            value = self._inside(self.reader.group()).whole()
            return value.inner()
        if token.says("CASE"):
            return self._case()
        if token.says("CAST") and self.reader.peek(1).says("("):
            return self._cast()
        if token.says(*_WORDS):
            raise Untranslatable(f"{token.text} has no counterpart here")
        if token.kind in ("word", "quoted"):
            return self._named()
        self.reader.take()
        if token.says("+", "-", "~"):
            return _signed(token.text, self.expression(_SIGN))
        return literal(token)

    def _named(self) -> Value:
        """A function, a column, or what a name means that is neither."""
        if self.reader.peek().says("NOT"):
            self.reader.take()
            return Value(f"(NOT {truth(self.expression(_EQUAL))})", Kind.BOOLEAN)
        if self.reader.peek(1).says("("):
            return self._call()
        token = self.reader.take()
        names = [caseless(token.value)]
        while self.reader.accept("."):
            names.append(caseless(self.reader.take().value))
        if len(names) == 3 and names[0] == "main":
            del names[0]
        value = self._columns.get(QUALIFIED.join(names))
        return _nameless(token, names) if value is None else value

    def _call(self) -> Value:
        name = caseless(self.reader.take().value)
        group = self.reader.group()
        if self.reader.peek().says("OVER", "FILTER"):
            raise Untranslatable(f"{self.reader.peek().text} has no counterpart")
        parts = [] if group.done else group.parts()
        return self.called(name, parts)

    def called(self, name: str, parts: list[Reader]) -> Value:
        """A function of these arguments."""
        return functions.call(name, [self._inside(part).whole() for part in parts])

    def _case(self) -> Value:
        self.reader.expect("CASE")
        subject = None if self.reader.peek().says("WHEN") else self.expression()
        conditions, results = [], []
        while self.reader.accept("WHEN"):
            condition = self.expression()
            conditions.append(compare("=", subject, condition) if subject else condition)
            self.reader.expect("THEN")
            results.append(self.expression())
        results.append(self.expression() if self.reader.accept("ELSE") else NULL)
        self.reader.expect("END")
        sqls, kind = unified(results)
        cases = "".join(
            f" WHEN {truth(condition)} THEN {sql}"
            for condition, sql in zip(conditions, sqls, strict=False)
        )
        return Value(f"(CASE{cases} ELSE {sqls[-1]} END)", kind) if kind else NULL

    def _cast(self) -> Value:
        self.reader.expect("CAST")
        inner = self._inside(self.reader.group())
        value = inner.expression()
        inner.reader.expect("AS")
        return functions.cast(value, inner.reader.text)


def _absent(value: Value, *, negated: bool) -> Value:
    return Value(f"({value.sql} IS {'NOT ' if negated else ''}NULL)", Kind.BOOLEAN)


def _nameless(token: Token, names: list[str]) -> Value:
    if token.says("NULL"):
        return NULL
    if token.says("TRUE", "FALSE"):
        return Value(token.text.upper(), Kind.BOOLEAN, constant=True)
    if token.text[0] == '"' and len(names) == 1:
        # SQLite takes "quoted" text for a string where no column has that name.
        return literal(Token("string", "'" + token.value.replace("'", "''") + "'", 0, 0))
    raise Untranslatable(f"{'.'.join(names)} is no column that it can use")


def _signed(sign: str, value: Value) -> Value:
    if sign == "~":
        return Value(f"(~ {integer(value)})", Kind.INTEGER)
    if sign == "+":
        return value.inner()
    kind = Kind.INTEGER if value.kind is Kind.BOOLEAN else value.kind
    return Value(f"(-{number(value)})", kind, constant=value.constant)


def _computed(sign: str, left: Value, right: Value) -> Value:
    if sign in ("<<", ">>"):
        raise Untranslatable("shifting bits is different on PostgreSQL")
    whole = {left.kind, right.kind} <= {Kind.INTEGER, Kind.BOOLEAN}
    if whole or sign in ("&", "|", "%"):
        first, second = integer(left), integer(right)
        kind = Kind.INTEGER
    else:
        if sign == "/" and Kind.NUMERIC in (left.kind, right.kind):
            raise Untranslatable("SQLite divides whole numbers differently from others")
        first, second = real(left), real(right)
        kind = Kind.FLOAT
    if sign in ("/", "%"):
        # SQLite gives NULL where PostgreSQL would fail.
        second = f"NULLIF({second}, 0)"
    return Value(f"({first} {sign} {second})", kind)
