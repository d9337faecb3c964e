"""What a crash left half done is finished at the next start."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

import database_adapter
import database_postgres
from server.projects import creation, deletion, mending
from server.settings import get_settings
from server.storage import contract
from server.storage.contract import execute, fetch_all, fetch_one
from tests import checkout, postgres
from tests.conftest import fresh_master, with_settings, without_settings
from tests.edge.problems import check_problem
from tests.parallel import at_once
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
        creation.create(user_id, name, None, "broken")
    with database.get_db() as conn:
        assert fetch_all(conn, "SELECT status FROM projects") == [{"status": "creating"}]
        row = fetch_one(conn, "SELECT id FROM projects")
    assert row is not None
    database.create_project_database(name, "", row["id"])
    mending.mend()
    with database.read_db() as conn:
        assert fetch_all(conn, "SELECT status FROM projects") == []
    assert database.describe_project_database(f"{name}_db") is None
    assert creation.create(user_id, name, None, "blank")["status"] == "active"


def test_one_that_cannot_be_mended_does_not_stop_the_rest(database: contract.Database) -> None:
    """The first one's database is being moved by somebody else; the second is finished."""
    user_id = make_user(database)
    first, second = (creation.create(user_id, new_name(), None, "blank") for _ in range(2))
    make_messages(database, user_id, second["id"], 3)
    with database.get_db() as conn:
        execute(conn, "UPDATE projects SET status = 'deleting'")
    with database.lock_project_database(first["db_name"]):
        mending.mend()
    with database.read_db() as conn:
        assert fetch_all(conn, "SELECT id FROM projects") == [{"id": first["id"]}]


def leave_much(database: contract.Database, user_id: int) -> list[int]:
    """Projects in every half-finished state, and databases half made; the projects' ids."""
    projects = [creation.create(user_id, new_name(), None, "blank") for _ in range(7)]
    for number, project in enumerate(projects):
        make_messages(database, user_id, project["id"], 3)
        status = ("creating", "deleting")[number % 2]
        with database.get_db() as conn:
            statement = "UPDATE projects SET status = %s WHERE id = %s"
            execute(conn, statement, (status, project["id"]))
    database.drop_project_database(projects[0]["db_name"], projects[0]["id"], force=False)
    for number in range(3):
        leave_half_made(f"{number:032}")
    return [project["id"] for project in projects]


def leave_half_made(mark: str) -> None:
    """What a creation that died has made on the way to a database."""
    if get_settings().postgres:
        with database_postgres._direct() as conn:
            name = f"{database_postgres._half_made_prefix()}{mark}"
            database_postgres._ddl(conn, "CREATE DATABASE {} TEMPLATE template0", name)
        return
    path = get_settings().project_databases / f".x_db.creating-{mark}"
    path.touch()
    os.utime(path, (1, 1))


def test_several_instances_mend_at_once(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Four processes start together after a crash: each ends well, each thing is done once."""
    settings = fresh_master(backend, request, tmp_path)
    with_settings(settings)
    try:
        database = database_adapter.current()
        database.init_schema()
        user_id = make_user(database)
        kept = creation.create(user_id, new_name(), None, "blank")
        left = leave_much(database, user_id)
        code = "from server.projects import mending; mending.mend()"
        said = checkout.run_together([code] * 4, settings)
        assert [status for status, _ in said] == [0] * 4
        assert not any("not removed" in text or "not mended" in text for _, text in said), said
        assert "".join(text for _, text in said).count("half-made project database removed") >= 3
        with database.read_db() as conn:
            assert fetch_all(conn, "SELECT id, status FROM projects") == [
                {"id": kept["id"], "status": "active"}
            ]
            rows = fetch_all(conn, "SELECT target FROM audit_log WHERE outcome = 'deleted'")
        assert sorted(int(row["target"].split()[1].strip(",")) for row in rows) == left
        ours = [found["name"] for found in database.list_project_databases() if found["marked"]]
        assert ours == [kept["db_name"]]
    finally:
        without_settings()


def test_several_sweeps_at_once(
    database: contract.Database, caplog: pytest.LogCaptureFixture
) -> None:
    """On SQLite the second one warned about each file that the first had removed meanwhile."""
    marks = [f"{number:032}" for number in range(2 if get_settings().postgres else 200)]
    creation.create(make_user(database), new_name(), None, "blank")
    for mark in marks:
        leave_half_made(mark)
    swept = at_once([database.sweep_project_databases] * 4)
    assert {name[-32:] for names in swept for name in names} == set(marks)
    assert not any(found["half_made"] for found in database.list_project_databases())
    assert "not removed" not in caplog.text


def test_a_deletion_that_lost_its_lock_is_written_down_once(
    postgres_server: postgres.Server,
) -> None:
    """The lock goes with its connection, which a network may cut: somebody else finishes it then.

    The first one came to its end, too, and the audit log had two deletions of one project.
    """
    with_settings(postgres.create_master(postgres_server))
    try:
        database = database_adapter.current()
        database.init_schema()
        user_id = make_user(database)
        project = creation.create(user_id, new_name(), None, "blank")
        # It waits a second for an answer that nobody ends.
        make_messages(database, user_id, project["id"], 1, status="streaming")
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(deletion.delete, user_id, project["id"], force=False)
            deadline = time.monotonic() + 5
            with database.read_db() as conn:
                while not fetch_one(conn, "SELECT 1 AS n FROM projects WHERE status = 'deleting'"):
                    assert time.monotonic() < deadline
                execute(
                    conn,
                    "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database "
                    "ON pg_database.oid = database AND datname = current_database() "
                    "WHERE locktype = 'advisory'",
                )
            mending.mend()
            assert not first.done()
            assert first.result(10).until is not None
        with database.read_db() as conn:
            rows = fetch_all(conn, "SELECT outcome, detail FROM audit_log")
        assert [row["outcome"] for row in rows] == ["deleted"]
        assert rows[0]["detail"].startswith("Was left deleting; database kept as ")
    finally:
        without_settings()


def test_an_invalid_database_can_be_deleted_and_asked_for(
    request: pytest.FixtureRequest, service: Service
) -> None:
    """Nobody can connect to what an interrupted DROP left: 503, and a DELETE finishes the DROP."""
    sql, api = Sql(service.settings), sign_up(service)
    if not sql.postgres:
        return
    project = api.project()
    server: postgres.Server = request.getfixturevalue("postgres_server")
    with closing(server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(
            "UPDATE pg_database SET datconnlimit = -2 WHERE datname = %s", (project["db_name"],)
        )
    check_problem(api.get(f"/projects/{project['id']}/database"), 503, "database_unavailable")
    body = api.delete(f"/projects/{project['id']}").json()
    assert body["cleanup"]["database_dropped"] is True
    assert project["db_name"] not in sql.databases()
