"""A project's database: from its SQLite file to a PostgreSQL database of its own, whole or not."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import database_postgres
from server.migration import compare, rows, source, target
from server.migration.compare import Difference, TableResult
from server.migration.copying import Progress, copy_chunk, transaction
from server.migration.project_schema import Leftover, ProjectSchema, read_project_schema
from server.migration.rows import Chunk, Digest
from server.migration.tables import Table, quote
from server.settings import get_settings


@dataclass(frozen=True)
class Project:
    """A project of the source's master that has a database."""

    id: int
    name: str
    db_name: str


@dataclass
class ProjectResult:
    """What became of one project's database."""

    project: Project
    action: str = ""
    tables: list[TableResult] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)
    strangers: list[Difference] = field(default_factory=list)


def survey(project: Project, snapshot: Path, bases: list[Path]) -> ProjectResult:
    """What is to be done: `copy`, `replace` an earlier copy, or nothing when it is `equal`."""
    result = ProjectResult(project)
    if not database_postgres.project_database_exists(project.db_name):
        result.action = "copy"
        return result
    if not database_postgres.made_project_database(project.db_name, project.id):
        result.strangers.append(_stranger(project, "is there and was not made for this project"))
        return result
    if not (found := verify(project, snapshot)):
        result.action = "equal"
    elif any(base.exists() and not verify(project, base) for base in bases):
        result.action = "replace"
    else:
        result.strangers = found
    return result


def _stranger(project: Project, what: str) -> Difference:
    return Difference(project.db_name, "", f"the database {what}", "", None, "row")


def verify(project: Project, snapshot: Path) -> list[Difference]:
    """What differs between the snapshot and the project's database on PostgreSQL."""
    with source.opened(snapshot) as conn:
        schema = read_project_schema(conn)
        present = target.connect(get_settings(), project.db_name)
        try:
            results = [
                compare_table(project, conn, present, table, there)
                for table, there in zip(schema.tables, schema.targets, strict=True)
            ]
            extra = _tables(present) - {table.name for table in schema.targets}
            found = [difference for result in results for difference in result.differences]
            if not found:
                highest = source.highest_ids(conn, list(schema.tables))
                for table, there in zip(schema.tables, schema.targets, strict=True):
                    found += _lost_keys(project, present, there)
                    found += _lowered(project, present, there, highest.get(table.name, 0))
        finally:
            present.close()
    return found + [_stranger(project, f"has a table {name} of its own") for name in sorted(extra)]


def _lost_keys(project: Project, present: target.Connection, table: Table) -> Iterator[Difference]:
    """Foreign keys that aren't there and could be: what PostgreSQL refuses was left over."""
    for key in compare.missing_keys(present, table):
        columns, to = (", ".join(map(quote, names)) for names in (key.columns, key.references))
        try:
            with transaction(present):
                target.execute(
                    present,
                    f"ALTER TABLE {quote(table.name)} ADD FOREIGN KEY ({columns}) "
                    f"REFERENCES {quote(key.table)} ({to})",
                )
                raise _NotToStay
        except target.TargetError:
            continue
        except _NotToStay:
            place = f"the foreign key of {', '.join(key.columns)}"
            yield Difference(project.db_name, table.name, place, "", "row", None)


class _NotToStay(Exception):
    """Takes back what was only tried."""


def _lowered(
    project: Project, present: target.Connection, table: Table, highest: int
) -> Iterator[Difference]:
    """A sequence that would give an id away again."""
    if table.numbered and target.has_sequence(present, table):
        following = target.next_id(present, table)
        if following <= highest:
            numbers = str(highest + 1), str(following)
            name = table.key[0]
            yield Difference(project.db_name, table.name, "the next id", name, *numbers)


def compare_table(
    project: Project,
    conn: sqlite3.Connection,
    present: target.Connection,
    table: Table,
    there: Table,
) -> TableResult:
    """Compare one table; one that isn't there is a difference."""
    if not target.value(present, "SELECT to_regclass(%s)", (quote(there.name),)):
        result = TableResult(project.db_name, table.name, 0, 0)
        place = "the whole table"
        result.differences.append(Difference(project.db_name, table.name, place, "", "row", None))
        return result
    return compare.compare_table(project.db_name, conn, present, table, {}, there)


def _tables(present: target.Connection) -> set[str]:
    found = target.rows(present, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row[0] for row in found}


def copy(result: ProjectResult, snapshot: Path, progress: Progress) -> None:
    """Make the database and fill it; it gets its name only after it has proved equal."""
    project = result.project
    if result.action == "replace":
        database_postgres.drop_project_database(project.db_name, project.id, force=False)
    with source.opened(snapshot) as conn:
        schema = read_project_schema(conn)
        result.leftovers += schema.leftovers

        def fill(half_made: str) -> None:
            present = target.connect(get_settings(), half_made)
            try:
                _fill(result, schema, conn, present, progress)
            finally:
                present.close()

        database_postgres.make_project_database(project.db_name, project.id, fill)


def _fill(
    result: ProjectResult,
    schema: ProjectSchema,
    conn: sqlite3.Connection,
    present: target.Connection,
    progress: Progress,
) -> None:
    with transaction(present):
        for statement in schema.create:
            target.execute(present, statement)
    taken: dict[str, dict[Chunk, Digest]] = {}
    pairs = list(zip(schema.tables, schema.targets, strict=True))
    for table, there in pairs:
        taken[table.name] = {
            chunk: copy_chunk(chunk, conn, present, progress, there)
            for chunk in rows.chunks(conn, table)
        }
    for finish in schema.finish:
        try:
            with transaction(present):
                target.execute(present, finish.sql)
        except target.TargetError as error:
            if finish.leftover is None:
                raise
            result.leftovers.append(finish.leftover.because(str(error)))
    highest = source.highest_ids(conn, list(schema.tables))
    for table, there in pairs:
        if table.numbered and target.has_sequence(present, there):
            target.raise_sequence(present, there, highest[table.name])
    target.execute(present, "ANALYZE")
    for table, there in pairs:
        found = compare.compare_table(
            result.project.db_name, conn, present, table, taken[table.name], there
        )
        result.tables.append(found)
        if found.differences:
            raise target.TargetError(f"the copy differs: {found.differences[0]}")
