"""Statements that PostgreSQL plans once for a connection."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from server.settings import get_settings
from server.storage import plans, postgres
from server.storage.contract import Planned, fetch_all
from tests import postgres as servers
from tests.conftest import with_settings, without_settings

OFTEN = Planned("SELECT %(a)s + 1 AS more, %(b)s || '%%' AS text, %(a)s * 2 AS twice")
KEPT = "SELECT name, statement FROM pg_prepared_statements"


def test_places_become_numbers() -> None:
    """A name that comes twice is one parameter, and a doubled percent sign is one."""
    named = plans.plan(OFTEN)
    assert named.prepare.endswith("AS SELECT $1 + 1 AS more, $2 || '%' AS text, $1 * 2 AS twice")
    assert named.execute.endswith("(%(a)s, %(b)s)")
    listed = plans.plan("SELECT %s, %s")
    assert listed.prepare.endswith("AS SELECT $1, $2")
    assert listed.execute.endswith("(%s, %s)")
    bare = plans.plan("SELECT 1")
    assert bare.execute == f"EXECUTE {bare.prepare.split()[1]}"


def test_a_name_says_which_text_it_stands_for() -> None:
    """Behind a pooler two processes share a server's connection: they must not mix statements."""
    assert plans.plan("SELECT 1").prepare.split()[1] != plans.plan("SELECT 2").prepare.split()[1]


@pytest.fixture
def conn(postgres_server: servers.Server) -> Iterator[postgres.Connection]:
    """A connection of the service's own kind."""
    master = servers.create_master(postgres_server)
    with_settings(master)
    try:
        with closing(postgres.connect(get_settings(), master["DB_NAME"], 5)) as found:
            yield found
    finally:
        without_settings()
        servers.drop_master(postgres_server, master)


def test_it_is_planned_once(conn: postgres.Connection) -> None:
    """However often it runs, and with other values each time."""
    for number in range(3):
        rows = fetch_all(conn, OFTEN, {"a": number, "b": "x", "unused": 1})
        assert rows == [{"more": number + 1, "text": "x%", "twice": 2 * number}]
    assert len(fetch_all(conn, KEPT)) == 1


def test_a_pooler_that_mixes_connections(conn: postgres.Connection) -> None:
    """The server doesn't know the name, or knows it from somebody else: it works all the same."""
    assert fetch_all(conn, OFTEN, {"a": 1, "b": ""})[0]["more"] == 2
    fetch_all(conn, "DEALLOCATE ALL; SELECT 1")
    assert fetch_all(conn, OFTEN, {"a": 2, "b": ""})[0]["more"] == 3
    assert fetch_all(conn, KEPT) == []
    conn.planned = set()
    fetch_all(conn, plans.plan(OFTEN).prepare.replace("%", "%%") + "; SELECT 1")
    assert fetch_all(conn, OFTEN, {"a": 3, "b": ""})[0]["more"] == 4


def test_a_transaction_keeps_away_from_names(conn: postgres.Connection) -> None:
    """A name that is missing would end it, with all that was written before."""
    conn.autocommit = False
    assert fetch_all(conn, OFTEN, {"a": 1, "b": ""})[0]["more"] == 2
    assert fetch_all(conn, KEPT) == []
