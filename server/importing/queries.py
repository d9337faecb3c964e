"""SQL about imported conversations."""

from datetime import datetime

from server.storage.contract import Connection, Row, execute, fetch_all, fetch_one

# Of a new message, in the order of `add_messages`.
_MESSAGE = "user_id, session_id, role, content, model, forked, created_at"
_NODE = "user_id, session_id, source_id, message_id, digest, metadata"


def find_project(conn: Connection, user_id: int, name: str) -> int | None:
    """The id of the user's project of this name."""
    row = fetch_one(
        conn,
        "SELECT id FROM projects WHERE user_id = %s AND name = %s AND status = 'active'",
        (user_id, name),
    )
    return row["id"] if row else None


def find_imported(conn: Connection, user_id: int, source: str, source_id: str) -> Row | None:
    """The session that a conversation was imported into, with the title and star it then had.

    `there` is false while the session or its project is being deleted.
    """
    return fetch_one(
        conn,
        """
        SELECT imported_sessions.session_id, imported_sessions.title, imported_sessions.starred,
            projects.name AS project,
            NOT sessions.deleting AND projects.status = 'active' AS there
        FROM imported_sessions
        JOIN sessions ON sessions.id = imported_sessions.session_id
        JOIN projects ON projects.id = sessions.project_id
        WHERE imported_sessions.user_id = %(user_id)s AND sessions.user_id = %(user_id)s
            AND imported_sessions.source = %(source)s
            AND imported_sessions.source_id = %(source_id)s
        """,
        {"user_id": user_id, "source": source, "source_id": source_id},
    )


def list_nodes(conn: Connection, user_id: int, session_id: int) -> list[Row]:
    """The source's messages that a session has, with what became of them."""
    return fetch_all(
        conn,
        "SELECT source_id, message_id, digest FROM imported_messages "
        "WHERE user_id = %s AND session_id = %s",
        (user_id, session_id),
    )


def add_session(
    conn: Connection,
    user_id: int,
    project_id: int,
    session_key: str,
    title: str | None,
    forked: bool,
    created_at: datetime,
    updated_at: datetime,
) -> int | None:
    """The id of the new session; None when there is no such project."""
    row = fetch_one(
        conn,
        """
        INSERT INTO sessions
            (user_id, project_id, session_key, title, forked, created_at, updated_at)
        SELECT user_id, id, %(session_key)s, %(title)s, %(forked)s, %(created_at)s, %(updated_at)s
        FROM projects
        WHERE user_id = %(user_id)s AND id = %(project_id)s AND status = 'active'
        RETURNING id
        """,
        {
            "user_id": user_id,
            "project_id": project_id,
            "session_key": session_key,
            "title": title,
            "forked": forked,
            "created_at": created_at,
            "updated_at": updated_at,
        },
    )
    return row["id"] if row else None


def add_origin(
    conn: Connection,
    user_id: int,
    session_id: int,
    source: str,
    source_id: str,
    title: str | None,
    starred: bool,
    metadata: str,
    now: datetime,
) -> None:
    """Note where the session came from."""
    execute(
        conn,
        """
        INSERT INTO imported_sessions
            (user_id, session_id, source, source_id, title, starred, metadata, imported_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (user_id, session_id, source, source_id, title, starred, metadata, now),
    )


def grow_session(
    conn: Connection, user_id: int, session_id: int, forked: bool, updated_at: datetime
) -> bool:
    """Note that the session gets messages, and lock its row until the transaction ends."""
    return bool(
        execute(
            conn,
            """
            UPDATE sessions SET forked = forked OR %(forked)s,
                updated_at = CASE WHEN updated_at < %(at)s THEN %(at)s ELSE updated_at END
            WHERE user_id = %(user_id)s AND id = %(session_id)s AND NOT deleting
            """,
            {"user_id": user_id, "session_id": session_id, "forked": forked, "at": updated_at},
        )
    )


def add_messages(conn: Connection, user_id: int, session_id: int, rows: list[Row]) -> list[int]:
    """Store messages in their order; their ids in the same order.

    Rows of one statement get their ids in the order of its VALUES, on both databases; only the
    order in which RETURNING names them is nobody's promise.
    """
    stored = fetch_all(
        conn,
        f"INSERT INTO messages ({_MESSAGE}) VALUES {_marks(_MESSAGE, len(rows))} RETURNING id",
        [
            value
            for row in rows
            for value in (
                user_id,
                session_id,
                row["role"],
                row["content"],
                row["model"],
                row["forked"],
                row["created_at"],
            )
        ],
    )
    return sorted(row["id"] for row in stored)


def set_parents(conn: Connection, user_id: int, parents: list[tuple[int, int]]) -> None:
    """Say which messages the forked ones follow, as pairs of ids."""
    execute(
        conn,
        f"""
        UPDATE messages SET parent_id = pairs.column2
        FROM (VALUES {_marks("id, parent_id", len(parents))}) AS pairs
        WHERE messages.user_id = %s AND messages.id = pairs.column1
        """,
        [*(value for pair in parents for value in pair), user_id],
    )


def add_nodes(
    conn: Connection,
    user_id: int,
    session_id: int,
    nodes: list[tuple[str, int | None, str, str | None]],
) -> None:
    """Note the source's messages: id there, id here, digest, metadata."""
    execute(
        conn,
        f"INSERT INTO imported_messages ({_NODE}) VALUES {_marks(_NODE, len(nodes))}",
        [value for node in nodes for value in (user_id, session_id, *node)],
    )


def find_record(
    conn: Connection, user_id: int, source: str, kind: str, source_id: str
) -> str | None:
    """The record as it was imported."""
    row = fetch_one(
        conn,
        "SELECT content FROM imported_records "
        "WHERE user_id = %s AND source = %s AND kind = %s AND source_id = %s",
        (user_id, source, kind, source_id),
    )
    return row["content"] if row else None


def add_record(
    conn: Connection,
    user_id: int,
    source: str,
    kind: str,
    source_id: str,
    content: str,
    now: datetime,
) -> None:
    """Keep a record."""
    execute(
        conn,
        """
        INSERT INTO imported_records (user_id, source, kind, source_id, content, imported_at)
        VALUES (%s, %s, %s, %s, %s, %s)
        """,
        (user_id, source, kind, source_id, content, now),
    )


def _marks(columns: str, rows: int) -> str:
    """Placeholders for rows of these columns."""
    row = ", ".join(["%s"] * len(columns.split(",")))
    return ", ".join([f"({row})"] * rows)
