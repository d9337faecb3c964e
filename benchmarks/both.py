"""The service on PostgreSQL and on SQLite at once, for rows that a benchmark puts in by SQL."""

import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg2

from benchmarks.page import TEXT
from benchmarks.rounds import dsn
from tests import postgres
from tests.service import Api, Service

# Both databases understand these; the time is spelled as the service does it on SQLite.
_NUMBERS = (
    "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {})"
)
_AT = "'2026-11-21 09:00:00.000000+00:00'"


class Databases:
    """A service of one worker on each, whose files are on the same disk."""

    def __init__(self, stack: ExitStack, server: postgres.Server) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if folder.stat().st_dev != server.data_dir.stat().st_dev:
            raise RuntimeError(f"{folder} is not on the disk of {server.data_dir}")
        on_sqlite = {"USE_POSTGRES": "false", "DB_PATH": str(folder / "master.db")}
        settings = {"postgresql": postgres.create_master(server), "sqlite": on_sqlite}
        self.services = {
            name: stack.enter_context(Service(own, folder)) for name, own in settings.items()
        }


def add_projects(api: Api, count: int) -> int:
    """Rows of projects of the user, without databases; the id of the newest."""
    user = api.user["id"]
    found = _execute(
        api.service.settings,
        f"INSERT INTO projects (user_id, name, db_name, created_at, updated_at) "
        f"{_NUMBERS.format(count)} SELECT {user}, 'u{user}p' || n, 'u{user}p' || n || '_db', "
        f"{_AT}, {_AT} FROM numbers",
        f"SELECT max(id) FROM projects WHERE user_id = {user}",
    )
    return int(found[0][0])


def add_messages(api: Api, session_id: int, count: int) -> None:
    """Messages of about 400 bytes in a session of the user."""
    _execute(
        api.service.settings,
        "INSERT INTO messages (user_id, session_id, role, content, model, prompt_tokens, "
        f"completion_tokens, created_at) {_NUMBERS.format(count)} SELECT {api.user['id']}, "
        f"{session_id}, CASE n % 2 WHEN 1 THEN 'user' ELSE 'assistant' END, '{TEXT}', "
        "CASE n % 2 WHEN 0 THEN 'agent:main' END, CASE n % 2 WHEN 0 THEN n END, "
        f"CASE n % 2 WHEN 0 THEN n END, {_AT} FROM numbers",
    )


def count_sessions(service: Service) -> int:
    """How many sessions there are."""
    return int(_execute(service.settings, "SELECT count(*) FROM sessions")[0][0])


def settle(service: Service) -> None:
    """Bring the database to where it gets by itself after a while."""
    on_sqlite = "DB_PATH" in service.settings
    _execute(service.settings, "PRAGMA wal_checkpoint(TRUNCATE)" if on_sqlite else "VACUUM ANALYZE")


def _execute(settings: Mapping[str, str], *statements: str) -> list[Any]:
    """Run statements, each for itself; the rows of the last."""
    conn: Any
    if "DB_PATH" in settings:
        conn = sqlite3.connect(settings["DB_PATH"], isolation_level=None, timeout=30)
    else:
        conn = psycopg2.connect(dsn(settings))
        conn.autocommit = True
    with closing(conn):
        cursor = conn.cursor()
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []
