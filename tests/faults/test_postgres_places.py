"""PostgreSQL has no place left for another connection, or our own pool has none."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import psycopg2
import pytest

from tests import postgres
from tests.faults.load import (
    Users,
    check_back,
    check_refused,
    check_sound,
    log_in,
)
from tests.parallel import at_once
from tests.service import Api, Service

PLACES = 20
OURS = "FROM pg_stat_activity WHERE application_name = 'clawd-backend'"


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """A PostgreSQL with few places."""
    places = f"max_connections = {PLACES}\n"
    with postgres.Server(postgres.find_binaries()[-1], configuration=places) as running:
        yield running


def take_places(server: postgres.Server, stack: ExitStack) -> None:
    """Connect again and again, until the server refuses it."""
    while True:
        stack.enter_context(closing(server.connect()))


@contextmanager
def crowded(server: postgres.Server) -> Iterator[None]:
    """Others hold every place that is free, those kept for superusers too."""
    with ExitStack() as stack:
        with pytest.raises(psycopg2.OperationalError, match="too many clients"):
            take_places(server, stack)
        yield


@contextmanager
def only_others(server: postgres.Server) -> Iterator[None]:
    """Others hold every place, while the service has no connection."""
    with closing(server.connect()) as conn, conn.cursor() as cursor, ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(crowded(server))
            cursor.execute(f"SELECT count(*) {OURS}")
            if cursor.fetchone() == (0,):
                break
            cursor.execute(f"SELECT pg_terminate_backend(pid, 1000) {OURS}")
        else:
            raise AssertionError("the service keeps its connections")
        yield


def test_what_we_hold_serves_on(server: postgres.Server, api: Api) -> None:
    """With our own connections kept all works but what needs another one, which is 503.

    A new project got 409 "is being created or deleted": its lock needs a connection of its own.
    """
    project = api.project()["id"]
    with crowded(server):
        assert api.get("/projects").status_code == 200
        for response in (
            api.post("/projects", {"name": "shop"}),
            api.get(f"/projects/{project}/database"),
            api.delete(f"/projects/{project}"),
        ):
            check_refused(response, "database_busy")
        assert api.get("/projects").status_code == 200
    assert api.delete(f"/projects/{project}").status_code == 200
    check_sound(api.service)


def test_no_place_at_all(server: postgres.Server, api: Api) -> None:
    """Only 503, also for a log-in; right again as soon as there is a place."""
    with only_others(server):
        for path in ("/projects", "/auth/me"):
            check_refused(api.get(path), "database_busy")
        check_refused(api.chat(1, "Hello"), "database_busy")
        check_refused(log_in(api), "database_busy")
        assert api.get("/health").status_code == 503
    check_back(api)
    check_sound(api.service)


def test_crowded_under_users(server: postgres.Server, api: Api) -> None:
    """Places come and go while people work: 2xx or 503, and nothing lost or stored twice."""
    with Users(api) as users:
        for _ in range(2):
            users.wait_for(10, 201)
            with only_others(server):
                users.wait_for(50, 503)
            check_back(api)
    users.check()
    check_sound(api.service)


@pytest.mark.parametrize("burst", [40, 200])
def test_more_requests_than_connections(api: Api, burst: int) -> None:
    """A burst on a pool of five waits its turn; of 40 requests 20 were a 500 with psycopg2's.

    Only so many get as far as the pool at once that none waits there for long.
    """
    clients = [Api(api.service, api.token) for _ in range(burst)]
    answers = at_once([partial(client.http.get, "/projects") for client in clients])
    assert {answer.status_code for answer in answers} == {200}
    check_sound(api.service)


def test_too_few_places_are_told_at_the_start(
    server: postgres.Server, on_server: Service, tmp_path: Path
) -> None:
    """A pool that may grow larger than what the server has for us is told of, with the numbers."""
    too_many = f"DB_POOL_MAX is {PLACES}, and the server has only {PLACES - 3} places"
    assert "DB_POOL_MAX" not in on_server.log
    settings = {**postgres.create_master(server), "DB_POOL_MAX": str(PLACES)}
    with Service(settings, tmp_path) as service:
        assert too_many in service.log
