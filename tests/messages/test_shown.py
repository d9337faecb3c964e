"""The database writes a message's JSON: nobody may see that it wasn't pydantic."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from server.auth.queries import add_token
from server.messages import queries
from server.messages.message import from_joined
from server.storage.contract import Connection, Database, execute, fetch_all

NOW = datetime(2026, 11, 21, 9, 0, 0, 120, UTC)
EVERY_CHARACTER = "".join(map(chr, [*range(1, 0x300), *range(0x2000, 0x2070), 0xFFFE, 0x1F426]))
TEXTS = ["", EVERY_CHARACTER, '{"a": "\\u0000"}', "\\", "</script>", "a" * 100_000, "%s %(a)s %%"]


@pytest.fixture
def conversation(database: Database) -> Database:
    """A session of a user with a token, without messages."""
    with database.get_db() as conn:
        execute(conn, "INSERT INTO users (id, email, password_hash) VALUES (1, 'a@b.c', 'x')")
        execute(conn, "INSERT INTO projects (id, user_id, name, db_name) VALUES (1, 1, 'p', 'p')")
        execute(
            conn,
            "INSERT INTO sessions (id, user_id, project_id, session_key) VALUES (1, 1, 1, 'k')",
        )
        add_token(conn, 1, "token", NOW, NOW + timedelta(days=1))
    return database


def add(conn: Connection, content: str = "", **columns: object) -> int:
    """A message with these columns; its id."""
    (row,) = fetch_all(
        conn,
        "INSERT INTO messages (user_id, session_id, role, content) "
        "VALUES (1, 1, 'assistant', %s) RETURNING id",
        (content,),
    )
    for name, value in columns.items():
        execute(conn, f"UPDATE messages SET {name} = %s WHERE id = %s", (value, row["id"]))
    return int(row["id"])


def check(conn: Connection) -> int:
    """Compare each message of the page with what pydantic makes of its row; how many there are."""
    rows = queries.list_shown(conn, "token", NOW, 1, 2**62, 200, [])
    for row in rows:
        (message,) = from_joined(queries.list_joined(conn, 1, row["id"]))
        assert json.loads(row["shown"]) == message.model_dump(mode="json")
        assert list(json.loads(row["shown"])) == list(message.model_dump())
    return len(rows)


def test_every_text_and_every_state(conversation: Database) -> None:
    """Whatever a row may hold: control characters, quotes, half a usage, errors, no model."""
    with conversation.get_db() as conn:
        made = [add(conn, text) for text in TEXTS]
        made.append(add(conn, error='a "quote"', status="failed", model="agent:main"))
        made.append(add(conn, prompt_tokens=3))
        made.append(add(conn, completion_tokens=0))
        made.append(add(conn, prompt_tokens=2**40, completion_tokens=2**40))
    with conversation.read_db() as conn:
        assert check(conn) == len(made)


def test_images_in_their_order(conversation: Database) -> None:
    """Each message has its own, and one without has an empty list."""
    with conversation.get_db() as conn:
        first, without, last = add(conn), add(conn), add(conn)
        for message_id in (last, first, last):
            execute(
                conn,
                "INSERT INTO images (message_id, user_id, media_type, size_bytes, data) "
                "VALUES (%s, 1, 'image/png', 3, %s)",
                (message_id, b"abc"),
            )
    with conversation.read_db() as conn:
        assert check(conn) == 3
        shown = queries.list_shown(conn, "token", NOW, 1, 2**62, 200, [])
        images = {row["id"]: json.loads(row["shown"])["images"] for row in shown}
    assert [len(images[one]) for one in (first, without, last)] == [1, 0, 2]


@pytest.mark.parametrize(
    "spelling",
    ["2026-11-21 09:00:00", "2026-11-21T09:00:00Z", "2026-11-21 10:00:00.5+01:00"],
)
def test_times_however_they_were_written(conversation: Database, spelling: str) -> None:
    """SQLite holds text: its own CURRENT_TIMESTAMP has no zone, and what was imported may have."""
    with conversation.get_db() as conn:
        add(conn, created_at=spelling)
    with conversation.read_db() as conn:
        assert check(conn) == 1
        (row,) = queries.list_shown(conn, "token", NOW, 1, 2**62, 200, [])
    assert json.loads(row["shown"])["created_at"].startswith("2026-11-21T09:00:00.")


def test_who_may_not_see_gets_no_message(conversation: Database) -> None:
    """A token that is nobody's: no row. A session that isn't there or isn't theirs: one."""
    with conversation.get_db() as conn:
        add(conn)
        execute(conn, "INSERT INTO users (id, email, password_hash) VALUES (2, 'x@b.c', 'x')")
        add_token(conn, 2, "other", NOW, NOW + timedelta(days=1))

    def seen(token: str, session_id: int = 1, later: int = 0) -> list[tuple[int, int | None]]:
        with conversation.read_db() as conn:
            now = NOW + timedelta(days=later)
            rows = queries.list_shown(conn, token, now, session_id, 2**62, 200, [])
        return [(row["user_id"], row["id"] and row["session_id"]) for row in rows]

    assert seen("token") == [(1, 1)]
    assert seen("token", later=2) == seen("nobody's") == []
    assert seen("other") == seen("other", 77) == [(2, None)]
    assert seen("token", 77) == [(1, None)]
    with conversation.get_db() as conn:
        execute(conn, "UPDATE users SET disabled_at = created_at WHERE id = 1")
    assert seen("token") == []
