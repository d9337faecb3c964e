"""How the databases find a session's messages."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from server.auth.queries import add_token
from server.messages import queries
from server.sessions.queries import delete_oldest_messages
from server.storage.contract import Connection, Database, Params, Row, execute, fetch_all, fetch_one

OLD, BUSY = 1, 2
QUESTIONS: dict[str, Callable[[Connection], object]] = {
    "the first page": lambda conn: page(conn, OLD, 2**63 - 1, []),
    "a later page": lambda conn: page(conn, OLD, 900, []),
    "a branch's page": lambda conn: page(conn, OLD, 900, [(0, 800)]),
    "the newest": lambda conn: queries.find_newest(conn, 1, OLD),
    "the one before": lambda conn: queries.find_before(conn, 1, OLD, 900),
    "the oldest": lambda conn: delete_oldest_messages(conn, 1, BUSY, 100),
}


def page(
    conn: Connection, session_id: int, before_id: int, spans: list[queries.Span]
) -> Row | None:
    """The page that the only user sees."""
    now = datetime.now(UTC)
    return queries.list_shown(conn, "token", now, session_id, before_id, 51, spans)


@dataclass
class Explaining:
    """A connection that asks for the plan of each statement instead of running it."""

    conn: Connection
    explain: str
    plan: list[str] = field(default_factory=list)

    @contextmanager
    def cursor(self) -> Iterator["Explaining"]:
        yield self

    def execute(self, sql: str, params: Params = ()) -> None:
        for row in fetch_all(self.conn, f"{self.explain} {sql}", params):
            self.plan.append(str(row.get("detail") or row.get("QUERY PLAN")))

    def fetchone(self) -> Any:
        return None

    def fetchall(self) -> list[Any]:
        return []

    @property
    def rowcount(self) -> int:
        return 0


@pytest.fixture
def crowded(database: Database) -> Database:
    """A long session that is older than six thousand messages of another one."""
    now = datetime.now(UTC)
    with database.get_db() as conn:
        execute(
            conn, "INSERT INTO users (id, email, password_hash) VALUES (1, 'a@example.com', 'x')"
        )
        add_token(conn, 1, "token", now, now + timedelta(days=1))
        execute(
            conn, "INSERT INTO projects (id, user_id, name, db_name) VALUES (1, 1, 'p', 'p_db')"
        )
        for session_id in (OLD, BUSY):
            execute(
                conn,
                """
                INSERT INTO sessions (id, user_id, project_id, session_key, updated_at)
                VALUES (%s, 1, 1, %s, %s)
                """,
                (session_id, str(session_id), now),
            )
        execute(
            conn,
            """
            WITH RECURSIVE numbers (n) AS (
                SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 21000)
            INSERT INTO messages (user_id, session_id, role, content)
            SELECT 1, CASE WHEN n <= 15000 THEN 1 ELSE 2 END, 'user', 'hello' FROM numbers
            """,
        )
        if database.BACKEND == "postgresql":
            execute(conn, "ANALYZE messages")
    return database


def test_a_session_is_read_from_its_own_index(crowded: Database) -> None:
    """PostgreSQL read the primary key backwards, past 3,000,000 newer messages: 500 ms a page."""
    explain = "EXPLAIN" if crowded.BACKEND == "postgresql" else "EXPLAIN QUERY PLAN"
    for question, ask in QUESTIONS.items():
        with crowded.get_db() as conn:
            explaining = Explaining(conn, explain)
            ask(explaining)
        plan = "\n".join([question, *explaining.plan])
        assert "messages_session" in plan, plan
        # What is to be deleted is found in the session's index, then deleted by its id.
        assert question == "the oldest" or "messages_pkey" not in plan, plan
        assert "Seq Scan on messages" not in plan, plan


def test_the_questions_are_answered_within_the_session(crowded: Database) -> None:
    """Neither end of the range lets a message of a neighbouring session in."""
    with crowded.get_db() as conn:
        first, last = (
            (fetch_one(conn, f"SELECT {end}(id) AS id FROM messages WHERE session_id = 2") or {})
            for end in ("min", "max")
        )
        assert queries.find_newest(conn, 1, BUSY) == last["id"]
        assert queries.find_newest(conn, 1, OLD) == first["id"] - 1
        assert queries.find_before(conn, 1, BUSY, first["id"]) is None
        assert queries.find_before(conn, 1, BUSY, first["id"] + 1) == first["id"]
        assert queries.find_newest(conn, 2, BUSY) is None
        shown = page(conn, BUSY, first["id"] + 2, [])
        assert shown is not None
        assert (shown["oldest"], bool(shown["more"])) == (first["id"], False)
        assert delete_oldest_messages(conn, 1, BUSY, 2) == 2
        assert queries.find_before(conn, 1, BUSY, first["id"] + 3) == first["id"] + 2
