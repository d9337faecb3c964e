"""Deleting a session that has many messages."""

from datetime import UTC, datetime
from typing import Any

import pytest

from server.sessions import deletion, queries
from server.storage.contract import Connection, Database, Row, execute, fetch_all, fetch_one
from tests.edge.problems import check_problem
from tests.service import Service, sign_up
from tests.sql import Sql


def make_session(conn: Connection, messages: int) -> None:
    """Session 1 of user 1, with messages of which the newest is still being generated."""
    execute(conn, "INSERT INTO users (id, email, password_hash) VALUES (1, 'a@example.com', 'x')")
    execute(conn, "INSERT INTO projects (id, user_id, name, db_name) VALUES (1, 1, 'p', 'p_db')")
    execute(
        conn,
        "INSERT INTO sessions (id, user_id, project_id, session_key) VALUES (1, 1, 1, 'key')",
    )
    execute(
        conn,
        """
        WITH RECURSIVE numbers (n) AS (
            SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < %s)
        INSERT INTO messages (user_id, session_id, role, status, created_at)
        SELECT 1, 1, 'user', CASE WHEN n = %s THEN 'streaming' ELSE 'complete' END, %s
        FROM numbers
        """,
        (messages, messages, datetime.now(UTC)),
    )


def test_a_long_session_goes_in_batches_the_newest_last(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300,000 messages in one statement exceeded PostgreSQL's limit: such a session stayed."""
    seen: list[tuple[int, list[Row]]] = []
    delete_oldest = queries.delete_oldest_messages

    def watch(conn: Connection, *args: Any) -> int:
        removed = delete_oldest(conn, *args)
        left = fetch_all(conn, "SELECT id, stop_requested FROM messages ORDER BY id DESC LIMIT 1")
        seen.append((removed, left))
        return removed

    monkeypatch.setattr(queries, "delete_oldest_messages", watch)
    with database.get_db() as conn:
        make_session(conn, 2 * deletion.BATCH + 1)
        newest = fetch_one(conn, "SELECT max(id) AS id FROM messages")
    assert newest is not None
    assert not deletion.delete(2, 1), "somebody else's"
    assert deletion.delete(1, 1)
    assert [removed for removed, _ in seen] == [deletion.BATCH, deletion.BATCH, 1]
    for _, left in seen[:2]:
        assert [(row["id"], bool(row["stop_requested"])) for row in left] == [(newest["id"], True)]
    with database.read_db() as conn:
        assert fetch_all(conn, "SELECT id FROM messages") == []
        assert fetch_all(conn, "SELECT id FROM sessions") == []
    assert not deletion.delete(1, 1)


def test_only_this_session_goes(service: Service, sql: Sql) -> None:
    """A neighbour in the same project keeps its messages, with somebody else's deletion too."""
    api = sign_up(service)
    project = api.project()["id"]
    gone, kept = (api.session(project)["id"] for _ in range(2))
    for session_id in (gone, kept):
        for role in ("user", "assistant"):
            sql.insert("messages", user_id=api.user["id"], session_id=session_id, role=role)
    check_problem(sign_up(service).delete(f"/sessions/{gone}"), 404)
    assert len(api.messages(gone)) == 2
    assert api.delete(f"/sessions/{gone}").status_code == 204
    assert sql.count("messages", session_id=gone) == 0
    assert len(api.messages(kept)) == 2
    check_problem(api.delete(f"/sessions/{gone}"), 404)
