"""The connection to PostgreSQL breaks, at any byte, in the middle of a COMMIT, or goes silent."""

import time
from collections.abc import Iterator

import httpx
import pytest

from tests import postgres
from tests.conftest import GATEWAY_TOKEN
from tests.faults.load import (
    REFUSED_SECONDS,
    Users,
    check_back,
    check_refused,
    check_served_or_refused,
    check_sound,
    log_in,
)
from tests.faults.proxy import Proxy
from tests.gateway import GatewayStub
from tests.service import Api, Service


@pytest.fixture(scope="module")
def network(server: postgres.Server) -> Iterator[Proxy]:
    """The network between the service and the server."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def on_server(
    server: postgres.Server,
    network: Proxy,
    gateway: GatewayStub,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """A service that reaches the server over that network, with the gateway's stand-in."""
    settings = {
        **postgres.create_master(server),
        "DB_PORT": str(network.port),
        "AUTH_RATE_LIMIT": "off",
        "OPENCLAW_URL": gateway.url,
        "OPENCLAW_TOKEN": GATEWAY_TOKEN,
    }
    with Service(settings, tmp_path_factory.mktemp("service")) as running:
        yield running


def say(api: Api, session_id: int) -> httpx.Response:
    """One turn, always with the same key."""
    body = {"session_id": session_id, "message": "Hello"}
    return api.post("/chat", body, headers={"Idempotency-Key": "key"})


@pytest.mark.parametrize("answered", [True, False], ids=["stored", "not-stored"])
def test_a_commit_in_doubt(
    api: Api, network: Proxy, gateway: GatewayStub, *, answered: bool
) -> None:
    """503 `outcome_unknown`; the same key gets one message and one call of the gateway.

    The key was known and its answer broken off before it was begun: no retry ever got one.
    """
    session = api.session()
    network.cut_commit(b"idempotency_keys", answered=answered)
    check_refused(say(api, session["id"]), "outcome_unknown")
    deadline = time.monotonic() + 10
    while (again := say(api, session["id"])).status_code == 409:
        assert again.headers["retry-after"]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert again.status_code == 200, again.text
    assert [again.json()["user_message"], again.json()["message"]] == api.messages(session["id"])
    assert say(api, session["id"]).json() == again.json()
    user = f"adapter-session-{session['session_key']}"
    assert sum(request.body.get("user") == user for request in gateway.chats) == 1
    check_sound(api.service)


def test_commits_cut_under_users(api: Api, network: Proxy) -> None:
    """Nothing that was acknowledged is lost, nothing is done twice by itself."""
    with Users(api) as users:
        for number in range(20):
            users.wait_for(2, 201)
            network.cut_commit(b"INSERT INTO sessions", answered=number % 2 == 0)
            users.wait_for(1, 503)
    users.check()
    check_back(api)
    check_sound(api.service)


def test_cut_after_any_byte(api: Api, network: Proxy) -> None:
    """Whatever part of the log-in to the server or of its answers was the last: 2xx or 503."""
    network.cuts = 0
    try:
        for size in (*range(12), *range(12, 1500, 31)):
            network.cut_after = size
            network.cut_all()
            for path in ("/projects", "/auth/me"):
                check_served_or_refused(api.get(path))
            if size % 4 == 0:
                check_served_or_refused(log_in(api))
    finally:
        network.cut_after = None
        network.cut_all()
    assert network.cuts > 50
    check_back(api)
    check_sound(api.service)


def test_refused_under_users(api: Api, network: Proxy) -> None:
    """Nobody listens at the address for a while: 503, right again without a restart."""
    with Users(api) as users:
        users.wait_for(20, 201)
        with network.refusing():
            users.wait_for(50, 503)
        check_back(api)
        users.wait_for(20, 201)
    users.check()
    check_sound(api.service)


def test_silent_under_users(api: Api, network: Proxy) -> None:
    """A network that swallows everything is a server that hangs: 503 in time, right again."""
    with Users(api) as users:
        users.wait_for(20, 201)
        with network.silent():
            started = time.monotonic()
            users.wait_for(20, 503)
            assert time.monotonic() - started < REFUSED_SECONDS
        check_back(api)
    users.check()
    check_sound(api.service)
