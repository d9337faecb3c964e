"""SQL of the operators' commands: about everybody's rows."""

from datetime import datetime

from server.storage.contract import Connection, Row, fetch_all, fetch_one

# Tables of fewer rows than this are counted, on PostgreSQL; with more the statistics tell.
COUNTED = 1_000_000
# No index finds messages by time: with more than this the last days aren't counted.
LOOKED_THROUGH = 100_000


def list_users(conn: Connection, after_id: int, limit: int) -> list[Row]:
    """Accounts in the order of their ids, each with the number of its projects."""
    return fetch_all(
        conn,
        """
        SELECT id, email, name, created_at, disabled_at,
            (SELECT count(*) FROM projects
             WHERE projects.user_id = users.id AND projects.status = 'active') AS projects
        FROM users WHERE id > %s ORDER BY id LIMIT %s
        """,
        (after_id, limit),
    )


def count_projects(conn: Connection, user_id: int) -> int:
    """How many projects the account has."""
    row = fetch_one(
        conn,
        "SELECT count(*) AS number FROM projects WHERE user_id = %s AND status = 'active'",
        (user_id,),
    )
    return int(row["number"]) if row else 0


def estimate(conn: Connection, table: str) -> int:
    """How many rows PostgreSQL's statistics say that the table has; 0 where they don't know."""
    row = fetch_one(
        conn,
        "SELECT reltuples::bigint AS number FROM pg_class WHERE oid = to_regclass(%s)",
        (table,),
    )
    return max(0, int(row["number"])) if row else 0


def estimate_bytes(conn: Connection, table: str) -> int:
    """How many bytes PostgreSQL has for the table and all that belongs to it."""
    row = fetch_one(conn, "SELECT pg_total_relation_size(to_regclass(%s)) AS number", (table,))
    return int(row["number"] or 0) if row else 0


def count(conn: Connection, table: str) -> int:
    """How many rows the table has; its name is one of ours."""
    row = fetch_one(conn, f"SELECT count(*) AS number FROM {table}")
    return int(row["number"]) if row else 0


def count_messages_since(conn: Connection, since: datetime) -> int:
    """How many messages are newer; reads all of them."""
    row = fetch_one(
        conn, "SELECT count(*) AS number FROM messages WHERE created_at >= %s", (since,)
    )
    return int(row["number"]) if row else 0


def sum_images(conn: Connection) -> int:
    """How many bytes all images have."""
    row = fetch_one(conn, "SELECT coalesce(sum(size_bytes), 0) AS number FROM images")
    return int(row["number"]) if row else 0


def server_connections(conn: Connection) -> Row:
    """How many clients PostgreSQL has, how many of them in this database, and how many it takes."""
    row = fetch_one(
        conn,
        """
        SELECT count(*) AS clients,
            count(CASE WHEN datname = current_database() THEN 1 END) AS here,
            current_setting('max_connections')::int AS most
        FROM pg_stat_activity WHERE backend_type = 'client backend'
        """,
    )
    return row or {}
