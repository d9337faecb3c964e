"""SQL about deleted projects: how their rows leave the tables that are served, and come back.

Whole rows are moved, so that a column that only one of two tables has is an error at once.
"""

from collections.abc import Sequence
from datetime import datetime

from server.storage.contract import Connection, Row, execute, fetch_all, fetch_one

DELETED = "id, user_id, name, description, db_name, status, deleted_at, due_at, kept_name"
PROJECT = "id, user_id, name, description, project_type_id, db_name, created_at, updated_at"


def list_deleted(
    conn: Connection, user_id: int, before: tuple[str, int] | None, limit: int
) -> list[Row]:
    """The user's projects that can come back, the one deleted last first."""
    return fetch_all(
        conn,
        f"""
        SELECT {DELETED} FROM deleted_projects
        WHERE user_id = %(user_id)s AND status = 'deleted'
            {"AND (deleted_at, id) < (%(at)s, %(id)s)" if before else ""}
        ORDER BY deleted_at DESC, id DESC
        LIMIT %(limit)s
        """,
        {
            "user_id": user_id,
            "limit": limit,
            **({"at": before[0], "id": before[1]} if before else {}),
        },
    )


def find_deleted(conn: Connection, user_id: int, project_id: int) -> Row | None:
    """One of the user's deleted projects, in any status."""
    return fetch_one(
        conn,
        f"SELECT {DELETED} FROM deleted_projects WHERE user_id = %s AND id = %s",
        (user_id, project_id),
    )


def list_due(conn: Connection, now: datetime) -> list[Row]:
    """What is kept no longer, of all users; a purge that a crash broke off among it."""
    return fetch_all(
        conn,
        f"""
        SELECT {DELETED} FROM deleted_projects WHERE status = 'purging'
        UNION ALL
        SELECT {DELETED} FROM deleted_projects WHERE status = 'deleted' AND due_at <= %s
        """,
        (now,),
    )


def list_kept(conn: Connection) -> list[Row]:
    """Which deleted project names which database that was set aside, if any, of all users."""
    return fetch_all(conn, "SELECT id, db_name, kept_name, status FROM deleted_projects")


def keep_project(
    conn: Connection,
    user_id: int,
    project_id: int,
    kept_name: str,
    deleted_at: datetime,
    due_at: datetime,
) -> None:
    """Note that the project, which is being deleted, is kept."""
    execute(
        conn,
        f"""
        INSERT INTO deleted_projects ({PROJECT}, status, kept_name, deleted_at, due_at)
        SELECT {PROJECT}, 'deleting', %s, %s, %s FROM projects WHERE user_id = %s AND id = %s
        """,
        (kept_name, deleted_at, due_at, user_id, project_id),
    )


def set_status(conn: Connection, user_id: int, project_id: int, before: str, after: str) -> bool:
    """Move the deleted project on from a status; False when it wasn't in that."""
    return bool(
        execute(
            conn,
            "UPDATE deleted_projects SET status = %s WHERE user_id = %s AND id = %s "
            "AND status = %s",
            (after, user_id, project_id, before),
        )
    )


def forget_database(conn: Connection, user_id: int, project_id: int) -> None:
    """Note that nothing of the project's database is set aside."""
    execute(
        conn,
        "UPDATE deleted_projects SET kept_name = NULL WHERE user_id = %s AND id = %s",
        (user_id, project_id),
    )


def forget_project(conn: Connection, user_id: int, project_id: int) -> bool:
    """Remove the note of the deleted project; False when there was none."""
    return bool(
        execute(
            conn,
            "DELETE FROM deleted_projects WHERE user_id = %s AND id = %s",
            (user_id, project_id),
        )
    )


def give_back_project(conn: Connection, user_id: int, project_id: int) -> bool:
    """The project's row as it was, in status `creating`; False when its name is taken."""
    return bool(
        execute(
            conn,
            f"""
            INSERT INTO projects ({PROJECT}, status)
            SELECT {PROJECT}, 'creating' FROM deleted_projects WHERE user_id = %s AND id = %s
            ON CONFLICT (db_name) DO NOTHING
            """,
            (user_id, project_id),
        )
    )


def list_messages(conn: Connection, user_id: int, project_id: int, limit: int) -> list[Row]:
    """Some messages of a project that is being deleted, with about how many bytes each has."""
    return fetch_all(
        conn,
        """
        SELECT messages.id, sessions.deleting, length(messages.content) + coalesce(
            (SELECT sum(size_bytes) FROM images
            WHERE images.user_id = %(user_id)s AND images.message_id = messages.id), 0) AS size
        FROM projects
        JOIN sessions ON sessions.project_id = projects.id
        JOIN messages ON messages.session_id = sessions.id
        WHERE projects.user_id = %(user_id)s AND projects.id = %(project_id)s
            AND projects.status = 'deleting'
            AND sessions.user_id = %(user_id)s AND messages.user_id = %(user_id)s
        LIMIT %(limit)s
        """,
        {"user_id": user_id, "project_id": project_id, "limit": limit},
    )


def keep_messages(conn: Connection, user_id: int, ids: Sequence[int]) -> None:
    """Copy messages and what hangs on them to where deleted ones are; none of them streams on."""
    marks, these = _marks(ids), (user_id, *ids)
    execute(
        conn,
        f"""
        UPDATE messages SET status = 'stopped'
        WHERE user_id = %s AND status = 'streaming' AND id IN ({marks})
        """,
        these,
    )
    execute(
        conn,
        f"""
        INSERT INTO deleted_images
        SELECT * FROM images WHERE user_id = %s AND message_id IN ({marks})
        ON CONFLICT DO NOTHING
        """,
        these,
    )
    execute(
        conn,
        f"""
        INSERT INTO deleted_imported_messages
        SELECT * FROM imported_messages WHERE user_id = %s AND message_id IN ({marks})
        ON CONFLICT DO NOTHING
        """,
        these,
    )
    execute(
        conn,
        f"""
        INSERT INTO deleted_messages
        SELECT * FROM messages WHERE user_id = %s AND id IN ({marks})
        ON CONFLICT DO NOTHING
        """,
        these,
    )


def delete_messages(conn: Connection, user_id: int, ids: Sequence[int]) -> None:
    """Delete messages with what hangs on them."""
    execute(
        conn,
        f"DELETE FROM messages WHERE user_id = %s AND id IN ({_marks(ids)})",
        (user_id, *ids),
    )


def list_sessions(conn: Connection, user_id: int, project_id: int, limit: int) -> list[Row]:
    """Some sessions of a project that is being deleted."""
    return fetch_all(
        conn,
        """
        SELECT sessions.id, sessions.deleting
        FROM projects JOIN sessions ON sessions.project_id = projects.id
        WHERE projects.user_id = %(user_id)s AND projects.id = %(project_id)s
            AND projects.status = 'deleting' AND sessions.user_id = %(user_id)s
        LIMIT %(limit)s
        """,
        {"user_id": user_id, "project_id": project_id, "limit": limit},
    )


def keep_sessions(conn: Connection, user_id: int, ids: Sequence[int]) -> None:
    """Copy sessions, and what came with their import, to where deleted ones are."""
    marks, these = _marks(ids), (user_id, *ids)
    execute(
        conn,
        f"""
        INSERT INTO deleted_imported_messages
        SELECT * FROM imported_messages WHERE user_id = %s AND session_id IN ({marks})
        ON CONFLICT DO NOTHING
        """,
        these,
    )
    execute(
        conn,
        f"""
        INSERT INTO deleted_imported_sessions
        SELECT * FROM imported_sessions WHERE user_id = %s AND session_id IN ({marks})
        ON CONFLICT DO NOTHING
        """,
        these,
    )
    execute(
        conn,
        f"""
        INSERT INTO deleted_sessions
        SELECT * FROM sessions WHERE user_id = %s AND id IN ({marks})
        ON CONFLICT DO NOTHING
        """,
        these,
    )


def delete_sessions(conn: Connection, user_id: int, ids: Sequence[int]) -> None:
    """Delete sessions with what hangs on them."""
    execute(
        conn,
        f"DELETE FROM sessions WHERE user_id = %s AND id IN ({_marks(ids)})",
        (user_id, *ids),
    )


def list_kept_messages(conn: Connection, user_id: int, project_id: int, limit: int) -> list[Row]:
    """Some messages of a project that is being restored or purged, with about their bytes."""
    return fetch_all(
        conn,
        """
        SELECT deleted_messages.id, sessions.id IS NOT NULL AS session_is_back,
            length(deleted_messages.content) + coalesce((SELECT sum(size_bytes) FROM deleted_images
                WHERE deleted_images.user_id = %(user_id)s
                    AND deleted_images.message_id = deleted_messages.id), 0) AS size
        FROM deleted_projects
        JOIN deleted_sessions ON deleted_sessions.project_id = deleted_projects.id
        JOIN deleted_messages ON deleted_messages.session_id = deleted_sessions.id
        LEFT JOIN sessions ON sessions.id = deleted_sessions.id
        WHERE deleted_projects.user_id = %(user_id)s AND deleted_projects.id = %(project_id)s
            AND deleted_projects.status IN ('restoring', 'purging')
            AND deleted_sessions.user_id = %(user_id)s AND deleted_messages.user_id = %(user_id)s
        LIMIT %(limit)s
        """,
        {"user_id": user_id, "project_id": project_id, "limit": limit},
    )


def list_absent_sessions(conn: Connection, user_id: int, project_id: int, limit: int) -> list[Row]:
    """Some sessions of a project that is being restored, which are not back yet.

    One whose key is served again, since a migration brought it from elsewhere, stays away.
    """
    return fetch_all(
        conn,
        """
        SELECT deleted_sessions.id
        FROM deleted_projects
        JOIN deleted_sessions ON deleted_sessions.project_id = deleted_projects.id
        LEFT JOIN sessions ON sessions.session_key = deleted_sessions.session_key
        WHERE deleted_projects.user_id = %(user_id)s AND deleted_projects.id = %(project_id)s
            AND deleted_projects.status = 'restoring'
            AND deleted_sessions.user_id = %(user_id)s AND sessions.id IS NULL
        LIMIT %(limit)s
        """,
        {"user_id": user_id, "project_id": project_id, "limit": limit},
    )


def give_back_sessions(conn: Connection, user_id: int, ids: Sequence[int]) -> None:
    """Copy sessions back, with what came with their import, unless that was imported again."""
    marks, these = _marks(ids), (user_id, *ids)
    execute(
        conn,
        f"""
        INSERT INTO sessions
        SELECT * FROM deleted_sessions WHERE user_id = %s AND id IN ({marks})
        """,
        these,
    )
    execute(
        conn,
        f"""
        INSERT INTO imported_sessions
        SELECT * FROM deleted_imported_sessions WHERE user_id = %s AND session_id IN ({marks})
        ON CONFLICT DO NOTHING
        """,
        these,
    )
    execute(
        conn,
        f"""
        INSERT INTO imported_messages
        SELECT * FROM deleted_imported_messages
        WHERE user_id = %s AND session_id IN ({marks}) AND message_id IS NULL AND EXISTS (
            SELECT 1 FROM imported_sessions
            WHERE imported_sessions.user_id = deleted_imported_messages.user_id
                AND imported_sessions.session_id = deleted_imported_messages.session_id)
        """,
        these,
    )


def give_back_messages(conn: Connection, user_id: int, ids: Sequence[int]) -> None:
    """Copy messages back, and what hung on them, into sessions that are back."""
    marks, these = _marks(ids), (user_id, *ids)
    execute(
        conn,
        f"""
        INSERT INTO messages
        SELECT * FROM deleted_messages WHERE user_id = %s AND id IN ({marks})
        """,
        these,
    )
    execute(
        conn,
        f"""
        INSERT INTO images
        SELECT * FROM deleted_images WHERE user_id = %s AND message_id IN ({marks})
        """,
        these,
    )
    execute(
        conn,
        f"""
        INSERT INTO imported_messages
        SELECT * FROM deleted_imported_messages
        WHERE user_id = %s AND message_id IN ({marks}) AND EXISTS (
            SELECT 1 FROM imported_sessions
            WHERE imported_sessions.user_id = deleted_imported_messages.user_id
                AND imported_sessions.session_id = deleted_imported_messages.session_id)
        """,
        these,
    )


def delete_kept_messages(conn: Connection, user_id: int, ids: Sequence[int]) -> None:
    """Delete messages, and what hung on them, where deleted ones are."""
    marks, these = _marks(ids), (user_id, *ids)
    execute(
        conn,
        f"DELETE FROM deleted_images WHERE user_id = %s AND message_id IN ({marks})",
        these,
    )
    execute(
        conn,
        f"DELETE FROM deleted_imported_messages WHERE user_id = %s AND message_id IN ({marks})",
        these,
    )
    execute(conn, f"DELETE FROM deleted_messages WHERE user_id = %s AND id IN ({marks})", these)


def list_kept_sessions(conn: Connection, user_id: int, project_id: int, limit: int) -> list[Row]:
    """Some sessions of a project that is being restored or purged."""
    return fetch_all(
        conn,
        """
        SELECT deleted_sessions.id
        FROM deleted_projects
        JOIN deleted_sessions ON deleted_sessions.project_id = deleted_projects.id
        WHERE deleted_projects.user_id = %(user_id)s AND deleted_projects.id = %(project_id)s
            AND deleted_projects.status IN ('restoring', 'purging')
            AND deleted_sessions.user_id = %(user_id)s
        LIMIT %(limit)s
        """,
        {"user_id": user_id, "project_id": project_id, "limit": limit},
    )


def delete_kept_sessions(conn: Connection, user_id: int, ids: Sequence[int]) -> None:
    """Delete sessions, and what came with their import, where deleted ones are."""
    marks, these = _marks(ids), (user_id, *ids)
    execute(
        conn,
        f"DELETE FROM deleted_imported_messages WHERE user_id = %s AND session_id IN ({marks})",
        these,
    )
    execute(
        conn,
        f"DELETE FROM deleted_imported_sessions WHERE user_id = %s AND session_id IN ({marks})",
        these,
    )
    execute(conn, f"DELETE FROM deleted_sessions WHERE user_id = %s AND id IN ({marks})", these)


def _marks(ids: Sequence[int]) -> str:
    return ", ".join(["%s"] * len(ids))
