"""SQL about projects and their types."""

from datetime import datetime

from server.storage.contract import Connection, Row, execute, fetch_all, fetch_one, in_range

PROJECT = """
    projects.id, projects.name, projects.description, projects.db_name, projects.status,
    projects.created_at, projects.updated_at,
    coalesce(project_types.name, 'blank') AS project_type
"""
FROM = "projects LEFT JOIN project_types ON project_types.id = projects.project_type_id"


def list_types(conn: Connection, after_id: int, limit: int) -> list[Row]:
    """The templates that a project can start from, oldest first."""
    return fetch_all(
        conn,
        "SELECT id, name, description FROM project_types WHERE id > %s ORDER BY id LIMIT %s",
        (after_id, limit),
    )


def find_type(conn: Connection, name: str) -> Row | None:
    """The template of this name, with its SQL."""
    return fetch_one(
        conn, "SELECT id, name, template_sql FROM project_types WHERE name = %s", (name,)
    )


def list_projects(conn: Connection, user_id: int, before_id: int, limit: int) -> list[Row]:
    """The user's projects, newest first."""
    return fetch_all(
        conn,
        f"""
        SELECT {PROJECT} FROM {FROM}
        WHERE {in_range("projects.user_id, projects.id", "%(user_id)s", "0", "%(before_id)s")}
            AND projects.status = 'active'
        ORDER BY projects.user_id DESC, projects.id DESC
        LIMIT %(limit)s
        """,
        {"user_id": user_id, "before_id": before_id, "limit": limit},
    )


def find_project(conn: Connection, user_id: int, project_id: int) -> Row | None:
    """One of the user's projects, in any status."""
    return fetch_one(
        conn,
        f"SELECT {PROJECT} FROM {FROM} WHERE projects.user_id = %s AND projects.id = %s",
        (user_id, project_id),
    )


def create_project(
    conn: Connection,
    user_id: int,
    name: str,
    description: str | None,
    project_type_id: int,
    db_name: str,
    now: datetime,
) -> int | None:
    """The id of the new project, in status `creating`; None when the database's name is taken."""
    row = fetch_one(
        conn,
        """
        INSERT INTO projects
            (user_id, name, description, project_type_id, db_name, status, created_at, updated_at)
        VALUES (%(user_id)s, %(name)s, %(description)s, %(type_id)s, %(db_name)s, 'creating',
            %(now)s, %(now)s)
        ON CONFLICT (db_name) DO NOTHING
        RETURNING id
        """,
        {
            "user_id": user_id,
            "name": name,
            "description": description,
            "type_id": project_type_id,
            "db_name": db_name,
            "now": now,
        },
    )
    return row["id"] if row else None


def set_status(conn: Connection, user_id: int, project_id: int, before: str, after: str) -> bool:
    """Move the project on in its life from a status; False when it wasn't in that."""
    return bool(
        execute(
            conn,
            "UPDATE projects SET status = %s WHERE user_id = %s AND id = %s AND status = %s",
            (after, user_id, project_id, before),
        )
    )


def update_project(
    conn: Connection, user_id: int, project_id: int, description: str | None, now: datetime
) -> bool:
    """Set the description; False when there is no such project."""
    return bool(
        execute(
            conn,
            """
            UPDATE projects SET description = %s, updated_at = %s
            WHERE user_id = %s AND id = %s AND status = 'active'
            """,
            (description, now, user_id, project_id),
        )
    )


def stop_generations(conn: Connection, user_id: int, project_id: int) -> int:
    """Ask whoever generates answers in the project to stop; the number of such answers."""
    return execute(
        conn,
        """
        UPDATE messages SET stop_requested = TRUE
        WHERE user_id = %s AND status = 'streaming' AND session_id IN
            (SELECT id FROM sessions WHERE user_id = %s AND project_id = %s)
        """,
        (user_id, user_id, project_id),
    )


def is_generating(conn: Connection, user_id: int, project_id: int) -> bool:
    """Whether an answer still streams in the project."""
    row = fetch_one(
        conn,
        """
        SELECT 1 AS found FROM messages
        WHERE user_id = %s AND status = 'streaming' AND session_id IN
            (SELECT id FROM sessions WHERE user_id = %s AND project_id = %s)
        LIMIT 1
        """,
        (user_id, user_id, project_id),
    )
    return row is not None


def delete_messages(conn: Connection, user_id: int, project_id: int, limit: int) -> int:
    """Delete up to `limit` of the project's messages; how many that were."""
    return execute(
        conn,
        """
        DELETE FROM messages WHERE user_id = %s AND id IN (
            SELECT messages.id FROM sessions JOIN messages ON messages.session_id = sessions.id
            WHERE sessions.user_id = %s AND sessions.project_id = %s AND messages.user_id = %s
            LIMIT %s)
        """,
        (user_id, user_id, project_id, user_id, limit),
    )


def delete_sessions(conn: Connection, user_id: int, project_id: int, limit: int) -> int:
    """Delete up to `limit` of the project's sessions; how many that were."""
    return execute(
        conn,
        """
        DELETE FROM sessions WHERE user_id = %s AND id IN (
            SELECT id FROM sessions WHERE user_id = %s AND project_id = %s LIMIT %s)
        """,
        (user_id, user_id, project_id, limit),
    )


def delete_project(conn: Connection, user_id: int, project_id: int) -> bool:
    """Delete the project's row and with it its sessions and messages."""
    return bool(
        execute(
            conn,
            "DELETE FROM projects WHERE user_id = %s AND id = %s",
            (user_id, project_id),
        )
    )


def find_unfinished(conn: Connection, db_name: str) -> Row | None:
    """The project, whosever it is, that names the database and was not brought to its end."""
    return fetch_one(
        conn,
        "SELECT id, user_id, name, db_name, status FROM projects "
        "WHERE db_name = %s AND status <> 'active'",
        (db_name,),
    )


def list_databases(conn: Connection) -> list[Row]:
    """Which project names which database, of all users."""
    return fetch_all(conn, "SELECT id, name, db_name, status FROM projects ORDER BY id")


def list_unfinished(conn: Connection) -> list[Row]:
    """Projects of all users whose creation or deletion has not come to its end."""
    return fetch_all(
        conn,
        "SELECT id, user_id, name, db_name, status FROM projects "
        "WHERE status <> 'active' ORDER BY id",
    )
