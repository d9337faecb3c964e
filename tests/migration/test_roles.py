"""A master made by `./clawd init-postgres`, whose tables the service's role doesn't own."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from tests import postgres
from tests.migration.moving import Move
from tests.migration.sources import make_by_hand
from tests.migration.test_again import project_of
from tests.security.test_role import admin_url, fresh_names, init
from tests.service import Service, new_name, sign_up

OWNERS = """
SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class
WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'S')
"""
KEYS = "SELECT conname::text FROM pg_constraint WHERE contype = 'f' ORDER BY 1"
INDEXES = "SELECT indexname::text FROM pg_indexes WHERE schemaname = %s ORDER BY 1"


@pytest.fixture
def guarded(postgres_server: postgres.Server, tmp_path: Path) -> Iterator[Move]:
    """A small source, and the names of a role and a master that don't exist yet."""
    settings = {**fresh_names(postgres_server), "DB_PATH": str(tmp_path / "master.db")}
    make_by_hand(tmp_path / "master.db", new_name())
    move = Move(settings, postgres_server)
    yield move
    role, master = settings["DB_USER"], settings["DB_NAME"]
    with closing(postgres_server.connect()) as conn, conn.cursor() as cursor:
        for name in (project_of(move), master):
            cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        cursor.execute(f"DROP ROLE {role}")
        cursor.execute(f"DROP ROLE {role}_owner")


@pytest.mark.parametrize("admin", [False, True], ids=["role", "superuser"])
def test_into_a_guarded_master(guarded: Move, tmp_path: Path, *, admin: bool) -> None:
    """With a superuser's URL or without: the same rows, and the role owns nothing of it after."""
    url = {"POSTGRES_ADMIN_URL": admin_url(guarded.server)} if admin else {}
    role = guarded.settings["DB_USER"]
    init(guarded.server, guarded.settings)
    whole = guarded.ask(KEYS), guarded.ask(INDEXES, role)
    outcome = guarded.run(**url)
    assert outcome.code == 0, outcome.report
    assert (guarded.ask(KEYS), guarded.ask(INDEXES, role)) == whole
    assert guarded.ask(OWNERS, role) == [(f"{role}_owner",)]
    assert guarded.run(**url).code == 0
    assert guarded.run("--validate-only").code == 0
    with Service({**guarded.settings, "AUTH_RATE_LIMIT": "off"}, tmp_path) as service:
        user = sign_up(service)
        assert user.user["id"] == 8
        with pytest.raises(psycopg2.Error):
            as_role(guarded, "DELETE FROM audit_log")


def as_role(move: Move, statement: str) -> None:
    """Send it as the service's role."""
    settings = move.settings
    with closing(
        psycopg2.connect(
            host=settings["DB_HOST"],
            port=settings["DB_PORT"],
            dbname=settings["DB_NAME"],
            user=settings["DB_USER"],
            password=settings["DB_PASSWORD"],
        )
    ) as conn:
        conn.cursor().execute(statement)
