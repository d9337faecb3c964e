"""What a crash left half done is finished at the next start."""

import time
from pathlib import Path

import httpx
import pytest

from server.projects import lifecycle
from server.storage import contract
from server.storage.contract import execute, fetch_all, fetch_one
from tests.conftest import fresh_master
from tests.projects.in_process import make_messages, make_user
from tests.service import Service, new_name, sign_up
from tests.sql import Sql

LEFT = (
    "creating",
    "creating-no-db",
    "creating-foreign",
    "deleting",
    "deleting-no-db",
    "deleting-forced",
    "deleting-master",
)
BROKEN = {
    "sqlite": "PRAGMA max_page_count = 1; CREATE TABLE a (id BIGINT);",
    "postgresql": "SELECT pg_terminate_backend(pg_backend_pid())",
}


def leave(sql: Sql, name: str, project: dict[str, object]) -> None:
    """Make of a project what a crash would have left."""
    row, db_name = int(str(project["id"])), str(project["db_name"])
    sql.update("projects", row, status=name.partition("-")[0])
    if name.endswith(("no-db", "foreign")):
        sql.drop_database(db_name)
    if name.endswith("foreign"):
        sql.make_database(db_name)
    if name.endswith("forced"):
        sql.update("projects", row, name="renamed")
    if name.endswith("master"):
        sql.update("projects", row, db_name=sql.master)


def test_a_restart_mends_what_a_crash_left(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Never a dropped database with a living project, never an orphan: kill -9, then start anew.

    A deletion that had to be forced is finished; one that is never allowed, of the master, brings
    the project back; a database that the creation didn't make stays.
    """
    settings = fresh_master(backend, request, tmp_path) | {"AUTH_RATE_LIMIT": "off"}
    sql = Sql(settings)
    with Service(settings, tmp_path) as service:
        api = sign_up(service)
        projects = {name: api.project(name) for name in (*LEFT, "alive")}
        service.kill()
        for name in LEFT:
            leave(sql, name, projects[name])
        service.start()
        service.wait_until_up()
        deadline = time.monotonic() + 10
        while sql.value("SELECT count(*) FROM projects WHERE status <> 'active'"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        kept = sql.rows("SELECT name, status FROM projects ORDER BY name")
        assert kept == [
            {"name": "alive", "status": "active"},
            {"name": "deleting-master", "status": "active"},
        ]
        databases = {name for name in projects if projects[name]["db_name"] in sql.databases()}
        assert databases == {"alive", "deleting-master", "creating-foreign"}
        me = httpx.get(f"{service.url}/auth/me", headers={"Authorization": f"Bearer {api.token}"})
        assert me.status_code == 200, "the master is there, with its users"
    rows = sql.rows("SELECT detail FROM audit_log WHERE action = 'project.delete' ORDER BY id")
    details = [row["detail"].partition(";") for row in rows]
    assert [(start, end.endswith("no database dropped")) for start, _, end in details[:6]] == [
        ("Was left creating", False),
        ("Was left creating", True),
        ("Was left creating", True),
        ("Was left deleting", False),
        ("Was left deleting", True),
        ("Was left deleting", False),
    ]
    assert details[6][0].startswith("Cannot delete master database")


def test_a_creation_of_unknown_outcome_is_left_to_mending(database: contract.Database) -> None:
    """The connection broke while the database was made: is there one? Mending looks, and undoes.

    The row had gone at once, and a database whose renaming had come through was an orphan.
    """
    user_id, name = make_user(database), new_name()
    with database.get_db() as conn:
        execute(
            conn,
            "INSERT INTO project_types (name, template_sql) VALUES ('broken', %s)",
            (BROKEN[database.BACKEND],),
        )
    with pytest.raises((contract.Unavailable, contract.StorageFull)):
        lifecycle.create(user_id, name, None, "broken")
    with database.get_db() as conn:
        assert fetch_all(conn, "SELECT status FROM projects") == [{"status": "creating"}]
        row = fetch_one(conn, "SELECT id FROM projects")
    assert row is not None
    database.create_project_database(name, "", row["id"])
    lifecycle.mend()
    with database.read_db() as conn:
        assert fetch_all(conn, "SELECT status FROM projects") == []
    assert database.describe_project_database(f"{name}_db") is None
    assert lifecycle.create(user_id, name, None, "blank")["status"] == "active"


def test_one_that_cannot_be_mended_does_not_stop_the_rest(database: contract.Database) -> None:
    """The first one's database is being moved by somebody else; the second is finished."""
    user_id = make_user(database)
    first, second = (lifecycle.create(user_id, new_name(), None, "blank") for _ in range(2))
    make_messages(database, user_id, second["id"], 3)
    with database.get_db() as conn:
        execute(conn, "UPDATE projects SET status = 'deleting'")
    with database.lock_project_database(first["db_name"]):
        lifecycle.mend()
    with database.read_db() as conn:
        assert fetch_all(conn, "SELECT id FROM projects") == [{"id": first["id"]}]
