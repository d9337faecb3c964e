"""SQL of the doctor's checks."""

from server.storage.contract import Connection, Row, fetch_one


def count_tables(conn: Connection, *, postgres: bool) -> int:
    """How many tables the database has, whoever made them."""
    source = "sqlite_master WHERE type = 'table'"
    if postgres:
        source = "pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    row = fetch_one(conn, f"SELECT count(*) AS number FROM {source}")
    return int(row["number"]) if row else 0


def read_clock(conn: Connection) -> Row:
    """What PostgreSQL's clock says."""
    return fetch_one(conn, "SELECT clock_timestamp() AS now") or {}
