"""The command that counts what there is."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import database_adapter
from server.cli import queries
from server.cli.ending import AsJson, Json, answer, told
from server.settings import get_settings
from server.storage.contract import Connection, DatabaseSizes, Misconfigured

TABLES = ("users", "projects", "sessions", "messages", "images")
# A statement may read all of a table that is not estimated.
PATIENCE = 60.0


def run(*, as_json: AsJson = False) -> None:
    """Count what there is, and say how much room it takes.

    Users, projects, sessions, messages, images; the databases' sizes with the largest of the
    projects'; the pool.

    On PostgreSQL tables of more than a million rows are estimated by its statistics, and shown with
    a `~`; `estimated` lists them in the JSON. The messages of the last day and of seven days are
    left out with more than 100,000 messages: no index finds them. Nothing is changed.

    Exit codes: 0; 2 not possible, with the reason.

    Examples:

        ./clawd stats

        ./clawd stats --json
    """
    with told("stats", as_json=as_json):
        settings = get_settings()
        if not settings.postgres and not settings.db_path.exists():
            raise Misconfigured(f"there is no database at {settings.db_path}")
        with database_adapter.peek_db(PATIENCE) as conn:
            found = _count(conn, postgres=settings.postgres)
            pool: Json = {"max": settings.db_pool_max}
            if settings.postgres:
                pool |= queries.server_connections(conn)
        found |= {"sizes": database_adapter.database_sizes(), "pool": pool}
        answer(found, "\n".join(_lines(found)), as_json=as_json)


def _count(conn: Connection, *, postgres: bool) -> Json:
    estimated = {
        table: number
        for table in TABLES
        if postgres and (number := queries.estimate(conn, table)) > queries.COUNTED
    }
    counts = {
        table: estimated[table] if table in estimated else queries.count(conn, table)
        for table in TABLES
    }
    if "images" in estimated:
        size = queries.estimate_bytes(conn, "images")
    else:
        size = queries.sum_images(conn)
    recent = {
        name: queries.count_messages_since(conn, datetime.now(UTC) - timedelta(days=days))
        for name, days in (("messages_1_day", 1), ("messages_7_days", 7))
        if counts["messages"] <= queries.LOOKED_THROUGH
    }
    return {**counts, "images_bytes": size, **recent, "estimated": list(estimated)}


def _lines(found: Json) -> Iterator[str]:
    for table in TABLES:
        about = "~" if table in found["estimated"] else ""
        yield _line(table, f"{about}{found[table]:,}")
        if table == "messages":
            for name, words in (
                ("messages_1_day", "of the last day"),
                ("messages_7_days", "of 7 days"),
            ):
                if name in found:
                    yield _line(f"  {words}", f"{found[name]:,}")
        if table == "images":
            yield _line("  bytes", f"{about}{found['images_bytes']:,}")
    yield from _sizes(found["sizes"])
    pool = found["pool"]
    yield _line("pool", f"at most {pool['max']} connections in each process")
    if "most" in pool:
        yield _line("  server", f"{pool['clients']} of {pool['most']}, {pool['here']} of them here")


def _sizes(sizes: DatabaseSizes) -> Iterator[str]:
    yield _line("master", f"{sizes['master']:,} bytes")
    number = sizes["number"]
    yield _line("projects' databases", f"{number:,}, {sizes['projects']:,} bytes")
    for name, size in sizes["largest"]:
        yield _line(f"  {name}", f"{size:,} bytes")


def _line(name: str, value: str) -> str:
    return f"{name:24}  {value}"
