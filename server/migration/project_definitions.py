"""What stands in the text of CREATE TABLE and CREATE INDEX alone, and in no pragma."""

from dataclasses import dataclass, field

from server.migration.project_tokens import Reader, Token, caseless

_COLUMN_CONSTRAINTS = (
    "CONSTRAINT",
    "PRIMARY",
    "NOT",
    "NULL",
    "UNIQUE",
    "CHECK",
    "DEFAULT",
    "COLLATE",
    "REFERENCES",
    "GENERATED",
    "AS",
    "DEFERRABLE",
    "ON",
)
_TABLE_CONSTRAINTS = ("CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN")


@dataclass(frozen=True)
class Check:
    """A CHECK constraint; the name is empty where it has none."""

    name: str
    condition: Reader


@dataclass
class Reference:
    """What a foreign key says besides its columns and actions."""

    name: str
    deferred: bool = False


@dataclass
class Definition:
    """The constraints of a table as its text has them; names of columns in lower case."""

    checks: list[Check] = field(default_factory=list)
    collations: dict[str, str] = field(default_factory=dict)
    generated: dict[str, Reader] = field(default_factory=dict)
    references: list[Reference] = field(default_factory=list)
    key_name: str = ""
    unique_names: dict[tuple[str, ...], str] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)


def read_table(sql: str) -> Definition:
    """The definition that a CREATE TABLE gives."""
    reader = Reader(sql)
    while not reader.peek().says("("):
        reader.take()
    definition = Definition()
    for part in reader.group().parts():
        column = "" if part.peek().says(*_TABLE_CONSTRAINTS) else caseless(part.take().value)
        while column and not part.done and not part.peek().says(*_COLUMN_CONSTRAINTS):
            _skip(part)
        _read_constraints(part, definition, column)
    return definition


def _skip(reader: Reader) -> None:
    if reader.peek().says("("):
        reader.group()
    else:
        reader.take()


def _read_constraints(reader: Reader, definition: Definition, column: str) -> None:
    """All constraints of one column, or of the table when `column` is empty."""
    name = ""
    while not reader.done:
        if reader.accept("CONSTRAINT"):
            name = reader.take().value
        else:
            _read_constraint(reader, definition, column, name)
            name = ""


def _read_constraint(reader: Reader, definition: Definition, column: str, name: str) -> None:
    if reader.accept("CHECK"):
        definition.checks.append(Check(name, reader.group()))
    elif reader.accept("COLLATE"):
        definition.collations[column] = reader.take().value.upper()
    elif reader.accept("SET", "DEFAULT"):
        pass  # what a foreign key does, not a value
    elif reader.accept("DEFAULT"):
        if reader.peek().says("+", "-"):
            reader.take()
        _skip(reader)
    elif reader.accept("AS"):
        definition.generated[column] = reader.group()
    elif reader.accept("PRIMARY", "KEY"):
        definition.key_name = name
    elif reader.accept("UNIQUE"):
        definition.unique_names[_columns(reader, column)] = name
    elif reader.accept("ON", "CONFLICT"):
        definition.conflicts.append(reader.take().text.upper())
    else:
        _read_reference(reader, definition, name)


def _read_reference(reader: Reader, definition: Definition, name: str) -> None:
    """What belongs to a foreign key; all else stands in the pragmas."""
    if reader.accept("REFERENCES"):
        definition.references.append(Reference(name))
        reader.take()
    elif reader.accept("NOT", "DEFERRABLE"):
        reader.accept("INITIALLY", "DEFERRED")
    elif reader.accept("DEFERRABLE", "INITIALLY", "DEFERRED"):
        if definition.references:
            definition.references[-1].deferred = True
    else:
        _skip(reader)


def _columns(reader: Reader, column: str) -> tuple[str, ...]:
    if not reader.peek().says("("):
        return (column,)
    return tuple(caseless(part.peek().value) for part in reader.group().parts())


@dataclass(frozen=True)
class IndexDefinition:
    """The parts of a CREATE INDEX, and its condition where it has one."""

    parts: list[Reader]
    condition: Reader | None


def read_index(sql: str) -> IndexDefinition:
    """The definition that a CREATE INDEX gives."""
    reader = Reader(sql)
    while not reader.peek().says("ON"):
        reader.take()
    while not reader.peek().says("("):
        reader.take()
    parts = [_without_order(part) for part in reader.group().parts()]
    return IndexDefinition(parts, reader if reader.accept("WHERE") else None)


def _without_order(part: Reader) -> Reader:
    """An index's part without ASC or DESC, which the pragma tells."""
    found: list[Token] = []
    while not part.done:
        found.append(part.take())
    if found[-1].says("ASC", "DESC"):
        found.pop()
    return Reader(part.sql, found)
