"""PostgreSQL's views for SQLite: one SELECT over tables, views and joins of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from server.migration import postgres_tokens
from server.migration.postgres_expressions import Expressions
from server.migration.postgres_functions import NUMBERS
from server.migration.project_expressions import QUALIFIED
from server.migration.project_leftovers import Untranslatable
from server.migration.project_tokens import Reader, Token
from server.migration.project_values import Value
from server.migration.tables import Kind, quote

_CLAUSES = ("SELECT", "FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "OFFSET")
_REFUSED = ("UNION", "EXCEPT", "INTERSECT", "WINDOW", "WITH", "VALUES", "FETCH", "TABLESAMPLE")
_SIDES = ("LEFT", "RIGHT", "FULL")
_NO_ALIAS = ("JOIN", "CROSS", "ON", *_SIDES)


@dataclass(frozen=True)
class Relation:
    """A table or view that a view may read: its name on SQLite, its columns by PostgreSQL's."""

    name: str
    columns: Mapping[str, Value]


class _ViewExpressions(Expressions):
    """Expressions with aggregates."""

    def called(self, name: str, group: Reader) -> Value:
        """An aggregate, or a function as anywhere."""
        if name == "count":
            return self._count(group)
        if name in ("sum", "avg", "min", "max"):
            return _aggregate(name, self.inside(group).whole())
        return super().called(name, group)

    def _count(self, group: Reader) -> Value:
        if group.accept("*"):
            return Value("count(*)", Kind.INTEGER)
        distinct = "DISTINCT " if group.accept("DISTINCT") else ""
        return Value(f"count({distinct}{self.inside(group).whole().sql})", Kind.INTEGER)


def _aggregate(name: str, value: Value) -> Value:
    sql = f"{name}({value.sql})"
    if name in ("min", "max") and value.kind in (Kind.INTEGER, Kind.FLOAT, Kind.BYTES):
        return Value(sql, value.kind)
    if name in ("min", "max") and value.kind is Kind.TEXT and value.collation == "C":
        return Value(sql, value.kind, "C")
    if value.kind is Kind.FLOAT:
        return Value(sql, Kind.FLOAT)
    if value.kind is Kind.INTEGER:
        # A sum of whole numbers stays one; their mean is a float on SQLite.
        return Value(sql, Kind.INTEGER if name == "sum" else Kind.NUMERIC)
    raise Untranslatable(f"SQLite's {name}() of this type is another")


def translate_view(
    sql: str, names: list[str], relations: Mapping[str, Relation], name: str
) -> tuple[str, Relation]:
    """CREATE VIEW, and what other views find in it; raises `Untranslatable`."""
    reader = postgres_tokens.read(sql.rstrip().rstrip(";"))
    if not reader.accept("SELECT"):
        raise Untranslatable("it isn't a plain SELECT")
    clauses = _clauses(reader)
    columns: dict[str, Value] = {}
    source = _from(clauses["FROM"], relations, columns) if "FROM" in clauses else ""
    distinct = "DISTINCT " if clauses["SELECT"].accept("DISTINCT") else ""
    if clauses["SELECT"].peek().says("ON"):
        raise Untranslatable("DISTINCT ON has no counterpart")
    items = [_item(part, columns) for part in clauses["SELECT"].parts()]
    if len(names) != len(items):
        raise Untranslatable("its columns can't be told")
    pairs = list(zip(names, items, strict=True))
    selected = ", ".join(f"{value.sql} AS {quote(column)}" for column, value in pairs)
    statement = f"CREATE VIEW {quote(name)} AS SELECT {distinct}{selected}{source}"
    found = {column: replace(value, sql=quote(column), plain=True) for column, value in pairs}
    return statement + _rest(clauses, columns), Relation(name, found)


def _clauses(reader: Reader) -> dict[str, Reader]:
    """The clauses by their first words, each without it."""
    found: dict[str, list[Token]] = {"SELECT": []}
    current, depth, before = "SELECT", 0, Token("", "", 0, 0)
    while not reader.done:
        token = reader.take()
        depth += token.says("(") - token.says(")")
        if depth == 0 and token.says(*_REFUSED):
            raise Untranslatable(f"it has {token.text}")
        if depth == 0 and token.says(*_CLAUSES) and not before.says("DISTINCT"):
            current = token.text.upper()
            found[current] = []
        else:
            found[current].append(token)
        before = token
    return {clause: Reader(reader.sql, words) for clause, words in found.items()}


def _item(part: Reader, columns: Mapping[str, Value]) -> Value:
    value = _ViewExpressions(part, columns).expression()
    if part.accept("AS"):
        part.take()
    if not part.done:
        raise Untranslatable(f"{part.text} has no counterpart")
    if value.kind is Kind.NUMERIC and not value.plain:
        raise Untranslatable("SQLite doesn't compute with exact numbers")
    return value


def _from(reader: Reader, relations: Mapping[str, Relation], columns: dict[str, Value]) -> str:
    alone = not any(_is_join(token) for token in _all(reader))
    parts = [_joined(part, relations, columns, alone=alone) for part in reader.parts()]
    if len(parts) > 1 and alone:
        for name in [name for name in columns if QUALIFIED not in name]:
            del columns[name]
    return " FROM " + " CROSS JOIN ".join(parts)


def _all(reader: Reader) -> list[Token]:
    tokens = []
    ahead = 0
    while reader.peek(ahead).kind != "end":
        tokens.append(reader.peek(ahead))
        ahead += 1
    return tokens


def _is_join(token: Token) -> bool:
    return token.says("JOIN")


def _joined(
    reader: Reader, relations: Mapping[str, Relation], columns: dict[str, Value], *, alone: bool
) -> str:
    """A relation with all that is joined to it; PostgreSQL prints each join in parentheses."""
    if reader.peek().says("("):
        left = f"({_joined(reader.group(), relations, columns, alone=alone)})"
    else:
        left = _relation(reader, relations, columns, alone=alone)
    while not reader.done:
        join = _join_word(reader)
        if reader.peek().says("("):
            right = f"({_joined(reader.group(), relations, columns, alone=alone)})"
        else:
            right = _relation(reader, relations, columns, alone=alone)
        left += f" {join} {right}"
        if join != "CROSS JOIN":
            reader.expect("ON")
            condition = _ViewExpressions(reader, columns).expression()
            left += f" ON {_condition(condition)}"
    return left


def _join_word(reader: Reader) -> str:
    if reader.accept("CROSS", "JOIN"):
        return "CROSS JOIN"
    side = reader.take().text.upper() if reader.peek().says(*_SIDES) else ""
    if side in ("RIGHT", "FULL"):
        raise Untranslatable(f"SQLite has no {side} JOIN before its version 3.39")
    reader.expect("JOIN")
    return f"{side} JOIN".strip()


def _relation(
    reader: Reader, relations: Mapping[str, Relation], columns: dict[str, Value], *, alone: bool
) -> str:
    reader.accept("ONLY")
    name = reader.take().value
    relation = relations.get(name)
    if relation is None:
        raise Untranslatable(f"{name} is no table that it can read on SQLite")
    alias = name
    if reader.peek().kind in ("word", "quoted") and not reader.peek().says(*_NO_ALIAS):
        alias = reader.take().value
    if reader.peek().says("(", "."):
        raise Untranslatable(f"{alias} is no plain name")
    for column, value in relation.columns.items():
        shown = replace(value, sql=f"{quote(alias)}.{value.sql}")
        columns[f"{alias}{QUALIFIED}{column}"] = shown
        if alone:
            columns[column] = shown
    return f"{quote(relation.name)} AS {quote(alias)}"


def _condition(value: Value) -> str:
    if value.kind is not Kind.BOOLEAN:
        raise Untranslatable("it takes what is no condition for one")
    return value.sql


def _rest(clauses: dict[str, Reader], columns: Mapping[str, Value]) -> str:
    sql = ""
    if "WHERE" in clauses:
        sql += f" WHERE {_condition(_ViewExpressions(clauses['WHERE'], columns).whole())}"
    if "GROUP" in clauses:
        clauses["GROUP"].expect("BY")
        parts = [Expressions(part, columns).whole() for part in clauses["GROUP"].parts()]
        sql += " GROUP BY " + ", ".join(part.sql for part in parts)
    if "HAVING" in clauses:
        sql += f" HAVING {_condition(_ViewExpressions(clauses['HAVING'], columns).whole())}"
    if "ORDER" in clauses:
        clauses["ORDER"].expect("BY")
        sql += " ORDER BY " + ", ".join(_order(part, columns) for part in clauses["ORDER"].parts())
    for word in ("LIMIT", "OFFSET"):
        if word in clauses:
            sql += f" {word} {_count(clauses[word])}"
    if "OFFSET" in clauses and "LIMIT" not in clauses:
        raise Untranslatable("SQLite has no OFFSET without LIMIT")
    return sql


def _order(part: Reader, columns: Mapping[str, Value]) -> str:
    value = _ViewExpressions(part, columns).expression()
    if value.kind not in (*NUMBERS, Kind.BOOLEAN, Kind.BYTES) and value.collation != "C":
        raise Untranslatable("PostgreSQL sorts it otherwise")
    descending = part.accept("DESC")
    first = descending
    if part.accept("NULLS"):
        first = part.take().says("FIRST")
    if not part.done:
        raise Untranslatable(f"{part.text} has no counterpart")
    return f"{value.sql} {'DESC' if descending else 'ASC'} NULLS {'FIRST' if first else 'LAST'}"


def _count(reader: Reader) -> str:
    value = Expressions(reader, {}).whole()
    if not value.sql.isdecimal():
        raise Untranslatable("its LIMIT is computed")
    return value.sql
