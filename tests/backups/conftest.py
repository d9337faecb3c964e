"""Places with data in them, on both databases."""

from pathlib import Path

import pytest

import database_adapter
from tests import postgres
from tests.backups.place import Place
from tests.conftest import fresh_master, with_settings, without_settings
from tests.service import new_name
from tests.sql import Sql

TIME = "2026-01-02 03:04:05.000006+00:00"


@pytest.fixture(scope="session")
def binaries(postgres_server: postgres.Server) -> str:
    """pg_dump of the tests' server."""
    return str(postgres_server.bin_dir)


@pytest.fixture
def empty(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place where a master may be, and nothing is yet."""
    settings = fresh_master(backend, request, tmp_path)
    if backend == "postgresql":
        settings["PG_BIN_DIR"] = request.getfixturevalue("binaries")
    return Place({**settings, "BACKUP_DIR": str(tmp_path / "backups")})


@pytest.fixture
def place(empty: Place) -> Place:
    """A place with a user and two projects that have databases, made by the service's own code."""
    with_settings(dict(empty.settings))
    try:
        database = database_adapter.current()
        database.init_schema()
        names = [new_name(), new_name()]
        fill(empty.sql, names)
        template = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);"
        template += "INSERT INTO notes VALUES (1, 'first'), (2, 'Zweitens: ä\\n\"');"
        for number, name in enumerate(names, 1):
            database.create_project_database(name, template, number)
    finally:
        without_settings()
    return empty


def fill(sql: Sql, names: list[str]) -> None:
    """A user, two projects, a conversation with an image."""
    times = {"created_at": TIME, "updated_at": TIME}
    sql.insert("users", id=1, email="ada@example.com", name="Ada", password_hash="x", **times)
    for number, name in enumerate(names, 1):
        sql.insert("projects", id=number, user_id=1, name=name, db_name=f"{name}_db", **times)
    sql.insert("sessions", id=1, user_id=1, project_id=1, session_key="key", title="T", **times)
    said = {"user_id": 1, "session_id": 1, "role": "user", "created_at": TIME}
    for number in (1, 2, 3):
        sql.insert("messages", id=number, content=f"Nr. {number} \\ \t ä", **said)
    sql.insert(
        "images",
        id=1,
        user_id=1,
        message_id=1,
        media_type="image/png",
        size_bytes=3,
        data=b"\0\n\t",
    )
