"""SQL about messages."""

from collections.abc import Sequence
from datetime import datetime

from server.storage.contract import Connection, Row, execute, fetch_all, fetch_one

MESSAGE = (
    "id, session_id, role, content, status, error, model, prompt_tokens, completion_tokens, "
    "created_at"
)


def list_messages(
    conn: Connection, user_id: int, session_id: int, before_id: int, limit: int
) -> list[Row] | None:
    """The messages before an id, newest first, one row for each image; None without a session.

    The session, its messages and their images' descriptions in one round trip.
    """
    columns = ", ".join(f"page.{name.strip()}" for name in MESSAGE.split(","))
    rows = fetch_all(
        conn,
        f"""
        SELECT {columns},
            images.id AS image_id, images.media_type, images.size_bytes
        FROM sessions
        JOIN projects ON projects.id = sessions.project_id AND projects.status = 'active'
        LEFT JOIN (
            SELECT {MESSAGE} FROM messages
            WHERE user_id = %(user_id)s AND session_id = %(session_id)s AND id < %(before_id)s
            ORDER BY id DESC
            LIMIT %(limit)s
        ) AS page ON page.session_id = sessions.id
        LEFT JOIN images ON images.message_id = page.id AND images.user_id = %(user_id)s
        WHERE sessions.user_id = %(user_id)s AND sessions.id = %(session_id)s
        ORDER BY page.id DESC, images.id
        """,
        {"user_id": user_id, "session_id": session_id, "before_id": before_id, "limit": limit},
    )
    if not rows:
        return None
    return [row for row in rows if row["id"] is not None]


def list_conversation(conn: Connection, user_id: int, session_id: int) -> list[Row]:
    """What was said in a session so far, oldest first."""
    return fetch_all(
        conn,
        """
        SELECT id, role, content FROM messages
        WHERE user_id = %s AND session_id = %s AND status <> 'streaming' AND content <> ''
        ORDER BY id
        """,
        (user_id, session_id),
    )


def add_message(
    conn: Connection,
    user_id: int,
    session_id: int,
    role: str,
    content: str,
    status: str,
    model: str | None,
    now: datetime,
) -> Row:
    """A new message at the end of the session."""
    row = fetch_one(
        conn,
        f"""
        INSERT INTO messages (user_id, session_id, role, content, status, model, created_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s)
        RETURNING {MESSAGE}
        """,
        (user_id, session_id, role, content, status, model, now),
    )
    return row or {}


def save_progress(conn: Connection, texts: Sequence[tuple[int, str]]) -> set[int]:
    """Store the text so far of messages that stream; the ids of those that still do."""
    values = ", ".join(["(%s, %s)"] * len(texts))
    rows = fetch_all(
        conn,
        f"""
        UPDATE messages SET content = saved.column2
        FROM (VALUES {values}) AS saved
        WHERE messages.id = saved.column1 AND messages.status = 'streaming'
        RETURNING messages.id
        """,
        [value for text in texts for value in text],
    )
    return {row["id"] for row in rows}


def finish(
    conn: Connection,
    user_id: int,
    message_id: int,
    status: str,
    content: str,
    error: str | None,
    usage: tuple[int, int] | None,
) -> bool:
    """End a message that streams; False when it is gone or has ended already."""
    return bool(
        execute(
            conn,
            """
            UPDATE messages
            SET status = %(status)s, content = %(content)s, error = %(error)s,
                prompt_tokens = %(prompt)s, completion_tokens = %(completion)s
            WHERE user_id = %(user_id)s AND id = %(id)s AND status = 'streaming'
            """,
            {
                "user_id": user_id,
                "id": message_id,
                "status": status,
                "content": content,
                "error": error,
                "prompt": usage[0] if usage else None,
                "completion": usage[1] if usage else None,
            },
        )
    )
