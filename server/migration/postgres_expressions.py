"""PostgreSQL's expressions as SQLite's, where both surely mean the same.

The opposite of `project_expressions`, by the same rule: what isn't known to be the same is
refused. PostgreSQL prints every operation in parentheses, so operators have no precedence here.
"""

from collections.abc import Mapping

from server.migration import postgres_functions as functions
from server.migration.postgres_tokens import read_type
from server.migration.project_expressions import QUALIFIED
from server.migration.project_leftovers import Untranslatable
from server.migration.project_tokens import Reader, Token
from server.migration.project_values import Value, quote_text
from server.migration.tables import Kind

NULL = Value("NULL", None, constant=True)
NUMBERS = {Kind.INTEGER, Kind.FLOAT, Kind.NUMERIC}
_COMPARISONS = ("=", "<>", "<", "<=", ">", ">=")
_REFUSED = ("SELECT", "EXISTS", "ARRAY", "ROW", "EXTRACT", "POSITION", "CURRENT_TIMESTAMP")
BYTEWISE = "C"


class Expressions:
    """Reads expressions over columns that are known by their names.

    A text whose `collation` is `BYTEWISE` is compared by its bytes, as SQLite compares all texts.
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

    def expression(self) -> Value:
        """What comes next with all operators after it."""
        left = self._operand()
        while not self.reader.done:
            value = self._operated(left)
            if value is None:
                break
            left = value
        return left

    def _operated(self, left: Value) -> Value | None:
        """What the next operator makes of the value; None where none follows."""
        reader = self.reader
        if reader.accept("IS"):
            return self._is(left)
        if reader.peek().says("AND", "OR"):
            sign = reader.take().text.upper()
            right = self._condition_part(sign)
            return Value(f"({_truth(left)} {sign} {_truth(right)})", Kind.BOOLEAN)
        if reader.peek().says(*_COMPARISONS):
            return self._compared(reader.take().text, left)
        if reader.accept("~~"):
            return functions.matched(left, self._operand(), negated=False)
        if reader.accept("!~~"):
            return functions.matched(left, self._operand(), negated=True)
        if reader.accept("||"):
            return Value(f"({_text(left)} || {_text(self._operand())})", Kind.TEXT)
        if reader.peek().says("+", "-", "*", "/", "%"):
            return functions.computed(reader.take().text, left, self._operand())
        return None

    def _condition_part(self, sign: str) -> Value:
        """What stands on the right of AND or OR, which bind less than all others."""
        value = self._operand()
        while not self.reader.done and not self.reader.peek().says("AND", "OR"):
            found = self._operated(value)
            if found is None:
                break
            value = found
        if self.reader.peek().says("AND", "OR") and not self.reader.peek().says(sign):
            raise Untranslatable("it mixes AND with OR without parentheses")
        return value

    def _is(self, left: Value) -> Value:
        negated = "NOT " if self.reader.accept("NOT") else ""
        if self.reader.accept("DISTINCT", "FROM"):
            right = self._operand()
            functions.check_comparable("=", left, right)
            word = "IS" if negated else "IS NOT"
            return Value(f"({left.sql} {word} {right.sql})", Kind.BOOLEAN)
        word = self.reader.take().text.upper()
        if word == "NULL":
            return Value(f"({left.sql} IS {negated}NULL)", Kind.BOOLEAN)
        if word not in ("TRUE", "FALSE"):
            raise Untranslatable(f"IS {word} has no counterpart")
        return Value(f"({_truth(left)} IS {negated}{word})", Kind.BOOLEAN)

    def _compared(self, sign: str, left: Value) -> Value:
        word = self.reader.peek()
        if word.says("ANY", "ALL"):
            return self._among(sign, left)
        right = self._operand()
        functions.check_comparable(sign, left, right)
        return Value(f"({left.sql} {sign} {right.sql})", Kind.BOOLEAN)

    def _among(self, sign: str, left: Value) -> Value:
        """`= ANY (ARRAY[…])`, as which PostgreSQL prints IN; `<> ALL` is NOT IN."""
        word = self.reader.take().text.upper()
        inside = self.reader.group()
        while inside.peek().says("("):
            inside = inside.group()
        if (sign, word) not in (("=", "ANY"), ("<>", "ALL")) or not inside.accept("ARRAY", "["):
            raise Untranslatable(f"{sign} {word} has no counterpart")
        values = [Expressions(part, self._columns).whole() for part in _until_bracket(inside)]
        for value in values:
            functions.check_comparable("=", left, value)
        listed = ", ".join(value.sql for value in values)
        return Value(f"({left.sql} {'NOT ' if sign == '<>' else ''}IN ({listed}))", Kind.BOOLEAN)

    def _operand(self) -> Value:
        """A value with the casts and collations behind it."""
        value = self._first()
        while True:
            if self.reader.accept("::"):
                value = functions.cast(value, read_type(self.reader))
            elif self.reader.accept("COLLATE"):
                value = _collated(value, self.reader)
            else:
                return value

    def _first(self) -> Value:
        reader = self.reader
        token = reader.peek()
        if token.says("("):
            return self.inside(reader.group()).whole().inner()
        if token.says("CASE"):
            return self._case()
        if reader.accept("NOT"):
            return Value(f"(NOT {_truth(self._operand())})", Kind.BOOLEAN)
        if token.says(*_REFUSED):
            raise Untranslatable(f"{token.text} has no counterpart here")
        if token.kind in ("word", "quoted"):
            return self._named()
        reader.take()
        if token.says("-"):
            return functions.negative(self._operand())
        return _literal(token)

    def inside(self, reader: Reader) -> "Expressions":
        """The same over another part of the text."""
        return type(self)(reader, self._columns)

    def _named(self) -> Value:
        token = self.reader.take()
        if self.reader.peek().says("("):
            return self.called(token.value.lower(), self.reader.group())
        if token.says("NULL"):
            return NULL
        if token.says("TRUE", "FALSE"):
            return Value(token.text.upper(), Kind.BOOLEAN, constant=True)
        names = [token.value]
        while self.reader.accept("."):
            names.append(self.reader.take().value)
        value = self._columns.get(QUALIFIED.join(names))
        if value is None:
            raise Untranslatable(f"{'.'.join(names)} is no column that it can use")
        return value

    def called(self, name: str, group: Reader) -> Value:
        """A function of what stands in the group."""
        if self.reader.peek().says("OVER", "FILTER", "WITHIN"):
            raise Untranslatable(f"{self.reader.peek().text} has no counterpart")
        parts = [] if group.done else group.parts()
        return functions.call(name, [self.inside(part).whole() for part in parts])

    def _case(self) -> Value:
        reader = self.reader
        reader.expect("CASE")
        subject = None if reader.peek().says("WHEN") else self.expression()
        sql, results = "", []
        while reader.accept("WHEN"):
            condition = self.expression()
            if subject is not None:
                functions.check_comparable("=", subject, condition)
                condition = Value(f"({subject.sql} = {condition.sql})", Kind.BOOLEAN)
            reader.expect("THEN")
            results.append(self.expression())
            sql += f" WHEN {_truth(condition)} THEN {results[-1].sql}"
        results.append(self.expression() if reader.accept("ELSE") else NULL)
        reader.expect("END")
        kind = functions.common_kind(results)
        return Value(f"(CASE{sql} ELSE {results[-1].sql} END)", kind)


def _until_bracket(reader: Reader) -> list[Reader]:
    """The parts up to the bracket that ends an array."""
    inside = []
    while not reader.peek().says("]"):
        if reader.done or reader.peek().says("["):
            raise Untranslatable("it has an array in an array")
        inside.append(reader.take())
    return Reader(reader.sql, inside).parts()


def _collated(value: Value, reader: Reader) -> Value:
    name = reader.take().value
    while reader.accept("."):
        name = reader.take().value
    if name not in ("C", "POSIX"):
        raise Untranslatable(f"the collation {name} has no counterpart")
    return value.collated(BYTEWISE)


def _literal(token: Token) -> Value:
    if token.kind == "string":
        return Value(quote_text(token.value), Kind.TEXT, BYTEWISE, constant=True)
    if token.kind == "number" and token.text.isdecimal():
        return Value(token.text, Kind.INTEGER, constant=True)
    if token.kind == "number":
        return Value(token.text, Kind.NUMERIC, constant=True)
    raise Untranslatable(f"{token.text or 'its end'} has no counterpart")


def _truth(value: Value) -> str:
    if value.kind not in (Kind.BOOLEAN, None):
        raise Untranslatable("it takes what is no condition for one")
    return value.sql


def _text(value: Value) -> str:
    if value.kind not in (Kind.TEXT, None):
        raise Untranslatable("it joins what isn't text")
    return value.sql
