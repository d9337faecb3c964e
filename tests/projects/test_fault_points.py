"""A project's life survives kill -9 before, and while the server is at, every single step."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import database_adapter
from server.projects import consistency, creation, deletion, mending, queries, restoration
from server.settings import get_settings
from server.storage import contract
from server.storage.contract import Row, execute, fetch_all, fetch_one
from tests import postgres
from tests.conftest import fresh_master, with_settings, without_settings
from tests.projects.crashing import Crashing, Outcome
from tests.projects.in_process import make_messages, make_user
from tests.service import new_name

SHOP = ["customers", "order_items", "orders", "products"]
MESSAGES = 3
# What each of them must have come to for the rounds to mean anything.
CREATION = {
    "sqlite": ("INSERT INTO projects", "CREATE TABLE orders", "os.link", "UPDATE projects"),
    "postgresql": (
        "INSERT INTO projects",
        "CREATE DATABASE",
        "COMMENT ON DATABASE",
        "CREATE TABLE",
        "ALTER DATABASE",
        "UPDATE projects",
    ),
}
DROP = {"sqlite": ("os.remove",), "postgresql": ("DROP DATABASE",)}
RENAME = {"sqlite": ("os.link", "os.remove"), "postgresql": ("ALTER DATABASE",)}
DELETED_ROWS = ("DELETE FROM messages", "DELETE FROM sessions", "DELETE FROM projects")
KEPT_ROWS = (
    "INSERT INTO deleted_projects",
    "INSERT INTO deleted_messages",
    "INSERT INTO deleted_sessions",
)
RETURNED_ROWS = (
    "INSERT INTO projects",
    "INSERT INTO sessions",
    "INSERT INTO messages",
    "DELETE FROM deleted_projects",
)
PURGED_ROWS = (
    "DELETE FROM deleted_messages",
    "DELETE FROM deleted_sessions",
    "DELETE FROM deleted_projects",
)


@dataclass
class World:
    """A master with a user, and a project of theirs that nothing may touch."""

    crashing: Crashing
    user_id: int
    bystander: Row
    name: str

    def projects(self) -> list[Row]:
        """What the client sees but for the bystander."""
        with database_adapter.read_db() as conn:
            found = queries.list_projects(conn, self.user_id, 2**62, 10)
        return [row for row in found if row["id"] != self.bystander["id"]]

    def check_seen(self, messages: int) -> None:
        """No half project is seen: its database is whole, its messages are all there."""
        for project in self.projects():
            check_database(project)
            assert count_messages(project["id"]) == messages

    def check_settled(self) -> None:
        """A database for each row and none besides, no half-made ones, the bystander as it was."""
        with database_adapter.read_db() as conn:
            rows = fetch_all(conn, "SELECT db_name, status FROM projects")
            kept = fetch_all(conn, "SELECT kept_name, status FROM deleted_projects")
        assert {row["status"] for row in rows} == {"active"}
        assert {row["status"] for row in kept} <= {"deleted"}
        assert everything() == {row["db_name"] for row in rows} | {row["kept_name"] for row in kept}
        assert count_messages(self.bystander["id"]) == MESSAGES
        check_database(self.bystander)

    def check_whole(self, project_id: int) -> None:
        """The project is seen, with its database and all of its messages."""
        assert [project["id"] for project in self.projects()] == [project_id]
        self.check_seen(MESSAGES)

    def mend(self) -> None:
        """What the next start does, in a fresh process, as long as it finds something to do."""
        deadline = time.monotonic() + 10
        while server_is_at_it() or consistency.check() or half_made():
            assert time.monotonic() < deadline, everything()
            age_half_made()
            assert self.crashing.run("mend").error is None

    def repeat(self, task: str, *arguments: object) -> str | None:
        """The same request once more, and again while the server is at the killed one's."""
        deadline = time.monotonic() + 10
        while (outcome := self.crashing.run(task, *arguments)).error == "project_busy":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return outcome.error

    def kill(self, point: "Point", task: str, *arguments: object) -> None:
        """Let it come to the point and die there."""
        outcome = self.crashing.run(task, *arguments, stop=point.step, under_way=point.under_way)
        assert outcome.killed
        assert [step[:20] for step in outcome.steps] == [step[:20] for step in point.so_far]


@dataclass(frozen=True)
class Point:
    """A step of a task before which, or while the server is at which, the process dies."""

    so_far: list[str]
    under_way: bool

    @property
    def step(self) -> int:
        """Its number, from 1."""
        return len(self.so_far)

    @property
    def repeat(self) -> bool:
        """Whether the same request finishes what is left, or mending: each after every step."""
        return (self.step % 2 == 0) != self.under_way


def find_points(outcome: Outcome, *needed: str) -> list[Point]:
    """Every point of a task that ran to its end; raises unless it came to the needed steps.

    A server that is killed upon while it reads keeps nothing of it: that is the point before. And
    one that would have read next has left the same as one that would have written next.
    """
    assert (outcome.killed, outcome.error) == (False, None)
    for start in needed:
        assert any(step.startswith(start) for step in outcome.steps), start
    steps = [outcome.steps[:number] for number in range(1, len(outcome.steps) + 1)]
    writing = [so_far for so_far in steps if not so_far[-1].startswith("SELECT")]
    before = [Point(so_far, under_way=False) for so_far in writing]
    if not get_settings().postgres:
        return before
    return before + [Point(so_far, under_way=True) for so_far in writing]


def check_database(project: Row) -> None:
    """The project's database has the tables of its type."""
    described = database_adapter.describe_project_database(project["db_name"])
    assert described is not None
    assert described["tables"] == (SHOP if project["project_type"] == "ecommerce" else [])


def count_messages(project_id: int) -> int:
    """How many messages a project has."""
    with database_adapter.read_db() as conn:
        row = fetch_one(
            conn,
            "SELECT count(*) AS n FROM messages JOIN sessions ON sessions.id = session_id "
            "WHERE project_id = %s",
            (project_id,),
        )
    return int(row["n"]) if row else 0


def everything() -> set[str]:
    """Every database of our role, or every file in the folder, but for locks."""
    settings = get_settings()
    if not settings.postgres:
        files = settings.project_databases.rglob("*.*")
        return {path.name.removesuffix(".sqlite3") for path in files if path.suffix != ".lock"}
    with database_adapter.read_db() as conn:
        rows = fetch_all(
            conn,
            "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = current_user "
            "AND datname <> current_database()",
        )
    return {row["datname"] for row in rows}


def server_is_at_it() -> bool:
    """Whether the server is still at a statement of a process that was killed; a COMMIT, say."""
    if not get_settings().postgres:
        return False
    with database_adapter.read_db() as conn:
        rows = fetch_all(
            conn,
            "SELECT pid FROM pg_stat_activity WHERE usename = current_user "
            "AND pid <> pg_backend_pid() AND state <> 'idle'",
        )
    return bool(rows)


def half_made() -> list[str]:
    """Those that creations have under other names on the way."""
    return [name for name in everything() if "creating" in name]


def age_half_made() -> None:
    """On SQLite a minute must pass before a file in the making counts as left."""
    if not get_settings().postgres:
        for name in half_made():
            os.utime(get_settings().project_databases / name, (1, 1))


@pytest.fixture
def world(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A master of its own, in this process and in the one whose children die."""
    with made_world(fresh_master(backend, request, tmp_path)) as world:
        yield world


@contextmanager
def made_world(settings: dict[str, str]) -> Iterator[World]:
    """A world on the master that the settings name."""
    with_settings(settings)
    try:
        database: contract.Database = database_adapter.current()
        database.init_schema()
        user_id = make_user(database)
        bystander = creation.create(user_id, new_name(), None, "ecommerce")
        make_messages(database, user_id, bystander["id"], MESSAGES)
        with Crashing(settings) as crashing:
            yield World(crashing, user_id, bystander, new_name())
    finally:
        without_settings()


def test_a_creation_killed_at_any_step(backend: str, world: World) -> None:
    """Afterwards the same request makes the project, and mending leaves all of it or nothing.

    The request was told for a minute that the name is taken, by what was left of itself.
    """
    order = ("create", world.user_id, world.name, "ecommerce")
    points = find_points(world.crashing.run(*order), *CREATION[backend], "COMMIT")
    purge(world, world.projects()[0]["id"])
    for point in points:
        world.kill(point, *order)
        world.check_seen(messages=0)
        if point.repeat:
            assert world.repeat(*order) in (None, "database_name_taken")
            assert [row["name"] for row in world.projects()] == [world.name], point
        world.mend()
        world.check_settled()
        for project in world.projects():
            purge(world, project["id"])
    assert everything() == {world.bystander["db_name"]}


@pytest.mark.parametrize("keep", [True, False])
def test_a_deletion_killed_at_any_step(backend: str, world: World, keep: bool) -> None:
    """The project is whole or unseen; the same request finishes it, and so does mending.

    However often it was begun, it is in the audit log as done once; and nothing was lost if it
    keeps what it deletes.
    """
    # The one that keeps is forced, which is one step more.
    needed = (*(KEPT_ROWS + RENAME[backend] if keep else DROP[backend]), *DELETED_ROWS)
    project_id = make(world)
    outcome = world.crashing.run("delete", world.user_id, project_id, keep, not keep)
    points = find_points(outcome, *needed, "INSERT INTO audit_log", "COMMIT")
    for number, point in enumerate(points, 1):
        if keep:
            restoration.restore(world.user_id, project_id)
            world.check_whole(project_id)
        else:
            project_id = make(world)
        order = ("delete", world.user_id, project_id, keep, not keep)
        world.kill(point, *order)
        world.check_seen(MESSAGES)
        if point.repeat:
            assert world.repeat(*order) in (None, "not_found")
            assert world.projects() == [], point
        world.mend()
        world.check_settled()
        for project in world.projects():
            deletion.delete(world.user_id, project["id"], force=False, purge=not keep)
        assert count_deletions(project_id) == (number + 1 if keep else 1), point
        assert count_rows() == (2 if keep else 1) * MESSAGES


def test_a_restoration_killed_at_any_step(backend: str, world: World) -> None:
    """It is whole, or unseen and can still come back; the same request, or mending, finishes it."""
    project_id = make(world)
    deletion.delete(world.user_id, project_id, force=False)
    order = ("restore", world.user_id, project_id)
    needed = (*RENAME[backend], *RETURNED_ROWS, "INSERT INTO audit_log", "COMMIT")
    for point in find_points(world.crashing.run(*order), *needed):
        deletion.delete(world.user_id, project_id, force=False)
        world.kill(point, *order)
        world.check_seen(MESSAGES)
        if point.repeat:
            assert world.repeat(*order) in (None, "not_found")
            world.check_whole(project_id)
        world.mend()
        world.check_settled()
        if not world.projects():
            restoration.restore(world.user_id, project_id)
        world.check_whole(project_id)
        assert count_rows() == 2 * MESSAGES
        assert world.projects()[0]["id"] == project_id


def test_a_purge_killed_at_any_step(backend: str, world: World) -> None:
    """What a deletion has kept is there or gone; the same request finishes it, and so does mending.

    There is no step at which a part of it could come back.
    """
    first = make(world)
    deletion.delete(world.user_id, first, force=False)
    outcome = world.crashing.run("delete", world.user_id, first, False, True)
    needed = (*DROP[backend], *PURGED_ROWS, "INSERT INTO audit_log", "COMMIT")
    for point in find_points(outcome, *needed):
        project_id = make(world)
        deletion.delete(world.user_id, project_id, force=False)
        order = ("delete", world.user_id, project_id, False, True)
        world.kill(point, *order)
        if point.repeat:
            assert world.repeat(*order) in (None, "not_found")
        world.mend()
        world.check_settled()
        if is_kept(project_id):
            restoration.restore(world.user_id, project_id)
            world.check_whole(project_id)
            purge(world, project_id)
        assert count_rows() == MESSAGES
        assert everything() == {world.bystander["db_name"]}


def purge(world: World, project_id: int) -> None:
    """Delete the project for good."""
    deletion.delete(world.user_id, project_id, force=False, purge=True)


def is_kept(project_id: int) -> bool:
    """Whether the project can come back."""
    with database_adapter.read_db() as conn:
        return bool(fetch_all(conn, "SELECT id FROM deleted_projects WHERE id = %s", (project_id,)))


def count_rows() -> int:
    """How many messages are served or kept, of all projects."""
    with database_adapter.read_db() as conn:
        return sum(
            len(fetch_all(conn, f"SELECT id FROM {table}"))
            for table in ("messages", "deleted_messages")
        )


def make(world: World) -> int:
    """A project with a session and messages in it; its id."""
    project = creation.create(world.user_id, world.name, None, "blank")
    make_messages(database_adapter.current(), world.user_id, project["id"], MESSAGES)
    return int(project["id"])


def count_deletions(project_id: int) -> int:
    """How often the audit log says that the project was deleted."""
    with database_adapter.read_db() as conn:
        row = fetch_one(
            conn,
            "SELECT count(*) AS n FROM audit_log WHERE outcome = 'deleted' AND target LIKE %s",
            (f"project {project_id}, %",),
        )
    return int(row["n"]) if row else 0


def wait_for(server: postgres.Server, question: str, *params: object) -> str:
    """The first column of the first row that the server answers, as soon as there is one."""
    deadline = time.monotonic() + 20
    with closing(server.connect()) as conn, conn.cursor() as cursor:
        while time.monotonic() < deadline:
            cursor.execute(question, params)
            if (row := cursor.fetchone()) is not None:
                return str(row[0])
    raise AssertionError(question)


def test_a_rename_that_outlives_its_process(postgres_server: postgres.Server) -> None:
    """PostgreSQL finishes the statement of a process that was killed: till then it isn't over.

    Mending found neither a database nor a lock and removed the row; then the rename came through,
    and the database was an orphan. Here a superuser who looks in holds the rename up.
    """
    with made_world(postgres.create_master(postgres_server)) as world:
        with database_adapter.get_db() as conn:
            slow = "SELECT pg_sleep(0.5)"
            execute(
                conn, "INSERT INTO project_types (name, template_sql) VALUES ('slow', %s)", (slow,)
            )
        order = ("create", world.user_id, world.name, "slow")
        steps = world.crashing.run(*order).steps
        purge(world, world.projects()[0]["id"])
        stop = next(n for n, step in enumerate(steps, 1) if step.startswith("ALTER DATABASE"))
        role = get_settings().db_user
        with in_background(lambda: world.crashing.run(*order, stop=stop, under_way=True)):
            found = wait_for(
                postgres_server,
                "SELECT datname FROM pg_database WHERE datname LIKE 'clawd_creating%%' "
                "AND pg_get_userbyid(datdba) = %s",
                role,
            )
            with closing(postgres_server.connect(found)):
                wait_for(
                    postgres_server,
                    "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'ALTER DATABASE%%' "
                    "AND state = 'active' AND usename = %s",
                    role,
                )
                mending.mend()
        world.mend()
        world.check_settled()
        assert world.projects() == []


@contextmanager
def in_background(work: Callable[[], object]) -> Iterator[None]:
    """Meanwhile the work is done in a thread, to its end."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


TABLES = "".join(f"CREATE TABLE t{number} (id BIGINT PRIMARY KEY);" for number in range(100))
DROPPING = (
    "SELECT pid FROM pg_stat_activity WHERE query LIKE 'DROP DATABASE%%' AND state = 'active' "
    "AND usename = %s"
)


WAITING = f"{DROPPING} AND wait_event LIKE 'Checkpoint%%'"


@contextmanager
def stopped_checkpointer(server: postgres.Server) -> Iterator[None]:
    """No checkpoint comes to its end meanwhile."""
    with closing(server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
        ((pid,),) = cursor.fetchall()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def make_big(world: World) -> int:
    """A project whose database has so many tables that a drop takes a moment; its id."""
    with database_adapter.get_db() as conn:
        execute(
            conn,
            "INSERT INTO project_types (name, template_sql) VALUES ('big', %s) "
            "ON CONFLICT DO NOTHING",
            (TABLES,),
        )
    return int(creation.create(world.user_id, world.name, None, "big")["id"])


def is_invalid(db_name: str) -> bool:
    """Whether PostgreSQL lets nobody into the database any more."""
    with database_adapter.read_db() as conn:
        row = fetch_one(conn, "SELECT datconnlimit FROM pg_database WHERE datname = %s", (db_name,))
    return row is not None and row["datconnlimit"] == -2


@pytest.mark.parametrize("repeat", [True, False])
def test_a_drop_that_is_cancelled_is_finished(
    postgres_server: postgres.Server, repeat: bool
) -> None:
    """PostgreSQL leaves an invalid database, which only another DROP removes."""
    with made_world(postgres.create_master(postgres_server)) as world:
        project_id = make_big(world)
        order = ("delete", world.user_id, project_id, False, True)
        # Having marked the database, DROP waits for a checkpoint.
        with (
            stopped_checkpointer(postgres_server),
            in_background(lambda: world.crashing.run(*order)),
        ):
            pid = wait_for(postgres_server, WAITING, get_settings().db_user)
            with closing(postgres_server.connect()) as conn, conn.cursor() as cursor:
                cursor.execute("SELECT pg_cancel_backend(%s)", (pid,))
        assert is_invalid(f"{world.name}_db")
        assert world.projects() == []
        if repeat:
            assert world.repeat(*order) is None
        world.mend()
        world.check_settled()
        assert count_deletions(project_id) == 1


def test_a_server_that_dies_in_a_drop() -> None:
    """kill -9 of all of PostgreSQL: 503, the project is unseen, and after recovery it goes."""
    with (
        postgres.Server(postgres.find_binaries()[0]) as server,
        made_world(postgres.create_master(server)) as world,
    ):
        project_id = make_big(world)
        order = ("delete", world.user_id, project_id, False, True)
        with in_background(lambda: world.crashing.run(*order)):
            wait_for(server, DROPPING, get_settings().db_user)
            server.kill()
        with pytest.raises(contract.Unavailable):
            world.projects()
        server.start()
        assert world.projects() == []
        world.mend()
        world.check_settled()
        assert count_deletions(project_id) == 1
