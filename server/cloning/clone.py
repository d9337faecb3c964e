"""Makes a copy of production for development that has nobody's password, token or address.

What must not come is never read from production, so no page of the copy can hold it.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import database
from server.cloning import columns, sources
from server.cloning.sources import NotCopied, Source
from server.cloning.tree import Place
from server.migration import postgres_build, sqlite_files
from server.migration.projects import Project
from server.migration.report import Screen
from server.migration.snapshot import NotAMaster
from server.settings import Settings
from server.storage import names
from server.storage.contract import DatabaseError, Misconfigured


@dataclass(frozen=True)
class Wish:
    """What is asked for; `password_hash` is every account's, none where nobody is to log in."""

    replace: bool = False
    with_projects: bool = False
    password_hash: str = ""


@dataclass
class Cloned:
    """How many rows each table got, how many projects a database, and what stayed behind."""

    rows: dict[str, int] = field(default_factory=dict)
    databases: int = 0
    notes: list[str] = field(default_factory=list)


def clone(settings: Settings, place: Place, wish: Wish, screen: Screen) -> Cloned:
    """Put a scrubbed copy of what the settings name into the place.

    Raises `Occupied` where something is there, unless it is to be replaced, and `Busy` where
    somebody uses that. Until the copy is whole the place is left alone.
    """
    place.check_apart(settings)
    if not wish.replace:
        place.check_free()
    try:
        return _clone(settings, place, wish, screen)
    except (NotAMaster, sqlite3.Error) as error:
        raise Misconfigured(str(error)) from error


def _clone(settings: Settings, place: Place, wish: Wish, screen: Screen) -> Cloned:
    place.master.parent.mkdir(parents=True, exist_ok=True)
    _check_unused(place)
    with sqlite_files.locked(place.master.parent), _parts(place) as (master, projects):
        with sources.opened(settings) as source:
            if lacking := source.lacking():
                steps = ", ".join(step.name for step in lacking)
                raise Misconfigured(f"the source lacks {steps} of this schema: update it first")
            made = _Cloning(settings, source, wish, screen)
            made.fill_master(master)
            made.make_projects(projects)
        _check_unused(place)
        _put(place, master, projects)
    return made.cloned


def _check_unused(place: Place) -> None:
    if place.master.exists():
        sqlite_files.check_unused(place.master)


@contextmanager
def _parts(place: Place) -> Iterator[tuple[Path, Path]]:
    """A file and a folder beside the place; what a run before left of them goes first."""
    master = place.master.with_name(f"{place.master.name}.part")
    projects = place.projects.with_name(f"{place.projects.name}.part")

    def clear() -> None:
        sqlite_files.remove(master)
        shutil.rmtree(projects, ignore_errors=True)

    clear()
    projects.mkdir(parents=True, mode=0o700)
    try:
        yield master, projects
    finally:
        clear()


@dataclass
class _Cloning:
    settings: Settings
    source: Source
    wish: Wish
    screen: Screen
    cloned: Cloned = field(default_factory=Cloned)

    def fill_master(self, file: Path) -> None:
        """A master as the service makes it, with the rows that come."""
        sqlite_files.new_file(file)
        database.migrate_file(file)
        counts = {table: self.source.count(table) for table in columns.COPIED}
        with sqlite_files.filled(file) as conn:
            # The schema brings some of its own, which the source has as well, or has changed.
            conn.execute("DELETE FROM project_types")
            with self.screen.bar("rows", sum(counts.values())) as bar:
                task = bar.task_ids[0]
                for table in columns.COPIED:
                    self.cloned.rows[table] = self._copy(conn, table, lambda: bar.advance(task))
        postgres_build.use_wal(file)

    def _copy(self, conn: sqlite3.Connection, table: str, step: Callable[[], None]) -> int:
        plain, replaced = columns.COPIED[table], columns.REPLACED.get(table, {})
        if table == "users" and self.wish.password_hash:
            replaced = {**replaced, "password_hash": lambda _: self.wish.password_hash}
        listed = ", ".join((*plain, *replaced))
        marks = ", ".join("?" * (len(plain) + len(replaced)))
        count = 0

        def rows() -> Iterator[sources.Row]:
            nonlocal count
            for row in self.source.rows(table, plain):
                count += 1
                step()
                yield (*row, *(make(row[0]) for make in replaced.values()))

        conn.executemany(f"INSERT INTO {table} ({listed}) VALUES ({marks})", rows())
        return count

    def make_projects(self, folder: Path) -> None:
        """A database for each project: its own, or an empty one of its type."""
        templates = self._templates()
        projects = self.source.projects()
        with self.screen.bar("projects", len(projects)) as bar:
            for project in projects:
                if names.find_refusal(project.db_name, self.settings.db_name):
                    self._note(project, "that is no name of a project's database")
                else:
                    self._make(project, folder, templates.get(project.id, ""))
                bar.advance(bar.task_ids[0])

    def _templates(self) -> dict[int, str]:
        """The SQL of each project's type."""
        types: dict[int, str] = dict(self.source.rows("project_types", ("id", "template_sql")))
        return {
            project: types.get(kind) or ""
            for project, kind in self.source.rows("projects", ("id", "project_type_id"))
        }

    def _make(self, project: Project, folder: Path, template: str) -> None:
        file = folder / f"{project.db_name}.sqlite3"
        self.cloned.databases += 1
        if self.wish.with_projects:
            try:
                if left := self.source.copy_project(project, file):
                    self._note(project, f"came without {left}, which SQLite doesn't have")
            except NotCopied as error:
                self._note(project, f"is empty: {error}")
                sqlite_files.remove(file)
            else:
                return
        try:
            database.make_project_file(file, template)
        except DatabaseError as error:
            self._note(project, f"has no tables: {error}")
            sqlite_files.remove(file)
            database.make_project_file(file, "")

    def _note(self, project: Project, text: str) -> None:
        self.cloned.notes.append(f"{project.db_name}: {text}")


def _put(place: Place, master: Path, projects: Path) -> None:
    """Give the files their names, the master's last; what was there goes."""
    place.projects.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in place.files():
        sqlite_files.remove(old)
    for file in sorted(projects.iterdir()):
        file.replace(place.projects / file.name)
    sqlite_files.remove_log(place.master)
    master.replace(place.master)
    sqlite_files.sync(place.master.parent)
