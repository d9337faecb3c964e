"""What a deletion stops, and how it gets through much."""

import threading
import time

import pytest

from server.errors import NotFound
from server.projects import creation, deletion, rows
from server.storage import contract
from server.storage.contract import execute, fetch_all, fetch_one
from tests.projects.in_process import make_messages, make_user
from tests.service import new_name


def test_generations_end_before_the_database_goes(database: contract.Database) -> None:
    """Whoever generates is asked to stop, and has a moment for it while the database is there."""
    user_id = make_user(database)
    project = creation.create(user_id, new_name(), None, "blank")
    make_messages(database, user_id, project["id"], 1, status="streaming")
    seen: list[bool] = []

    def generate() -> None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and not seen:
            with database.get_db() as conn:
                row = fetch_one(conn, "SELECT stop_requested FROM messages")
                if row and row["stop_requested"]:
                    seen.append(database.project_database_exists(project["db_name"]))
                    execute(conn, "UPDATE messages SET status = 'stopped'")
            time.sleep(0.02)

    thread = threading.Thread(target=generate)
    thread.start()
    deleted = deletion.delete(user_id, project["id"], force=False)
    thread.join()
    assert seen == [True]
    assert (deleted.dropped, deleted.messages) == (True, 1)


def test_a_generation_that_does_not_end_is_not_waited_for_long(
    database: contract.Database,
) -> None:
    """Its process may be dead: a second, then the project goes."""
    user_id = make_user(database)
    project = creation.create(user_id, new_name(), None, "blank")
    make_messages(database, user_id, project["id"], 1, status="streaming")
    started = time.monotonic()
    assert deletion.delete(user_id, project["id"], force=False).dropped
    assert 0.9 < time.monotonic() - started < 3


@pytest.mark.parametrize("purge", [False, True])
def test_a_large_project_is_deleted_in_parts(database: contract.Database, purge: bool) -> None:
    """300,000 messages took longer than the statement's limit: the project stayed for ever."""
    user_id = make_user(database)
    project, other = (creation.create(user_id, new_name(), None, "blank") for _ in range(2))
    for count in (2 * rows.BATCH, 500):
        make_messages(database, user_id, project["id"], count)
    make_messages(database, user_id, other["id"], 7)
    deleted = deletion.delete(user_id, project["id"], force=False, purge=purge)
    assert (deleted.sessions, deleted.messages) == (2, 2 * rows.BATCH + 500)
    with database.read_db() as conn:
        assert fetch_all(conn, "SELECT count(*) AS n FROM messages") == [{"n": 7}]


def test_every_attempt_is_written_down(database: contract.Database) -> None:
    """Also one on what isn't there, one that finds it busy, one that fails."""
    user_id = make_user(database)
    project = creation.create(user_id, new_name(), None, "blank")
    with pytest.raises(NotFound):
        deletion.delete(user_id, project["id"] + 1, force=True)
    with (
        database.lock_project_database(project["db_name"]),
        pytest.raises(Exception, match="being created or deleted"),
    ):
        deletion.delete(user_id, project["id"], force=False)
    deletion.delete(user_id, project["id"], force=False)
    with database.read_db() as conn:
        rows = fetch_all(conn, "SELECT outcome, detail FROM audit_log ORDER BY id")
    assert [row["outcome"] for row in rows] == ["not found, though forced", "busy", "deleted"]
    assert rows[-1]["detail"].startswith("database kept as deleted~")
