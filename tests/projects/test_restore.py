"""A deleted project comes back as it was, for some days."""

import secrets
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest

from server.errors import NotFound, Problem
from server.projects import creation, deletion, mending, purging, restoration, rows
from server.settings import get_settings
from server.storage import contract
from server.storage.contract import Row, execute, fetch_all
from tests.conftest import with_settings
from tests.edge.problems import check_problem
from tests.images.samples import png_url
from tests.projects.in_process import make_messages, make_user
from tests.service import Api, new_name, sign_up
from tests.sql import Sql

TABLES = ("projects", "sessions", "messages", "images", "imported_sessions", "imported_messages")


class Life:
    """A user's projects in a master of their own, by the logic in this process."""

    def __init__(self, database: contract.Database) -> None:
        self.database = database
        self.user_id = make_user(database)

    def make(self, messages: int = 3) -> Row:
        """A project with a session."""
        project = creation.create(self.user_id, new_name(), "Described.", "ecommerce")
        make_messages(self.database, self.user_id, project["id"], messages)
        return project

    def delete(self, project: Row, **options: bool) -> Any:
        """Delete it."""
        return deletion.delete(self.user_id, project["id"], **{"force": False, **options})

    def restore(self, project: Row) -> Row:
        """Bring it back."""
        return restoration.restore(self.user_id, project["id"])

    def run(self, statement: str, *params: object) -> None:
        """A statement on the master."""
        with self.database.get_db() as conn:
            execute(conn, statement, params)

    def rows(self, statement: str, *params: object) -> list[Row]:
        """What a question to the master gives."""
        with self.database.read_db() as conn:
            return fetch_all(conn, statement, params)

    def everything(self) -> dict[str, list[Row]]:
        """All rows of all tables that hold what belongs to projects."""
        return {name: self.rows(f"SELECT * FROM {name} ORDER BY 1, 2") for name in TABLES}

    def kept(self) -> dict[str, int]:
        """How many rows each of the tables of what was deleted has, if any."""
        counts = {name: len(self.rows(f"SELECT 1 AS n FROM deleted_{name}")) for name in TABLES}
        return {name: count for name, count in counts.items() if count}

    def databases(self) -> set[str]:
        """What belongs to this master, by the names that it has now."""
        found = self.database.list_project_databases()
        return {database["name"] for database in found if database["marked"]}

    def write(self, project: Row) -> None:
        """Put a row into the project's own database."""
        with closing(self._open(project["db_name"])) as conn:
            cursor = conn.cursor()
            cursor.execute("INSERT INTO customers (email, name) VALUES ('ada@example.com', 'Ada')")
            conn.commit()

    def read(self, project: Row) -> list[tuple[Any, ...]]:
        """What stands in the project's own database."""
        with closing(self._open(project["db_name"])) as conn:
            cursor = conn.cursor()
            cursor.execute("SELECT email, name FROM customers")
            return [tuple(row) for row in cursor.fetchall()]

    def _open(self, db_name: str) -> Any:
        settings = get_settings()
        if not settings.postgres:
            folder = settings.project_databases
            path = next(path for path in folder.rglob("*.sqlite3") if path.stem == db_name)
            return sqlite3.connect(path)
        return psycopg2.connect(
            host=settings.db_host,
            port=settings.db_port,
            dbname=db_name,
            user=settings.db_user,
            password=settings.db_password.get_secret_value(),
        )


@pytest.fixture
def life(database: contract.Database) -> Life:
    """A master with a user."""
    return Life(database)


def fill(life: Life, project: Row) -> None:
    """Put something into every column of everything that belongs to a project."""
    now, session = datetime.now(UTC), life.rows("SELECT id FROM sessions")[0]["id"]
    life.run(
        "UPDATE sessions SET title = 'Title', forked = TRUE, updated_at = %s WHERE id = %s",
        now,
        session,
    )
    message = life.rows("SELECT max(id) AS id FROM messages")[0]["id"]
    life.run(
        "UPDATE messages SET content = 'Text', status = 'failed', error = 'e', model = 'm', "
        "prompt_tokens = 1, completion_tokens = 2, worker_id = 'w', stop_requested = TRUE, "
        "error_code = 'c', forked = TRUE, parent_id = %s WHERE id = %s",
        message - 1,
        message,
    )
    life.run(
        "INSERT INTO images (user_id, message_id, media_type, size_bytes, data) "
        "VALUES (%s, %s, 'image/png', 3, %s)",
        life.user_id,
        message,
        b"\0\1\xff",
    )
    life.run(
        "INSERT INTO imported_sessions (session_id, user_id, source, source_id, title, starred, "
        "metadata, imported_at) VALUES (%s, %s, 'chatgpt', 's-1', 't', TRUE, '{}', %s)",
        session,
        life.user_id,
        now,
    )
    for source_id, shown in (("m-1", message), ("m-2", None)):
        life.run(
            "INSERT INTO imported_messages (session_id, source_id, user_id, message_id, digest, "
            "metadata) VALUES (%s, %s, %s, %s, 'd', '{}')",
            session,
            source_id,
            life.user_id,
            shown,
        )
    life.write(project)


def test_a_deleted_project_comes_back_as_it_was(life: Life) -> None:
    """Every column of every row, and its database with what is in it; meanwhile nothing is there.

    Another project of the user's stays as it is throughout, and the ids are given to nobody else.
    """
    project = life.make()
    fill(life, project)
    bystander = life.make(2)
    before = life.everything()
    deleted = life.delete(project)
    assert (deleted.dropped, deleted.sessions, deleted.messages) == (True, 1, 3)
    for name, left in life.everything().items():
        assert left == [row for row in before[name] if row not in mine(before, project, name)]
    assert project["db_name"] not in life.databases()
    assert life.kept() == {
        "projects": 1,
        "sessions": 1,
        "messages": 3,
        "images": 1,
        "imported_sessions": 1,
        "imported_messages": 2,
    }
    newer = life.make(1)
    assert newer["id"] > bystander["id"] > project["id"]
    life.delete(newer, purge=True)
    assert life.restore(project) == project
    assert life.everything() == before
    assert life.read(project) == [("ada@example.com", "Ada")]
    assert life.kept() == {}
    assert life.databases() == {project["db_name"], bystander["db_name"]}
    audit = life.rows("SELECT action, outcome, detail FROM audit_log ORDER BY id")
    assert [(row["action"], row["outcome"]) for row in audit] == [
        ("project.delete", "deleted"),
        ("project.delete", "deleted"),
        ("project.restore", "restored"),
    ]
    assert audit[-1]["detail"] == "database brought back"


def mine(everything: dict[str, list[Row]], project: Row, table: str) -> list[Row]:
    """The rows that hang on a project."""
    sessions = {r["id"] for r in everything["sessions"] if r["project_id"] == project["id"]}
    messages = {r["id"] for r in everything["messages"] if r["session_id"] in sessions}
    named = {
        "projects": lambda row: row["id"] == project["id"],
        "sessions": lambda row: row["id"] in sessions,
        "images": lambda row: row["message_id"] in messages,
    }
    return list(filter(named.get(table, lambda r: r["session_id"] in sessions), everything[table]))


def test_over_http(api: Api, sql: Sql) -> None:
    """The list that offers the undo, the undo, the purge: with their shapes, and their refusals."""
    first, second = api.project(description="Books."), api.project()
    session = api.session(first["id"])
    answer = api.chat(session["id"], "Hello", images=[png_url(2, 2)]).json()
    said = api.messages(session["id"])
    deleted = [api.delete(f"/projects/{row['id']}").json() for row in (first, second)]
    listed = api.get("/deleted-projects").json()
    assert [item["restorable_until"] for item in listed["items"]] == [
        body["restorable_until"] for body in reversed(deleted)
    ]
    shown = listed["items"][1]
    assert shown.keys() == {
        *("id", "name", "description", "db_name", "deleted_at", "restorable_until")
    }
    assert {name: first[name] for name in ("id", "name", "description", "db_name")}.items() <= (
        shown.items()
    )
    days = datetime.fromisoformat(shown["restorable_until"]) - datetime.fromisoformat(
        shown["deleted_at"]
    )
    assert days == timedelta(days=7)
    page = api.get("/deleted-projects?limit=1").json()
    assert page["items"] == listed["items"][:1]
    rest = api.get("/deleted-projects", params={"cursor": page["next_cursor"]}).json()
    assert rest == {"items": listed["items"][1:], "next_cursor": None}
    assert sign_up(api.service).get("/deleted-projects").json()["items"] == []

    check_problem(api.delete(f"/projects/{first['id']}"), 404, "not_found")
    restored = api.post(f"/projects/{first['id']}/restore")
    assert (restored.status_code, restored.json()) == (200, first)
    assert api.messages(session["id"]) == said
    assert api.get(f"/images/{answer['user_message']['images'][0]['id']}").status_code == 200
    assert api.chat(session["id"], "And on").status_code == 200
    assert api.get(f"/projects/{first['id']}/database").status_code == 200
    check_problem(api.post(f"/projects/{first['id']}/restore"), 404, "not_found")

    purged = api.delete(f"/projects/{second['id']}?purge=true")
    assert (purged.status_code, purged.json()) == (
        200,
        {
            **{name: deleted[1][name] for name in ("success", "status", "message", "database")},
            "cleanup": {"database_dropped": True, "sessions": 0, "messages": 0},
            "restorable_until": None,
        },
    )
    check_problem(api.post(f"/projects/{second['id']}/restore"), 404, "not_found")
    check_problem(api.delete(f"/projects/{second['id']}?purge=true"), 404, "not_found")
    body = api.delete(f"/projects/{first['id']}?purge=true").json()
    assert body["restorable_until"] is None
    assert body["cleanup"] == {"database_dropped": True, "sessions": 1, "messages": 4}
    assert api.get("/deleted-projects").json()["items"] == []
    rows = sql.rows(
        "SELECT action, outcome FROM audit_log WHERE user_id = %s ORDER BY id", api.user["id"]
    )
    assert [(row["action"].partition(".")[2], row["outcome"]) for row in rows] == [
        *[("delete", "deleted")] * 2,
        ("delete", "not found"),
        ("restore", "restored"),
        ("restore", "not found"),
        ("purge", "purged"),
        ("restore", "not found"),
        ("delete", "not found"),
        ("delete", "deleted"),
    ]


def test_a_name_that_is_taken_again(api: Api, sql: Sql) -> None:
    """By a new project, or by a database that somebody made: 409, nothing is overwritten.

    What is kept stays, and comes back when the name is free.
    """
    project = api.project()
    path = f"/projects/{project['id']}/restore"
    api.delete(f"/projects/{project['id']}")
    other = api.project(project["name"])
    check_problem(api.post(path), 409, "database_name_taken")
    api.delete(f"/projects/{other['id']}?purge=true")
    sql.make_database(project["db_name"])
    check_problem(api.post(path), 409, "database_name_taken")
    assert project["db_name"] in sql.databases()
    sql.drop_database(project["db_name"])
    assert len(api.get("/deleted-projects").json()["items"]) == 1
    assert api.post(path).json() == project


def test_what_is_due_is_swept(life: Life) -> None:
    """Not before its time, whatever the setting says by then; by several at once as by one."""
    due, kept, undue = life.make(), life.make(), life.make()
    for project in (due, kept):
        life.delete(project)
    long_ago = datetime.now(UTC) - timedelta(seconds=1)
    life.run("UPDATE deleted_projects SET due_at = %s WHERE id = %s", long_ago, due["id"])
    with_settings({"UNDO_DAYS": "0"})
    threads = [threading.Thread(target=purging.sweep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert life.kept() == {"projects": 1, "sessions": 1, "messages": 3}
    purged = life.rows("SELECT target, detail FROM audit_log WHERE outcome = 'purged'")
    assert [row["target"].partition(",")[0] for row in purged] == [f"project {due['id']}"]
    assert purged[0]["detail"] == "Its days were over; database dropped"
    with pytest.raises(NotFound):
        life.restore(due)
    assert life.delete(undue).until is None
    with pytest.raises(NotFound):
        life.restore(undue)
    assert life.restore(kept) == kept
    assert life.databases() == {kept["db_name"]}


def test_one_that_cannot_be_swept_stops_nothing(life: Life) -> None:
    """The first one's database is in use: it is kept, and goes when it is free."""
    projects = [life.make() for _ in range(2)]
    for project in projects:
        life.delete(project)
    life.run("UPDATE deleted_projects SET due_at = deleted_at")
    (busy,) = life.rows("SELECT kept_name FROM deleted_projects WHERE id = %s", projects[0]["id"])
    with closing(life._open(busy["kept_name"])) as conn:
        conn.cursor().execute(
            "BEGIN" if life.database.BACKEND == "postgresql" else "BEGIN IMMEDIATE"
        )
        purging.sweep()
        assert life.kept() == {"projects": 1, "sessions": 1, "messages": 3}
        with pytest.raises(Problem, match="in use") as caught:
            life.restore(projects[0])
        assert (caught.value.status, caught.value.code) == (409, "database_in_use")
        assert life.rows("SELECT status FROM deleted_projects") == [{"status": "deleted"}]
    purging.sweep()
    assert life.kept() == {}
    assert life.databases() == set()


def test_answers_come_back_as_they_ended(life: Life) -> None:
    """One that nobody ended within the second is stopped; none is `streaming` again.

    Sessions that were being deleted by themselves don't come back, nor do their messages.
    """
    project = life.make(1)
    make_messages(life.database, life.user_id, project["id"], 1, status="streaming")
    make_messages(life.database, life.user_id, project["id"], 2)
    life.run("UPDATE sessions SET deleting = TRUE WHERE id = (SELECT max(id) FROM sessions)")
    deleted = life.delete(project)
    assert (deleted.sessions, deleted.messages) == (3, 4)
    life.restore(project)
    statuses = life.rows("SELECT status FROM messages ORDER BY id")
    assert [row["status"] for row in statuses] == ["complete", "stopped"]
    assert len(life.rows("SELECT id FROM sessions")) == 2


def test_a_large_project_moves_in_parts(life: Life) -> None:
    """Of so many rows, or of so many bytes: thousands of images kept others waiting."""
    project = life.make(2 * rows.BATCH + 500)
    life.delete(project)
    life.restore(project)
    assert len(life.rows("SELECT id FROM messages")) == 2 * rows.BATCH + 500
    found: list[Row] = [{"id": number, "size": rows.MOST_BYTES // 4} for number in range(10)]
    assert rows._within_bytes(found) == found[:4]
    assert rows._within_bytes([{"id": 1, "size": 10 * rows.MOST_BYTES}, *found]) == [
        {"id": 1, "size": 10 * rows.MOST_BYTES}
    ]


def test_a_conversation_that_was_imported_again(life: Life) -> None:
    """Both stay; the new one has the note of where it came from."""
    project = life.make()
    fill(life, project)
    life.delete(project)
    other = life.make()
    session = life.rows("SELECT id FROM sessions")[0]["id"]
    life.run(
        "INSERT INTO imported_sessions (session_id, user_id, source, source_id, starred, metadata, "
        "imported_at) VALUES (%s, %s, 'chatgpt', 's-1', TRUE, '{}', %s)",
        session,
        life.user_id,
        datetime.now(UTC),
    )
    life.restore(project)
    assert life.rows("SELECT session_id FROM imported_sessions") == [{"session_id": session}]
    assert life.rows("SELECT count(*) AS n FROM messages") == [{"n": 6}]
    assert life.kept() == {}
    assert other["id"] > project["id"]


def test_a_database_that_was_missing(life: Life) -> None:
    """The rest of the project can come back all the same; so too if it is lost while it is kept."""
    project = life.make()
    for lose in ("before", "meanwhile"):
        if lose == "before":
            life.database.drop_project_database(project["db_name"], project["id"], force=False)
        deleted = life.delete(project)
        assert deleted.dropped is (lose != "before")
        if lose == "meanwhile":
            (row,) = life.rows("SELECT kept_name FROM deleted_projects")
            life.database.drop_kept_database(row["kept_name"], project["id"], force=False)
        assert life.restore(project) == project
        assert life.rows("SELECT count(*) AS n FROM messages") == [{"n": 3}]
        assert life.database.describe_project_database(project["db_name"]) is None
        life.database.create_project_database(project["name"], "", project["id"])


def test_a_refused_deletion_keeps_nothing(life: Life) -> None:
    """In use: the project is back, whole, and can be deleted when it is free; or forced."""
    project = life.make()
    before = life.everything()
    with closing(life._open(project["db_name"])) as conn:
        conn.cursor().execute(
            "BEGIN" if life.database.BACKEND == "postgresql" else "BEGIN IMMEDIATE"
        )
        with pytest.raises(Problem, match="in use"):
            life.delete(project)
        assert life.everything() == before
        assert life.kept() == {}
        assert life.delete(project, force=True).dropped
    assert life.restore(project)["id"] == project["id"]
    assert life.everything() == before


def test_a_crashed_deletion_that_is_purged(life: Life) -> None:
    """It had begun to keep: the same request with `purge=true` takes what is kept too."""
    project = life.make()
    kept_name = f"deleted~{project['id']}~{secrets.token_hex(8)}"
    now = datetime.now(UTC)
    life.run("UPDATE projects SET status = 'deleting'")
    life.run(
        "INSERT INTO deleted_projects (id, user_id, name, db_name, status, created_at, updated_at, "
        "deleted_at, due_at, kept_name) SELECT id, user_id, name, db_name, 'deleting', created_at, "
        "updated_at, %s, %s, %s FROM projects",
        now,
        now,
        kept_name,
    )
    with pytest.raises(Problem) as caught:
        life.restore(project)
    assert caught.value.code == "project_busy"
    deleted = life.delete(project, purge=True)
    assert (deleted.dropped, deleted.messages, deleted.until) == (True, 3, None)
    assert life.kept() == {}
    assert life.databases() == set()


def test_a_restoration_left_half_done_is_not_undone_as_a_creation(life: Life) -> None:
    """Its row says `creating` as that of a creation that died, whose database is dropped."""
    project = life.make()
    life.write(project)
    life.delete(project)
    with life.database.get_db() as conn:
        execute(conn, "UPDATE deleted_projects SET status = 'restoring'")
        execute(
            conn,
            "INSERT INTO projects (id, user_id, name, db_name, status) "
            "SELECT id, user_id, name, db_name, 'creating' FROM deleted_projects",
        )
    with pytest.raises(Problem) as caught:
        life.delete(project, purge=True)
    assert caught.value.code == "project_busy"
    with pytest.raises(Problem) as caught:
        creation.create(make_user(life.database), project["name"], None, "blank")
    assert caught.value.code == "database_name_taken"
    assert life.read(project) == [("ada@example.com", "Ada")]
    assert life.rows("SELECT status FROM projects") == [{"status": "active"}]


def test_a_kept_database_that_is_not_the_projects(life: Life) -> None:
    """Its row names another one: neither renamed nor dropped, and the rest stays to come back."""
    first, second = life.make(), life.make()
    for project in (first, second):
        life.delete(project)
    names = {
        row["id"]: row["kept_name"]
        for row in life.rows("SELECT id, kept_name FROM deleted_projects")
    }
    for name in (names[second["id"]] + "0", second["db_name"], "postgres", "deleted~1~../../x"):
        life.run("UPDATE deleted_projects SET kept_name = %s WHERE id = %s", name, first["id"])
        with pytest.raises(Problem) as caught:
            life.restore(first)
        assert caught.value.status == 403
        with pytest.raises(Problem) as caught:
            life.delete(first, purge=True, force=True)
        assert caught.value.status == 403
        life.run("UPDATE deleted_projects SET due_at = deleted_at WHERE id = %s", first["id"])
        purging.sweep()
        mending.mend()
        assert life.databases() == set(names.values())
        assert life.kept()["projects"] == 2
    life.run(
        "UPDATE deleted_projects SET kept_name = %s WHERE id = %s", names[first["id"]], first["id"]
    )
    assert life.restore(first) == first
