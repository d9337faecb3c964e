"""Projects come and go while a backup is made: it has exactly those of the master's moment."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

import database_adapter
from server.backups import taking, wanted
from server.backups.postgres_databases import PostgresDatabases
from server.backups.taking import Copied, Master, Taking
from server.backups.wanted import Wanted
from server.migration import source
from server.migration.projects import Project
from server.migration.report import Screen
from server.settings import get_settings
from server.storage import names
from server.storage.contract import Busy
from tests.backups.place import Place
from tests.conftest import with_settings, without_settings

SHOP, BLOG, NEWS = (Wanted(n, (f"{name}_db",), True) for n, name in enumerate("abc", 1))


class Scripted:
    """Databases in memory, in which something happens before each copy."""

    backend, ending, level, master, server = "sqlite", ".sqlite3", 1, "master", "none"

    def __init__(self, *there: Wanted, **happens: Callable[["Scripted"], object]) -> None:
        self.there = list(there)
        self.lost: list[Wanted] = []
        self.happens = happens
        self.masters = 0

    def _happen(self, moment: str) -> None:
        if happening := self.happens.get(moment):
            happening(self)

    def wanted(self) -> list[Wanted]:
        """Those that are there."""
        return list(self.there)

    def copy_master(self, file: Path) -> Master:
        """The master as it is now."""
        self.masters += 1
        file.write_text("master")
        found = Master(Copied({}), self.wanted(), [])
        self._happen("after_master")
        return found

    def copy_project(self, project_id: int, name: str, file: Path) -> Copied | None:
        """The project's name, where it is there."""
        self._happen(f"before_{name[0]}")
        there = {one.project_id: one.names for one in self.there if one not in self.lost}
        if name not in there.get(project_id, ()):
            return None
        file.write_text(name)
        return Copied({})


def take(databases: Scripted, work: Path) -> tuple[list[str], list[str]]:
    """The projects that are in the backup, and what could not be in it."""
    manifest = Taking(databases, work, Screen(quiet=True)).take(datetime.now(UTC))
    files = {path.name for path in work.iterdir()}
    assert files == {entry.file for entry in manifest.databases}
    return [entry.name for entry in manifest.projects], manifest.problems


def test_made_and_deleted_before_the_master(tmp_path: Path) -> None:
    """One that came is copied after the master, one that went is left out again."""

    def exchange(there: Scripted) -> None:
        there.there[:] = [BLOG, NEWS]

    databases = Scripted(SHOP, BLOG, before_b=exchange)
    assert take(databases, tmp_path) == (["b_db", "c_db"], [])
    assert databases.masters == 1


def test_deleted_after_the_master(tmp_path: Path) -> None:
    """The master names one that nobody can copy any more: it is copied again."""

    def come(there: Scripted) -> None:
        there.there[:] = [SHOP, BLOG]

    def go(there: Scripted) -> None:
        there.there[:] = [SHOP]

    databases = Scripted(SHOP, before_a=come, before_b=go)
    assert take(databases, tmp_path) == (["a_db"], [])
    assert databases.masters == 2


def test_a_name_that_is_used_anew(tmp_path: Path) -> None:
    """Another project of the same name is another one: its own database is copied."""
    again = Wanted(9, SHOP.names, True)

    def exchange(there: Scripted) -> None:
        if SHOP in there.there:
            there.there[:] = [BLOG, again]

    databases = Scripted(SHOP, BLOG, before_b=exchange)
    assert take(databases, tmp_path) == (["b_db", "a_db"], [])


def test_one_that_is_lost_is_named(tmp_path: Path) -> None:
    """The master says it is there, now as well, and it isn't: no race, a fault."""
    databases = Scripted(SHOP, BLOG)
    databases.lost.append(SHOP)
    assert take(databases, tmp_path) == (["b_db"], ["a_db isn't there, or isn't the project's"])


def test_on_the_way_to_another_name(tmp_path: Path) -> None:
    """A deletion has renamed the database, and the row doesn't say so yet: no fault is named."""
    going = Wanted(1, ("gone_db", "a_db"), False)
    kept = Wanted(1, ("kept",), True)

    def told(there: Scripted) -> None:
        there.there[:] = [kept]

    databases = Scripted(going)
    databases.lost.append(going)
    assert take(databases, tmp_path) == ([], [])
    (tmp_path / "master.sqlite3").unlink()
    databases = Scripted(going, before_g=told, before_a=told)
    assert take(databases, tmp_path) == (["kept"], [])


def test_what_the_rows_say() -> None:
    """Living projects have to have theirs, what was deleted too; what is under way may."""
    projects = [(1, "a_db", "active"), (2, "b_db", "creating"), (3, "c_db", "deleting")]
    projects += [(4, "d_db", "deleting"), (5, "e_db", "creating")]
    deleted = [(4, "k4", "deleting"), (5, None, "restoring"), (6, "k6", "emptying")]
    deleted += [(7, "k7", "deleted"), (8, None, "deleted")]
    assert wanted.find(projects, deleted) == [
        Wanted(1, ("a_db",), True),
        Wanted(4, ("k4", "d_db"), False),
        Wanted(5, ("e_db",), False),
        Wanted(6, ("k6",), False),
        Wanted(7, ("k7",), True),
    ]


def test_it_ends_where_there_is_no_end(tmp_path: Path) -> None:
    """Each master names one that is gone at once."""
    numbers = iter(range(100, 1000))

    def come(there: Scripted) -> None:
        there.there[:] = [Wanted(next(numbers), ("x_db",), True)]

    databases = Scripted(Wanted(1, ("x_db",), True), before_x=come, after_master=come)
    with pytest.raises(Busy, match="faster than"):
        take(databases, tmp_path)
    assert databases.masters == taking.TRIES


@pytest.fixture
def project(place: Place) -> Iterator[Project]:
    """The first project of the place, whose settings are this process's."""
    with_settings(dict(place.settings))
    yield Project(**place.sql.rows("SELECT id, name, db_name FROM projects WHERE id = 1")[0])
    without_settings()


def drop(project: Project) -> bool:
    """What a deletion for good does."""
    return database_adapter.current().drop_project_database(project.db_name, project.id, False)


def set_aside(project: Project) -> bool:
    """What a deletion does that can be undone."""
    kept = names.new_kept_name(project.id)
    module = database_adapter.current()
    return module.set_project_database_aside(project.db_name, kept, project.id, False)


@pytest.mark.parametrize("drop", [drop, set_aside])
@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_deletion_ends_a_copy(
    project: Project, tmp_path: Path, drop: Callable[[Project], bool]
) -> None:
    """A backup that copies a project's database is no reason to refuse its user."""
    databases = PostgresDatabases(get_settings())
    with databases.opened(project.db_name) as conn, conn.cursor() as cursor:
        cursor.execute("BEGIN")
        assert drop(project)
    assert databases.copy_project(project.id, project.db_name, tmp_path / "x.dump") is None


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_deletion_waits_for_a_copy(project: Project, place: Place) -> None:
    """The same on SQLite, where a copy is made in moments."""
    path = place.sql.folder / f"{project.db_name}.sqlite3"
    with ThreadPoolExecutor() as threads, source.opened(path) as conn:
        conn.execute("BEGIN")
        conn.execute("SELECT * FROM notes").fetchall()
        deletion = threads.submit(drop, project)
        time.sleep(0.2)
        conn.execute("ROLLBACK")
        conn.close()
        assert deletion.result()
    assert not path.exists()
