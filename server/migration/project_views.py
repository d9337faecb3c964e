"""A project's views for PostgreSQL: one SELECT over tables, views and joins of them."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from server.migration.project_expressions import QUALIFIED, Expressions
from server.migration.project_leftovers import Untranslatable
from server.migration.project_names import LONGEST
from server.migration.project_tokens import Reader, Token, caseless
from server.migration.project_values import Value, folded, number, truth
from server.migration.tables import Kind, quote

_CLAUSES = ("SELECT", "FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT")
_REFUSED = ("UNION", "EXCEPT", "INTERSECT", "WINDOW", "WITH", "VALUES")
_JOINS = ("ON", "LEFT", "RIGHT", "FULL", "INNER", "CROSS", "JOIN", "NATURAL", "OUTER")
_NO_ALIAS = (*_JOINS, "USING", "INDEXED", "NOT")


@dataclass(frozen=True)
class Relation:
    """A table or view that a view may read: its name, and its columns by theirs."""

    name: str
    columns: Mapping[str, Value]


@dataclass
class _Scope:
    """What the names in a SELECT mean."""

    tables: dict[str, list[Value]] = field(default_factory=dict)
    columns: dict[str, Value] = field(default_factory=dict)
    ambiguous: set[str] = field(default_factory=set)

    def add(self, alias: str, relation: Relation) -> None:
        """Put a table into the scope."""
        if caseless(alias) in self.tables:
            raise Untranslatable(f"it has {alias} twice")
        values = {
            name: replace(column, sql=f"{quote(alias)}.{column.sql}")
            for name, column in relation.columns.items()
        }
        self.tables[caseless(alias)] = list(values.values())
        for name, value in values.items():
            self.columns[f"{caseless(alias)}{QUALIFIED}{name}"] = value
            if name in self.columns or name in self.ambiguous:
                self.ambiguous.add(name)
                self.columns.pop(name, None)
            else:
                self.columns[name] = value


class _ViewExpressions(Expressions):
    """Expressions with aggregates."""

    def called(self, name: str, parts: list[Reader]) -> Value:
        """An aggregate, or a function as anywhere."""
        if name == "count" and len(parts) == 1:
            return self._count(parts[0])
        if name in ("sum", "total", "avg", "min", "max") and len(parts) == 1:
            return _aggregate(name, self._inside(parts[0]).whole())
        return super().called(name, parts)

    def _count(self, part: Reader) -> Value:
        if part.accept("*"):
            return Value("count(*)", Kind.INTEGER)
        distinct = "DISTINCT " if part.accept("DISTINCT") else ""
        value = self._inside(part).whole()
        if distinct:
            _compared(value)
        return Value(f"count({distinct}{value.sql})", Kind.INTEGER)


def _aggregate(name: str, value: Value) -> Value:
    if name in ("min", "max"):
        if value.kind is Kind.TEXT:
            return Value(f'{name}({_compared(value)} COLLATE "C")', Kind.TEXT)
        if value.kind is Kind.TIME:
            return Value(f"{name}({value.sql})", Kind.TIME)
        kind = Kind.INTEGER if value.kind is Kind.BOOLEAN else value.kind
        return Value(f"{name}({number(value)})", kind)
    if name == "total":
        return Value(f"coalesce(sum({number(value)})::double precision, 0)", Kind.FLOAT)
    if name == "avg":
        return Value(f"avg({number(value)})::double precision", Kind.FLOAT)
    if value.kind in (Kind.INTEGER, Kind.BOOLEAN):
        return Value(f"sum({number(value)})::bigint", Kind.INTEGER)
    return Value(f"sum({number(value)})", value.kind)


def _compared(value: Value) -> str:
    """The value where rows are grouped by it; refused where its collation would group others."""
    if value.kind is Kind.TEXT and value.collation not in ("", "BINARY"):
        raise Untranslatable(f"it groups by the collation {value.collation}")
    return value.sql


def translate_view(
    conn: sqlite3.Connection, name: str, sql: str, relations: Mapping[str, Relation], target: str
) -> tuple[str, Relation]:
    """CREATE VIEW, and what other views find in it; raises `Untranslatable`."""
    reader = Reader(sql)
    while not reader.accept("AS", "SELECT"):
        if reader.done:
            raise Untranslatable("it isn't a plain SELECT")
        reader.take()
    clauses = _clauses(reader)
    scope, source = _read_from(clauses, relations)
    distinct = clauses["SELECT"].accept("DISTINCT")
    items = _items(clauses["SELECT"], scope)
    names = _column_names(conn, name)
    if len(names) != len(items):
        raise Untranslatable("its columns can't be told")
    selected = ", ".join(
        f"{_compared(value) if distinct else value.sql} AS {quote(column)}"
        for column, (_, value) in zip(names, items, strict=True)
    )
    rest = _rest(clauses, scope, items)
    start = f"CREATE VIEW {quote(target)} AS SELECT {'DISTINCT ' if distinct else ''}"
    columns = {
        caseless(column): replace(value, sql=quote(column), plain=True)
        for column, (_, value) in zip(names, items, strict=True)
    }
    return f"{start}{selected}{source}{rest}", Relation(target, columns)


def _column_names(conn: sqlite3.Connection, view: str) -> list[str]:
    try:
        rows = conn.execute(f"PRAGMA table_xinfo({quote(view)})").fetchall()
    except sqlite3.Error as error:
        raise Untranslatable(f"SQLite can't read it: {error}") from error
    names = [str(row[1]) for row in rows]
    if any(not 0 < len(name.encode()) <= LONGEST for name in names):
        raise Untranslatable("a column of it has a name that PostgreSQL can't have")
    return names


def _clauses(reader: Reader) -> dict[str, Reader]:
    """The clauses by their first words, each without it."""
    found: dict[str, list[Token]] = {"SELECT": []}
    current, depth, before = "SELECT", 0, ""
    while not reader.done:
        token = reader.take()
        depth += token.says("(") - token.says(")")
        if depth == 0 and token.says(*_REFUSED):
            raise Untranslatable(f"it has {token.text}")
        if depth == 0 and token.says(*_CLAUSES) and before != "DISTINCT":
            current = token.text.upper()
            if current in found:
                raise Untranslatable(f"it has {current} twice")
            found[current] = []
        else:
            found[current].append(token)
        before = token.text.upper()
    return {clause: Reader(reader.sql, words) for clause, words in found.items()}


def _read_from(clauses: dict[str, Reader], relations: Mapping[str, Relation]) -> tuple[_Scope, str]:
    scope = _Scope()
    if "FROM" not in clauses:
        return scope, ""
    reader = clauses["FROM"]
    sql = " FROM " + _read_table(reader, scope, relations)
    while not reader.done:
        join = _join(reader)
        sql += f" {join} " + _read_table(reader, scope, relations)
        if reader.accept("ON"):
            sql += f" ON {truth(_ViewExpressions(reader, scope.columns).expression())}"
        elif join != "CROSS JOIN":
            sql += " ON TRUE"
    return scope, sql


def _join(reader: Reader) -> str:
    if reader.accept(","):
        return "CROSS JOIN"
    if reader.accept("CROSS", "JOIN"):
        return "JOIN"
    for side in ("LEFT", "RIGHT", "FULL"):
        if reader.accept(side):
            reader.accept("OUTER")
            reader.expect("JOIN")
            return f"{side} JOIN"
    reader.accept("INNER")
    reader.expect("JOIN")
    return "JOIN"


def _read_table(reader: Reader, scope: _Scope, relations: Mapping[str, Relation]) -> str:
    if reader.peek().says("("):
        raise Untranslatable("it reads from a query in parentheses")
    reader.accept("MAIN", ".")
    name = reader.take().value
    relation = relations.get(caseless(name))
    if relation is None:
        raise Untranslatable(f"{name} is no table that it can read on PostgreSQL")
    alias = name
    token = reader.peek()
    if reader.accept("AS") or (token.kind in ("word", "quoted") and not token.says(*_NO_ALIAS)):
        alias = reader.take().value
    if not 0 < len(alias.encode()) <= LONGEST:
        raise Untranslatable(f"{alias} is no name that PostgreSQL can have")
    scope.add(alias, relation)
    return f"{quote(relation.name)} AS {quote(alias)}"


def _items(reader: Reader, scope: _Scope) -> list[tuple[str, Value]]:
    """What is selected, with the name that AS gives it."""
    items = []
    reader.accept("ALL")
    for part in reader.parts():
        if part.accept("*"):
            items += [("", value) for values in scope.tables.values() for value in values]
        elif part.peek(1).says(".") and part.peek(2).says("*"):
            items += [("", value) for value in scope.tables.get(caseless(part.take().value), [])]
        else:
            expressions = _ViewExpressions(part, scope.columns)
            value = expressions.expression()
            part.accept("AS")
            alias = "" if part.done else caseless(part.take().value)
            if not part.done:
                raise Untranslatable(f"{part.text} has no counterpart")
            items.append((alias, value))
    return items


def _rest(clauses: dict[str, Reader], scope: _Scope, items: list[tuple[str, Value]]) -> str:
    aliases = {alias: value for alias, value in items if alias}
    named = aliases | scope.columns
    sql = ""
    if "WHERE" in clauses:
        sql += f" WHERE {truth(_ViewExpressions(clauses['WHERE'], named).whole())}"
    if "GROUP" in clauses:
        clauses["GROUP"].expect("BY")
        parts = [_ViewExpressions(part, named).whole() for part in clauses["GROUP"].parts()]
        sql += " GROUP BY " + ", ".join(_compared(_counted(part, items)) for part in parts)
    if "HAVING" in clauses:
        sql += f" HAVING {truth(_ViewExpressions(clauses['HAVING'], named).whole())}"
    if "ORDER" in clauses:
        clauses["ORDER"].expect("BY")
        orders = [_order(p, scope.columns | aliases, items) for p in clauses["ORDER"].parts()]
        sql += " ORDER BY " + ", ".join(orders)
    if "LIMIT" in clauses:
        sql += _limit(clauses["LIMIT"])
    return sql


def _counted(value: Value, items: list[tuple[str, Value]]) -> Value:
    """The selected value of this number, or the value itself."""
    if value.constant and value.kind is Kind.INTEGER and value.sql.isdecimal():
        if not 0 < int(value.sql) <= len(items):
            raise Untranslatable("it counts more columns than it has")
        return items[int(value.sql) - 1][1]
    return value


def _order(part: Reader, named: Mapping[str, Value], items: list[tuple[str, Value]]) -> str:
    value = _counted(_ViewExpressions(part, named).expression(), items)
    descending = part.accept("DESC")
    part.accept("ASC")
    first = not descending
    if part.accept("NULLS"):
        first = part.take().says("FIRST")
    if not part.done:
        raise Untranslatable(f"{part.text} has no counterpart")
    sql = value.sql
    if value.kind is Kind.TEXT:
        sql = f'({folded(sql, value.collation)}) COLLATE "C"'
    return f"{sql} {'DESC' if descending else 'ASC'} NULLS {'FIRST' if first else 'LAST'}"


def _limit(reader: Reader) -> str:
    count = _ViewExpressions(reader, {}).expression()
    skipped = _ViewExpressions(reader, {}).expression() if reader.accept("OFFSET") else None
    numbers = [part.sql for part in (count, skipped) if part]
    if not reader.done or not all(part.isdecimal() for part in numbers):
        raise Untranslatable("its LIMIT is computed")
    return " LIMIT " + " OFFSET ".join(numbers)
