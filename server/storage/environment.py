"""The mark by which production keeps its database to itself."""

from datetime import UTC, datetime

from server.storage.contract import Connection, execute, fetch_one

TABLE = "environment"


def is_production(conn: Connection) -> bool:
    """Whether the mark is there; its table must be."""
    return fetch_one(conn, "SELECT name FROM environment") is not None


def mark_production(conn: Connection) -> None:
    """Set the mark; several processes may do so at once."""
    execute(
        conn,
        "INSERT INTO environment (name, marked_at) VALUES ('production', %s) "
        "ON CONFLICT (name) DO NOTHING",
        (datetime.now(UTC),),
    )
