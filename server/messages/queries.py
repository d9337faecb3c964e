"""SQL about messages."""

from dataclasses import dataclass
from datetime import datetime

from server.storage.contract import Connection, Planned, Row, fetch_all, fetch_one

MESSAGE = (
    "id, session_id, role, content, status, error, model, prompt_tokens, completion_tokens, "
    "created_at"
)
# `session_id = x AND id < y ORDER BY id DESC` lets PostgreSQL read the primary key backwards, past
# all newer messages of everybody; a range of the index (session_id, id) leaves it no choice.
_BEFORE = """
    user_id = %(user_id)s
    AND (session_id, id) < (%(session_id)s, %(before_id)s)
    AND (session_id, id) > (%(session_id)s, 0)
"""
_NEWEST_FIRST = "ORDER BY session_id DESC, id DESC"
_AFTER_ALL = 2**63 - 1
_IMAGE = "images.id AS image_id, images.media_type, images.size_bytes"


@dataclass(frozen=True)
class Place:
    """Where a message stands: after the one before it, or, `forked`, after `parent_id`."""

    forked: bool
    parent_id: int | None


def _within(spans: list[tuple[int, int]]) -> tuple[str, dict[str, int]]:
    """A condition on `id`, with its parameters; no spans: no condition."""
    if not spans:
        return "", {}
    ors = [f"id BETWEEN %(low{i})s AND %(high{i})s" for i in range(len(spans))]
    params = {f"low{i}": low for i, (low, _) in enumerate(spans)}
    params |= {f"high{i}": high for i, (_, high) in enumerate(spans)}
    return f"AND ({' OR '.join(ors)})", params


def list_messages(
    conn: Connection,
    user_id: int,
    session_id: int,
    before_id: int,
    limit: int,
    spans: list[tuple[int, int]],
) -> list[Row] | None:
    """The messages before an id, newest first, one row for each image; None without a session.

    The session, its messages and their images' descriptions in one round trip; a session without
    messages gives a row whose id is NULL.
    """
    columns = ", ".join(f"page.{name.strip()}" for name in MESSAGE.split(","))
    within, params = _within(spans)
    sql = f"""
        SELECT {columns}, {_IMAGE}, sessions.forked AS session_forked
        FROM sessions
        JOIN projects ON projects.id = sessions.project_id AND projects.status = 'active'
        LEFT JOIN (
            SELECT {MESSAGE} FROM messages
            WHERE {_BEFORE} {within}
            {_NEWEST_FIRST}
            LIMIT %(limit)s
        ) AS page ON page.session_id = sessions.id
        LEFT JOIN images ON images.message_id = page.id AND images.user_id = %(user_id)s
        WHERE sessions.user_id = %(user_id)s AND sessions.id = %(session_id)s
            AND NOT sessions.deleting
        ORDER BY page.id DESC, images.id
    """
    params |= {
        "user_id": user_id,
        "session_id": session_id,
        "before_id": before_id,
        "limit": limit,
    }
    # Spans are another text for each branch, which nobody would plan for.
    rows = fetch_all(conn, sql if spans else Planned(sql), params)
    return rows or None


def list_joined(conn: Connection, user_id: int, message_id: int) -> list[Row]:
    """One message, a row for each of its images."""
    columns = ", ".join(f"messages.{name.strip()}" for name in MESSAGE.split(","))
    return fetch_all(
        conn,
        f"""
        SELECT {columns}, {_IMAGE}
        FROM messages LEFT JOIN images
            ON images.message_id = messages.id AND images.user_id = %(user_id)s
        WHERE messages.user_id = %(user_id)s AND messages.id = %(id)s
        ORDER BY images.id
        """,
        {"user_id": user_id, "id": message_id},
    )


def find_message(conn: Connection, user_id: int, session_id: int, message_id: int) -> Row | None:
    """One message of a session, with its place."""
    return fetch_one(
        conn,
        f"""
        SELECT {MESSAGE}, forked, parent_id FROM messages
        WHERE user_id = %s AND session_id = %s AND id = %s
        """,
        (user_id, session_id, message_id),
    )


def find_newest(conn: Connection, user_id: int, session_id: int) -> int | None:
    """The id of the session's newest message."""
    return find_before(conn, user_id, session_id, _AFTER_ALL)


def find_before(conn: Connection, user_id: int, session_id: int, message_id: int) -> int | None:
    """The id of the message with the next smaller id in the session."""
    row = fetch_one(
        conn,
        f"SELECT id FROM messages WHERE {_BEFORE} {_NEWEST_FIRST} LIMIT 1",
        {"user_id": user_id, "session_id": session_id, "before_id": message_id},
    )
    return row["id"] if row else None


def list_forks(conn: Connection, user_id: int, session_id: int) -> list[Row]:
    """The messages that don't follow the one before them, oldest first."""
    return fetch_all(
        conn,
        """
        SELECT id, parent_id FROM messages
        WHERE user_id = %s AND session_id = %s AND forked
        ORDER BY id
        """,
        (user_id, session_id),
    )


def list_conversation(
    conn: Connection, user_id: int, session_id: int, spans: list[tuple[int, int]]
) -> list[Row]:
    """What was said within the spans, oldest first."""
    within, params = _within(spans)
    return fetch_all(
        conn,
        f"""
        SELECT id, role, content FROM messages
        WHERE user_id = %(user_id)s AND session_id = %(session_id)s AND status <> 'streaming'
            {within}
        ORDER BY id
        """,
        {"user_id": user_id, "session_id": session_id, **params},
    )


def add_message(
    conn: Connection,
    user_id: int,
    session_id: int,
    role: str,
    content: str,
    place: Place,
    now: datetime,
) -> Row:
    """A new message that is complete."""
    row = fetch_one(
        conn,
        f"""
        INSERT INTO messages
            (user_id, session_id, role, content, status, forked, parent_id, created_at)
        VALUES (%s, %s, %s, %s, 'complete', %s, %s, %s)
        RETURNING {MESSAGE}
        """,
        (user_id, session_id, role, content, place.forked, place.parent_id, now),
    )
    return row or {}


def add_answer(
    conn: Connection,
    user_id: int,
    session_id: int,
    model: str,
    worker_id: str,
    place: Place,
    now: datetime,
) -> Row:
    """A row for an answer that the worker is about to generate.

    Raises `Conflict` while another one streams in the session.
    """
    row = fetch_one(
        conn,
        f"""
        INSERT INTO messages
            (user_id, session_id, role, status, model, worker_id, forked, parent_id, created_at)
        VALUES (%s, %s, 'assistant', 'streaming', %s, %s, %s, %s, %s)
        RETURNING {MESSAGE}
        """,
        (user_id, session_id, model, worker_id, place.forked, place.parent_id, now),
    )
    return row or {}
