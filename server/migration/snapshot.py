"""The source at one moment: copied, brought up to this code's schema, looked through, settled."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import database
from server.migration import census, source
from server.migration.census import Finding, Options, Settled, Settling
from server.migration.folder import Folder
from server.migration.master import NOT_COPIED, master_tables
from server.migration.project_schema import read_project_schema
from server.migration.projects import Project
from server.migration.tables import Table, quote
from server.storage import migrate

MASTER = "master"
INTERNAL = "sqlite_"


@dataclass(frozen=True)
class Source:
    """A master's file and the folder of the projects' files."""

    master: Path
    projects: Path

    def file(self, name: str) -> Path:
        """The file of the master, or of a project's database."""
        return self.master if name == MASTER else self.projects / f"{name}.sqlite3"


class NotAMaster(Exception):
    """The file can't be read, or is no master of this service; one line."""


def take(found: Source, folder: Folder, progress: Callable[[str, int, int], None]) -> None:
    """Copy the master and every project's file, and note what tells of later writes."""
    marks: dict[str, Any] = {}
    try:
        marks[MASTER] = source.marks(found.master)
        source.back_up(found.master, folder.backup / "master.sqlite3", _named(progress, MASTER))
        for project in read_projects(folder.backup / "master.sqlite3"):
            path = found.file(project.db_name)
            if path.is_file():
                marks[project.db_name] = source.marks(path)
                copy = folder.backup / f"{project.db_name}.sqlite3"
                source.back_up(path, copy, _named(progress, project.db_name))
    except sqlite3.Error as error:
        raise NotAMaster(f"{found.master}: {error}") from error
    folder.write(marks=marks)


def _named(progress: Callable[[str, int, int], None], name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)


def read_projects(master: Path) -> list[Project]:
    """The projects that have a database, or should; those half made or half deleted haven't."""
    with source.opened(master) as conn:
        try:
            rows = conn.execute(
                "SELECT id, name, db_name FROM projects WHERE status = 'active' ORDER BY id"
            ).fetchall()
            conn.execute("SELECT name FROM schema_migrations").fetchall()
        except sqlite3.OperationalError as error:
            raise NotAMaster(f"is no master database of this service: {error}") from error
    return [Project(*row) for row in rows]


def bring_up_to_date(folder: Folder) -> list[str]:
    """Apply the steps of schema/ that the source hasn't, on a copy; their names.

    Raises `Misconfigured` for a source that is newer than this code, or was changed by hand.
    """
    known = migrate.steps(database.BACKEND)
    backup = folder.backup / "master.sqlite3"
    with source.opened(backup) as conn:
        applied = conn.execute("SELECT name, checksum FROM schema_migrations").fetchall()
    todo = migrate.pending(applied, known)
    if todo:
        copy = folder.settled / "master.sqlite3"
        shutil.copyfile(backup, copy)
        database.migrate_file(copy)
    return [step.name for step in todo]


def tables_of(folder: Folder, name: str) -> list[Table]:
    """The tables to copy of the master, or of a project's database."""
    if name == MASTER:
        return master_tables()
    with source.opened(folder.database(name)) as conn:
        return list(read_project_schema(conn).tables)


def examine(
    folder: Folder, projects: list[Project], options: Options
) -> tuple[list[Finding], list[str]]:
    """All that has no counterpart, and the names of the databases that have to be settled."""
    findings = [] if options.unknown == "keep" else list(unknown(folder))
    odd = []
    for name in [MASTER, *(project.db_name for project in projects)]:
        path = folder.database(name)
        if not path.exists():
            if options.missing_databases != "skip":
                findings.append(_missing(projects, name))
            continue
        found = census.examine(path, name, partial(tables_of, folder, name), options)
        findings += found.findings
        if not found.clean:
            odd.append(name)
    return findings, odd


def _missing(projects: list[Project], name: str) -> Finding:
    number = next(project.id for project in projects if project.db_name == name)
    problem = f"{name}.sqlite3 isn't there"
    return Finding(
        MASTER, "projects", f"id {number}", "db_name", problem, "--missing-databases=skip"
    )


def unknown(folder: Folder) -> list[Finding]:
    """Tables and columns of the master that this code doesn't know; and those that it lacks."""
    known = {table.name: {column.name for column in table.columns} for table in master_tables()}
    findings = []
    with source.opened(folder.database(MASTER)) as conn:
        there = _columns(conn)
    for table, columns in there.items():
        if table in NOT_COPIED:
            continue
        if table not in known:
            findings.append(_unknown(table, "", "isn't a table of this service"))
        else:
            findings += [
                _unknown(table, name, "isn't a column of this service")
                for name in sorted(columns - known[table])
            ]
    for table, columns in known.items():
        for name in sorted(columns - there.get(table, set())):
            findings.append(Finding(MASTER, table, "", name, "is missing in the source", ""))
    return findings


def _unknown(table: str, column: str, problem: str) -> Finding:
    return Finding(MASTER, table, "", column, problem, "--unknown=keep")


def _columns(conn: sqlite3.Connection) -> dict[str, set[str]]:
    names = conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {
        name: {row[1] for row in conn.execute(f"PRAGMA table_info({quote(name)})")}
        for (name,) in names
        if not name.startswith(INTERNAL)
    }


def settle(folder: Folder, names: list[str], options: Options) -> Settled:
    """Make every value canonical, on copies of these databases."""
    whole = Settled()
    for name in names:
        path = folder.database(name)
        tables = tables_of(folder, name)
        copy = folder.settled / f"{name}.part"
        shutil.copyfile(path, copy)
        with source.opened(path) as snapshot, closing(sqlite3.connect(copy)) as conn:
            settling = Settling(conn, name, tables, options, folder.quarantine)
            settled = settling.run(snapshot)
        copy.replace(folder.settled / f"{name}.sqlite3")
        whole.changes += settled.changes
        whole.findings += settled.findings
        whole.respelt += settled.respelt
    return whole


def find_changes(found: Source, folder: Folder) -> dict[str, str]:
    """What has been written to the source since, by table, with the first row."""
    marks = folder.read()["marks"]
    changes = {}
    for name, before in marks.items():
        path = found.file(name)
        if source.marks(path) == before:
            continue
        if not path.exists():
            changes[name] = "the whole file, which is gone"
            continue
        copy = folder.backup / f"{name}.sqlite3"
        with source.opened(copy) as conn:
            tables = _plain_tables(conn, name)
        for table, row in source.find_changes(path, copy, tables).items():
            changes[table if name == MASTER else f"{name}.{table}"] = row
    return changes


def _plain_tables(conn: sqlite3.Connection, name: str) -> list[Table]:
    if name != MASTER:
        return list(read_project_schema(conn).tables)
    there = _columns(conn)
    return [
        Table(
            table.name,
            tuple(column for column in table.columns if column.name in there[table.name]),
            table.key,
        )
        for table in master_tables()
        if table.name in there
    ]
