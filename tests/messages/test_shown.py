"""The database writes a message's JSON: nobody may see that it wasn't pydantic."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from server.auth.queries import add_token
from server.messages import queries
from server.messages.message import from_joined
from server.storage.contract import Connection, Database, execute, fetch_all
from tests.service import Json

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


def shown(conn: Connection, limit: int = 200) -> list[Json]:
    """The page's messages, each compared with what pydantic makes of its row."""
    page = queries.list_shown(conn, "token", NOW, 1, 2**62, limit, [])
    assert page is not None
    messages: list[Json] = json.loads(f"[{page['items'] or ''}]")
    for one in messages:
        (message,) = from_joined(queries.list_joined(conn, 1, one["id"]))
        assert one == message.model_dump(mode="json")
        assert list(one) == list(message.model_dump())
    ids = [one["id"] for one in messages]
    assert ids == sorted(ids)
    assert page["oldest"] == (ids[0] if ids else None)
    return messages


def test_every_text_and_every_state(conversation: Database) -> None:
    """Whatever a row may hold: control characters, quotes, half a usage, errors, no model."""
    with conversation.get_db() as conn:
        made = [add(conn, text) for text in TEXTS]
        made.append(add(conn, error='a "quote"', status="failed", model="agent:main"))
        made.append(add(conn, prompt_tokens=3))
        made.append(add(conn, completion_tokens=0))
        made.append(add(conn, prompt_tokens=2**40, completion_tokens=2**40))
    with conversation.read_db() as conn:
        assert [one["id"] for one in shown(conn)] == made


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
        images = {one["id"]: one["images"] for one in shown(conn)}
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
        (one,) = shown(conn)
    assert one["created_at"].startswith("2026-11-21T09:00:00.")


def test_who_may_not_see_gets_no_message(conversation: Database) -> None:
    """A token that is nobody's: no row. A session that isn't there or isn't theirs: one."""
    with conversation.get_db() as conn:
        add(conn)
        execute(conn, "INSERT INTO users (id, email, password_hash) VALUES (2, 'x@b.c', 'x')")
        add_token(conn, 2, "other", NOW, NOW + timedelta(days=1))

    def seen(token: str, session_id: int = 1, later: int = 0) -> tuple[object, ...] | None:
        with conversation.read_db() as conn:
            now = NOW + timedelta(days=later)
            page = queries.list_shown(conn, token, now, session_id, 2**62, 200, [])
        return (page["user_id"], page["session_id"], page["items"] is not None) if page else None

    assert seen("token") == (1, 1, True)
    assert seen("token", later=2) is seen("nobody's") is None
    assert seen("other") == seen("other", 77) == (2, None, False)
    assert seen("token", 77) == (1, None, False)
    with conversation.get_db() as conn:
        execute(conn, "UPDATE users SET disabled_at = created_at WHERE id = 1")
    assert seen("token") is None


def test_how_much_more_there_is(conversation: Database) -> None:
    """A page holds as many as are asked for, and says whether there are older ones."""
    with conversation.get_db() as conn:
        made = [add(conn) for _ in range(3)]
    for limit, more in ((1, True), (2, True), (3, False), (4, False)):
        with conversation.read_db() as conn:
            page = queries.list_shown(conn, "token", NOW, 1, 2**62, limit, [])
            assert page is not None
            assert bool(page["more"]) is more
            assert [one["id"] for one in shown(conn, limit)] == made[-limit:]
