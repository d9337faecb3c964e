"""Processes that die or are asked to end, databases that go away: nothing that was said is lost."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests import postgres
from tests.chat.following import Follower, begin, find, text_of, wait_until
from tests.conftest import GATEWAY_TOKEN, fresh_master
from tests.gateway import GatewayStub
from tests.service import Api, Service, sign_up
from tests.sql import Sql

LONG = "[[gateway:answer tokens=400 delay=0.1]]"


@pytest.fixture
def settings(
    backend: str, request: pytest.FixtureRequest, gateway: GatewayStub, tmp_path: Path
) -> dict[str, str]:
    """Settings of processes that this test may kill, on a master of their own."""
    return {
        **fresh_master(backend, request, tmp_path),
        "AUTH_RATE_LIMIT": "off",
        "OPENCLAW_URL": gateway.url,
        "OPENCLAW_TOKEN": GATEWAY_TOKEN,
        "SHUTDOWN_GRACE": "2",
    }


@pytest.fixture
def one(settings: dict[str, str], tmp_path: Path) -> Iterator[Service]:
    """A process."""
    with Service(settings, tmp_path) as running:
        yield running


@pytest.fixture
def two(settings: dict[str, str], tmp_path: Path) -> Iterator[Service]:
    """Another process on the same database."""
    with Service(settings, tmp_path) as running:
        yield running


def test_another_process_ends_what_a_dead_one_left(one: Service, two: Service) -> None:
    """kill -9: within 30 s the row is `interrupted`, with its text; the living one's goes on."""
    api = sign_up(one)
    other = Api(two, api.token)
    lost, kept = api.session(), api.session()
    dead = begin(api, lost["id"], LONG)
    alive = begin(other, kept["id"], LONG)
    follower = Follower(other, dead["id"]).start()
    wait_until(lambda: len(text_of(follower.events)) > 40)
    one.kill()
    took = wait_until(lambda: find(other, lost["id"], dead["id"])["status"] != "streaming", 30)
    assert took < 30
    message = find(other, lost["id"], dead["id"])
    assert message["status"] == "interrupted"
    events = follower.join()
    assert events[-1].name == "error"
    assert events[-1].data["code"] == "interrupted"
    assert message["content"] == text_of(events)
    assert len(message["content"]) > 40
    assert find(other, kept["id"], alive["id"])["status"] == "streaming"
    assert other.post(f"/chat/{alive['id']}/stop").json()["status"] == "stopped"
    assert other.chat(lost["id"], "again").status_code == 200, "the session is free"


def test_the_next_start_ends_what_a_dead_one_left(one: Service) -> None:
    """The same with a single process that is started again; at most 250 ms of text are lost."""
    api = sign_up(one)
    session = api.session()
    begun = begin(api, session["id"], LONG)
    follower = Follower(api, begun["id"]).start()
    wait_until(lambda: len(text_of(follower.events)) > 60)
    shown = len(text_of(follower.events))
    one.kill()
    follower.join()
    assert follower.broken
    one.start()
    one.wait_until_up()
    wait_until(lambda: find(api, session["id"], begun["id"])["status"] != "streaming", 30)
    message = find(api, session["id"], begun["id"])
    assert message["status"] == "interrupted"
    assert message["error"]
    # Five tokens of the stub are more than its 250 ms.
    assert len(message["content"]) > shown - 60
    assert api.messages(session["id"])[0]["status"] == "complete"


def test_a_starting_process_leaves_the_others_rows_alone(one: Service, two: Service) -> None:
    """A second instance that starts, restarts and dies never touches what the first one does."""
    api = sign_up(one)
    session = api.session()
    begun = begin(api, session["id"], "[[gateway:answer tokens=160 delay=0.1]]")
    for end in (two.kill, two.stop):
        end()
        two.start()
        two.wait_until_up()
    wait_until(lambda: find(api, session["id"], begun["id"])["status"] != "streaming", 40)
    assert find(api, session["id"], begun["id"])["status"] == "complete"


def test_sigterm(one: Service) -> None:
    """No new connections; what can end within the grace ends, the rest is saved; exit 0."""
    api = sign_up(one)
    short, long, idle = api.session(), api.session(), api.session()
    quick = begin(api, short["id"], "[[gateway:answer tokens=12 delay=0.1]]")
    slow = begin(api, long["id"], LONG)
    follower = Follower(api, slow["id"]).start()
    wait_until(lambda: len(follower.events) > 3)
    kept_alive = Api(one, api.token)
    kept_alive.get("/auth/me")
    assert one.process is not None
    one.process.terminate()
    time.sleep(0.5)
    with suppress(httpx.TransportError):  # the connection may be closed by now
        assert kept_alive.chat(idle["id"], "too late").status_code == 503
    started = time.monotonic()
    events = follower.join()
    assert one.process.wait(15) == 0
    assert time.monotonic() - started < 8
    assert events[-1].name == "error"
    assert events[-1].data["code"] == "interrupted"
    one.start()
    one.wait_until_up()
    assert find(api, short["id"], quick["id"])["status"] == "complete"
    saved = find(api, long["id"], slow["id"])
    assert saved["status"] == "interrupted"
    assert saved["content"] == text_of(events)
    assert api.messages(idle["id"]) == []


def test_thirty_kills(one: Service) -> None:
    """Whenever the process dies: every message that was acknowledged is there, none twice."""
    api = sign_up(one)
    session = api.session()
    sent: list[str] = []
    acknowledged: list[str] = []
    for round_number in range(8):
        deadline = time.monotonic() + 0.2 + 0.13 * round_number
        while time.monotonic() < deadline:
            text = f"message {len(sent)}"
            sent.append(text)
            if api.chat(session["id"], text).status_code == 200:
                acknowledged.append(text)
        one.kill()
        one.start()
        one.wait_until_up()
    wait_until(lambda: api.chat(session["id"], "end").status_code == 200, 30, "a free session")
    cursor, stored = None, []
    while True:
        params = {"limit": 200, **({"cursor": cursor} if cursor else {})}
        page = api.get(f"/sessions/{session['id']}/messages", params=params).json()
        stored += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    said = [m["content"] for m in stored if m["role"] == "user"]
    assert set(acknowledged) <= set(said)
    assert len(said) == len(set(said))
    assert all(m["status"] != "streaming" for m in stored)


@pytest.fixture
def own_server() -> Iterator[postgres.Server]:
    """A PostgreSQL that the test may stop."""
    with postgres.Server(postgres.find_binaries()[-1]) as server:
        yield server


def test_the_database_away_in_mid_stream(
    own_server: postgres.Server, gateway: GatewayStub, tmp_path: Path
) -> None:
    """The client goes on receiving; the text is kept, and saved when the database is back."""
    settings = {
        **postgres.create_master(own_server),
        "AUTH_RATE_LIMIT": "off",
        "OPENCLAW_URL": gateway.url,
        "OPENCLAW_TOKEN": GATEWAY_TOKEN,
    }
    with Service(settings, tmp_path) as service:
        api = sign_up(service)
        session = api.session()
        begun = begin(api, session["id"], "[[gateway:answer tokens=40 delay=0.1]]")
        follower = Follower(api, begun["id"]).start()
        wait_until(lambda: len(follower.events) > 5)
        own_server.kill()
        before = len(follower.events)
        wait_until(lambda: len(follower.events) > before + 10, what="more text")
        assert api.get(f"/sessions/{session['id']}/messages").status_code == 503
        wait_until(lambda: "answer not saved yet" in service.log)
        assert follower.events[-1].name == "delta", "the end is told when it is stored"
        own_server.start()
        events = follower.join()
        assert events[-1].name == "done"
        assert find(api, session["id"], begun["id"]) == events[-1].data["message"]
        assert text_of(events) == events[-1].data["message"]["content"]


def test_the_database_locked_in_mid_stream(
    settings: dict[str, str], backend: str, tmp_path: Path
) -> None:
    """SQLite's writer is somebody else for a while: the stream goes on and is saved afterwards."""
    if backend != "sqlite":
        return
    import sqlite3

    with Service(settings, tmp_path) as service:
        api = sign_up(service)
        session = api.session()
        begun = begin(api, session["id"], "[[gateway:answer tokens=20 delay=0.1]]")
        follower = Follower(api, begun["id"]).start()
        wait_until(lambda: len(follower.events) > 3)
        lock = sqlite3.connect(settings["DB_PATH"], isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        wait_until(lambda: text_of(follower.events).count(" ") > 15, what="more text")
        time.sleep(6)
        lock.execute("ROLLBACK")
        lock.close()
        events = follower.join()
        assert events[-1].name == "done"
        assert find(api, session["id"], begun["id"]) == events[-1].data["message"]


def test_rows_of_nobody(one: Service) -> None:
    """A row in `streaming` that no process ever had, put there by SQL, is ended too."""
    api = sign_up(one)
    session = api.session()
    Sql(one.settings).insert(
        "messages",
        user_id=api.user["id"],
        session_id=session["id"],
        role="assistant",
        content="half a sen",
        status="streaming",
    )
    wait_until(lambda: api.messages(session["id"])[0]["status"] == "interrupted", 30)
    assert api.messages(session["id"])[0]["content"] == "half a sen"
