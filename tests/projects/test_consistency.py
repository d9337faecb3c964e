"""Rows without databases, databases without rows, and what else doesn't fit."""

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import database_postgres
from server.projects import consistency, creation, deletion, mending
from server.settings import get_settings
from server.storage import contract
from server.storage.contract import Row, execute, fetch_all
from tests import postgres
from tests.conftest import fresh_master
from tests.edge.problems import check_problem
from tests.projects.in_process import make_user
from tests.service import Json, Service, new_name, sign_up
from tests.sql import Sql

Found = set[tuple[str, str, int | None]]


class Mess:
    """Makes projects in a master of its own, and spoils what belongs to them."""

    def __init__(self, database: contract.Database, server: postgres.Server) -> None:
        self.database, self.server = database, server
        self.postgres = database.BACKEND == "postgresql"
        self.user_id = make_user(database)

    def project(self) -> Row:
        """A sound project."""
        return creation.create(self.user_id, new_name(), None, "blank")

    def change(self, project: Row, **columns: Any) -> None:
        """Change the project's row behind the service's back."""
        with self.database.get_db() as conn:
            for name, value in columns.items():
                statement = f"UPDATE projects SET {name} = %s WHERE id = %s"
                execute(conn, statement, (value, project["id"]))

    def delete_row(self, project: Row) -> None:
        """Leave the database an orphan."""
        with self.database.get_db() as conn:
            execute(conn, "DELETE FROM projects WHERE id = %s", (project["id"],))

    def drop(self, project: Row) -> None:
        """Leave the row without a database."""
        assert self.database.drop_project_database(project["db_name"], project["id"], force=True)

    def make_database(self, name: str) -> None:
        """One that the service did not make."""
        if self.postgres:
            self.run(f"CREATE DATABASE {name} OWNER {get_settings().db_user}")
            return
        with closing(sqlite3.connect(self.folder / f"{name}.sqlite3")) as file:
            file.execute("CREATE TABLE theirs (id INTEGER)")

    def make_half(self) -> str:
        """One that a creation left when it died; its name."""
        if self.postgres:
            name = f"{database_postgres._half_made_prefix()}{'0' * 32}"
            self.make_database(name)
            return name
        name = f".some_db.creating-{'0' * 32}"
        (self.folder / name).touch()
        os.utime(self.folder / name, (1, 1))
        return name

    def invalidate(self, project: Row) -> None:
        """What an interrupted DROP leaves on PostgreSQL."""
        self.run(f"UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{project['db_name']}'")

    @property
    def folder(self) -> Path:
        """Where SQLite's files lie."""
        return get_settings().project_databases

    def run(self, statement: str) -> None:
        """A statement of the superuser."""
        with closing(self.server.connect()) as conn, conn.cursor() as cursor:
            cursor.execute(statement)


@pytest.fixture
def mess(database: contract.Database, postgres_server: postgres.Server) -> Mess:
    """A master with a sound project."""
    made = Mess(database, postgres_server)
    made.project()
    return made


def orphan(mess: Mess) -> Found:
    project = mess.project()
    mess.delete_row(project)
    owner = project["id"] if mess.postgres else None
    return {("orphan_database", project["db_name"], owner)}


def missing(mess: Mess) -> Found:
    project = mess.project()
    mess.drop(project)
    return {("missing_database", project["db_name"], project["id"])}


def made_anew(mess: Mess) -> Found:
    project = mess.project()
    mess.drop(project)
    mess.make_database(project["db_name"])
    return {("foreign_database", project["db_name"], project["id"])}


def another_projects(mess: Mess) -> Found:
    """Only PostgreSQL's mark tells one project's database from another's."""
    gone, project = mess.project(), mess.project()
    mess.delete_row(gone)
    mess.change(project, name=gone["name"], db_name=gone["db_name"])
    owner = project["id"] if mess.postgres else None
    orphan = ("orphan_database", project["db_name"], owner)
    foreign = ("foreign_database", gone["db_name"], project["id"])
    return {orphan, foreign} if mess.postgres else {orphan}


def strange(mess: Mess) -> Found:
    """On a server others may have databases; the folder is the service's own."""
    name = f"{new_name()}_db"
    mess.make_database(name)
    return set() if mess.postgres else {("foreign_database", name, None)}


def half_made(mess: Mess) -> Found:
    return {("half_made_database", mess.make_half(), None)}


def unfinished(mess: Mess) -> Found:
    creating, deleting = mess.project(), mess.project()
    mess.change(creating, status="creating")
    mess.change(deleting, status="deleting")
    return {("unfinished_project", row["db_name"], row["id"]) for row in (creating, deleting)}


def protected(mess: Mess) -> Found:
    project = mess.project()
    mess.change(project, db_name="postgres")
    owner = project["id"] if mess.postgres else None
    return {
        ("protected_name", "postgres", project["id"]),
        ("orphan_database", project["db_name"], owner),
    }


def invalid(mess: Mess) -> Found:
    if not mess.postgres:
        return set()
    named, unnamed = mess.project(), mess.project()
    mess.delete_row(unnamed)
    mess.invalidate(named)
    mess.invalidate(unnamed)
    return {
        ("invalid_database", named["db_name"], named["id"]),
        ("invalid_database", unnamed["db_name"], unnamed["id"]),
        ("orphan_database", unnamed["db_name"], unnamed["id"]),
    }


def powerless(mess: Mess) -> Found:
    if not mess.postgres:
        return set()
    mess.run(f"ALTER ROLE {get_settings().db_user} NOCREATEDB")
    return {("no_creation", "", None)}


def kept_and_lost(mess: Mess) -> Found:
    """What a deletion has set aside is known; without its row, or without itself, it is found."""
    well, lost, forgotten = mess.project(), mess.project(), mess.project()
    for project in (well, lost, forgotten):
        deletion.delete(mess.user_id, project["id"], force=False)
    with mess.database.get_db() as conn:
        names = {
            row["id"]: row["kept_name"]
            for row in fetch_all(conn, "SELECT id, kept_name FROM deleted_projects")
        }
        execute(conn, "DELETE FROM deleted_projects WHERE id = %s", (forgotten["id"],))
    mess.database.drop_kept_database(names[lost["id"]], lost["id"], force=False)
    owner = forgotten["id"] if mess.postgres else None
    return {
        ("missing_database", names[lost["id"]], lost["id"]),
        ("orphan_database", names[forgotten["id"]], owner),
    }


def kept_and_marked_anew(mess: Mess) -> Found:
    """Only where nobody's mark is on it any more."""
    project = mess.project()
    deletion.delete(mess.user_id, project["id"], force=False)
    with mess.database.get_db() as conn:
        rows = fetch_all(
            conn,
            "SELECT max(kept_name) AS name FROM deleted_projects WHERE id = %s",
            (project["id"],),
        )
    name = rows[0]["name"]
    if mess.postgres:
        mess.run(f'COMMENT ON DATABASE "{name}" IS NULL')
    else:
        with closing(sqlite3.connect(mess.folder / "deleted" / f"{name}.sqlite3")) as file:
            file.execute("PRAGMA application_id = 0")
    return {("foreign_database", name, project["id"])}


def half_purged(mess: Mess) -> Found:
    project = mess.project()
    deletion.delete(mess.user_id, project["id"], force=False)
    with mess.database.get_db() as conn:
        execute(
            conn,
            "UPDATE deleted_projects SET status = 'purging' WHERE id = %s",
            (project["id"],),
        )
    return {("unfinished_project", project["db_name"], project["id"])}


SPOILT: tuple[Callable[[Mess], Found], ...] = (
    orphan,
    missing,
    made_anew,
    another_projects,
    strange,
    half_made,
    unfinished,
    protected,
    invalid,
    kept_and_lost,
    kept_and_marked_anew,
    half_purged,
    powerless,
)


def test_what_does_not_fit_is_found(mess: Mess) -> None:
    """Each kind by itself and all together; each with what it means and what mends it."""
    expected: Found = set()
    assert consistency.check() == []
    for spoil in SPOILT:
        expected |= spoil(mess)
        found = consistency.check()
        assert {(one.kind, one.database, one.project_id) for one in found} == expected, spoil
        assert len(found) == len(expected)
        assert all(one.meaning and one.cure for one in found)


def test_what_is_being_moved_is_left_out(mess: Mess) -> None:
    """A creation or a deletion that another process is at is no trouble."""
    project = mess.project()
    mess.change(project, status="deleting")
    mess.drop(project)
    with mess.database.lock_project_database(project["db_name"]):
        assert consistency.check() == []
    assert [finding.kind for finding in consistency.check()] == ["unfinished_project"]


def test_a_database_in_the_making_is_left_out(mess: Mess) -> None:
    """Under its other name, which somebody's lock or its age of less than a minute tells."""
    name = mess.make_half()
    if mess.postgres:
        with database_postgres._direct() as conn, database_postgres._letting_go(conn):
            assert database_postgres._try_lock(conn, name)
            assert consistency.check() == []
    else:
        os.utime(mess.folder / name)
        assert consistency.check() == []
        os.utime(mess.folder / name, (1, 1))
    assert [finding.kind for finding in consistency.check()] == ["half_made_database"]


def test_why_no_database_can_be_made(database: contract.Database) -> None:
    """Nothing stands in the way here; a file in the folder's place does, and mending goes on."""
    assert database.creation_obstacle() is None
    if database.BACKEND == "sqlite":
        get_settings().project_databases.touch()
        obstacle = database.creation_obstacle()
        assert obstacle is not None
        assert "; to mend it: " in obstacle
        mending.mend()
        with pytest.raises(contract.Unavailable):
            consistency.check()


def test_a_start_reports_and_drops_nothing(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A master put back from an older backup has databases without rows: somebody's only copy.

    A role without CREATEDB is named with its cure, too; creating is 503 then and leaves no row.
    """
    settings = fresh_master(backend, request, tmp_path)
    sql = Sql(settings)
    with Service(settings, tmp_path) as service:
        api = sign_up(service)
        orphan, kept = api.project(), api.project()
        service.stop()
        sql.rows("DELETE FROM projects WHERE id = %s", orphan["id"])
        set_createdb(request, sql, "NOCREATEDB")
        service.start()
        service.wait_until_up()
        report = wait_for_report(service, 2 if sql.postgres else 1)
        expected = {("inconsistent: orphan_database", orphan["db_name"])}
        if sql.postgres:
            expected |= {("inconsistent: no_creation", "")}
            assert f"ALTER ROLE {settings['DB_USER']} CREATEDB" in service.log
        assert {(line["event"], line["database"]) for line in report} == expected
        assert {line["level"] for line in report} == {"WARNING"}
        assert {orphan["db_name"], kept["db_name"]} <= sql.databases()
        if sql.postgres:
            name = new_name()
            answer = api.post("/projects", {"name": name})
            check_problem(answer, 503, "provisioning_unavailable")
            assert sql.count("projects") == 1
            set_createdb(request, sql, "CREATEDB")
            api.project(name)
        check_problem(api.post("/projects", {"name": orphan["name"]}), 409)


def set_createdb(request: pytest.FixtureRequest, sql: Sql, word: str) -> None:
    """Give the service's role the right to make databases, or take it."""
    if sql.postgres:
        server: postgres.Server = request.getfixturevalue("postgres_server")
        with closing(server.connect()) as conn, conn.cursor() as cursor:
            cursor.execute(f"ALTER ROLE {sql.settings['DB_USER']} {word}")


def wait_for_report(service: Service, lines: int) -> list[Json]:
    """The lines of the report, as soon as there are so many."""
    deadline = time.monotonic() + 10
    while True:
        report = [line for line in service.log_lines() if "inconsistent" in line["event"]]
        if len(report) >= lines:
            return report
        assert time.monotonic() < deadline, service.log
        time.sleep(0.05)
