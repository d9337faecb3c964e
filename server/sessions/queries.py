"""SQL about chat sessions."""

from datetime import datetime

from server.storage.contract import Connection, Row, execute, fetch_all, fetch_one, in_range

SESSION = "id, project_id, session_key, title, created_at, updated_at"


def list_sessions(
    conn: Connection,
    user_id: int,
    project_id: int,
    before: tuple[str, int] | None,
    limit: int,
) -> list[Row] | None:
    """A project's sessions, newest activity first; None when there is no such project."""
    rows = fetch_all(
        conn,
        f"""
        SELECT page.*
        FROM projects LEFT JOIN (
            SELECT {SESSION} FROM sessions
            WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND NOT deleting
                {"AND (updated_at, id) < (%(at)s, %(id)s)" if before else ""}
            ORDER BY updated_at DESC, id DESC
            LIMIT %(limit)s
        ) AS page ON page.project_id = projects.id
        WHERE projects.user_id = %(user_id)s AND projects.id = %(project_id)s
            AND projects.status = 'active'
        ORDER BY page.updated_at DESC, page.id DESC
        """,
        {
            "user_id": user_id,
            "project_id": project_id,
            "limit": limit,
            **({"at": before[0], "id": before[1]} if before else {}),
        },
    )
    if not rows:
        return None
    return [row for row in rows if row["id"] is not None]


def create_session(
    conn: Connection,
    user_id: int,
    project_id: int,
    session_key: str,
    title: str | None,
    now: datetime,
) -> Row | None:
    """The new session; None when there is no such project."""
    return fetch_one(
        conn,
        f"""
        INSERT INTO sessions (user_id, project_id, session_key, title, created_at, updated_at)
        SELECT user_id, id, %(session_key)s, %(title)s, %(now)s, %(now)s
        FROM projects
        WHERE user_id = %(user_id)s AND id = %(project_id)s AND status = 'active'
        RETURNING {SESSION}
        """,
        {
            "user_id": user_id,
            "project_id": project_id,
            "session_key": session_key,
            "title": title,
            "now": now,
        },
    )


def find_session(conn: Connection, user_id: int, session_id: int) -> Row | None:
    """One of the user's sessions, unless it or its project is being deleted."""
    return fetch_one(
        conn,
        f"""
        SELECT {SESSION} FROM sessions
        WHERE user_id = %(user_id)s AND id = %(session_id)s AND NOT deleting AND EXISTS (
            SELECT 1 FROM projects
            WHERE projects.id = sessions.project_id AND projects.user_id = %(user_id)s
                AND projects.status = 'active')
        """,
        {"user_id": user_id, "session_id": session_id},
    )


def set_title(
    conn: Connection, user_id: int, session_id: int, title: str | None, now: datetime
) -> bool:
    """Rename the session; False when there is no such session."""
    return bool(
        execute(
            conn,
            "UPDATE sessions SET title = %s, updated_at = %s WHERE user_id = %s AND id = %s",
            (title, now, user_id, session_id),
        )
    )


def touch(conn: Connection, user_id: int, session_id: int, now: datetime) -> str | None:
    """Note activity in the session and lock its row until the transaction ends; its key."""
    row = fetch_one(
        conn,
        """
        UPDATE sessions SET updated_at = %(now)s
        WHERE user_id = %(user_id)s AND id = %(session_id)s AND NOT deleting AND EXISTS (
            SELECT 1 FROM projects
            WHERE projects.id = sessions.project_id AND projects.user_id = %(user_id)s
                AND projects.status = 'active')
        RETURNING session_key
        """,
        {"user_id": user_id, "session_id": session_id, "now": now},
    )
    return row["session_key"] if row else None


def mark_forked(conn: Connection, user_id: int, session_id: int) -> None:
    """Note that the conversation has more than one branch."""
    execute(
        conn,
        "UPDATE sessions SET forked = TRUE WHERE user_id = %s AND id = %s",
        (user_id, session_id),
    )


def mark_deleting(conn: Connection, user_id: int, session_id: int) -> bool:
    """Hide the session from everybody; False when there is no such session."""
    return bool(
        execute(
            conn,
            """
            UPDATE sessions SET deleting = TRUE
            WHERE user_id = %(user_id)s AND id = %(session_id)s AND NOT deleting AND EXISTS (
                SELECT 1 FROM projects
                WHERE projects.id = sessions.project_id AND projects.user_id = %(user_id)s
                    AND projects.status = 'active')
            """,
            {"user_id": user_id, "session_id": session_id},
        )
    )


def list_deleting(conn: Connection) -> list[Row]:
    """Sessions of all users whose deletion has not come to its end."""
    return fetch_all(conn, "SELECT id, user_id FROM sessions WHERE deleting ORDER BY id")


def stop_answer(conn: Connection, user_id: int, session_id: int) -> None:
    """Ask the process that generates an answer in the session to stop."""
    execute(
        conn,
        """
        UPDATE messages SET stop_requested = TRUE
        WHERE user_id = %s AND session_id = %s AND status = 'streaming'
        """,
        (user_id, session_id),
    )


def delete_oldest_messages(conn: Connection, user_id: int, session_id: int, most: int) -> int:
    """Delete the session's oldest messages, at most so many; how many it were.

    Nothing but the range is asked of them: with the user as well, PostgreSQL expects so few that
    it reads everybody's.
    """
    session = in_range("session_id, id", "%(session_id)s", "0", "%(after_all)s")
    return execute(
        conn,
        f"""
        DELETE FROM messages
        WHERE user_id = %(user_id)s AND id IN (
            SELECT id FROM messages WHERE {session} ORDER BY session_id, id LIMIT %(most)s)
        """,
        {"user_id": user_id, "session_id": session_id, "after_all": 2**63 - 1, "most": most},
    )


def delete_session(conn: Connection, user_id: int, session_id: int) -> bool:
    """Delete the session with its messages; False when there is no such session."""
    return bool(
        execute(conn, "DELETE FROM sessions WHERE user_id = %s AND id = %s", (user_id, session_id))
    )
