"""Idempotency-Key: a double click, a retry after a lost answer, a proxy that sends twice."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.chat.following import begin, find, wait_until
from tests.gateway import GatewayStub
from tests.service import Api, parse_events, sign_up
from tests.sql import Sql


def say(
    api: Api, session_id: int, message: str, key: str, *, stream: bool = False
) -> httpx.Response:
    """One turn with a key."""
    body = {"session_id": session_id, "message": message, "stream": stream}
    return api.post("/chat", body, headers={"Idempotency-Key": key})


def calls(gateway: GatewayStub, session_key: str) -> int:
    """How often the gateway was asked for the session."""
    user = f"adapter-session-{session_key}"
    return sum(request.body.get("user") == user for request in gateway.chats)


@pytest.mark.parametrize("first", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("again", [False, True], ids=["whole", "stream"])
def test_replay(
    api: Api, elsewhere: Api, gateway: GatewayStub, *, first: bool, again: bool
) -> None:
    """The same key gets the same messages, in either form, at either process."""
    session = api.session()
    one = say(api, session["id"], "Hello", "key-1", stream=first)
    two = say(elsewhere, session["id"], "Hello", "key-1", stream=again)
    assert one.status_code == two.status_code == 200
    assert two.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in one.headers
    assert _messages(one) == _messages(two) == api.messages(session["id"])
    assert calls(gateway, session["session_key"]) == 1


def _messages(response: httpx.Response) -> list[object]:
    if response.headers["content-type"].startswith("application/json"):
        return [response.json()["user_message"], response.json()["message"]]
    events = parse_events(response.text)
    return [events[0].data["user_message"], events[-1].data["message"]]


def test_twenty_at_once(api: Api, elsewhere: Api, gateway: GatewayStub) -> None:
    """Of 20 parallel posts one runs; the others are told to wait; later all get its answer."""
    session = api.session()
    text = "[[gateway:answer tokens=5 delay=0.1]]"
    with ThreadPoolExecutor(20) as pool:
        asked = [
            pool.submit(say, (api, elsewhere)[i % 2], session["id"], text, "k") for i in range(20)
        ]
        responses = [future.result() for future in asked]
    statuses = [response.status_code for response in responses]
    assert set(statuses) <= {200, 409}
    for response in responses:
        if response.status_code == 409:
            assert response.json()["code"] == "idempotency_in_progress"
            assert response.headers["retry-after"]
    assert calls(gateway, session["session_key"]) == 1
    assert len(api.messages(session["id"])) == 2
    assert say(api, session["id"], text, "k").status_code == 200


def test_another_body(api: Api) -> None:
    """A key stands for one wish; another one under it is a mistake."""
    session = api.session()
    assert say(api, session["id"], "one", "key").status_code == 200
    response = say(api, session["id"], "two", "key")
    assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")
    assert len(api.messages(session["id"])) == 2


def test_keys_are_each_users_own(api: Api) -> None:
    """The same key of two users is two keys."""
    other = sign_up(api.service)
    one = say(api, api.session()["id"], "Hello", "shared").json()
    two = say(other, other.session()["id"], "Hello", "shared").json()
    assert one["message"]["id"] != two["message"]["id"]


def test_a_run_that_never_reached_the_gateway_frees_the_key(api: Api, gateway: GatewayStub) -> None:
    """Nothing was asked, so the retry asks."""
    session = api.session()
    with gateway.down():
        assert say(api, session["id"], "Hello", "key").status_code == 502
    assert say(api, session["id"], "Hello", "key").status_code == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_any_other_failure_is_replayed(api: Api, gateway: GatewayStub, *, stream: bool) -> None:
    """A gateway that was asked once is not asked again: it may have done the work."""
    session = api.session()
    text = "[[gateway:cut 2]]" if stream else "[[gateway:hang-up]]"
    one = say(api, session["id"], text, "key", stream=stream)
    two = say(api, session["id"], text, "key", stream=stream)
    assert one.status_code == two.status_code == (200 if stream else 502)
    bodies = [
        parse_events(response.text)[-1].data if stream else response.json()
        for response in (one, two)
    ]
    assert {**bodies[0], "request_id": ""} == {**bodies[1], "request_id": ""}
    assert calls(gateway, session["session_key"]) == 1


def test_after_a_day_the_key_is_free(api: Api) -> None:
    """Keys count for 24 hours."""
    session = api.session()
    first = say(api, session["id"], "Hello", "key").json()
    yesterday = datetime.now(UTC) - timedelta(hours=24, seconds=1)
    Sql(api.service.settings).rows(
        "UPDATE idempotency_keys SET created_at = %s WHERE user_id = %s",
        yesterday,
        api.user["id"],
    )
    second = say(api, session["id"], "Hello", "key").json()
    assert first["message"]["id"] != second["message"]["id"]


def test_a_refused_request_takes_no_key(api: Api) -> None:
    """What was refused before anything was stored may be sent again, corrected."""
    session = api.session()
    assert say(api, 2**60, "Hello", "key").status_code == 404
    assert say(api, session["id"], "Hello", "key").status_code == 200


@pytest.mark.parametrize("key", ["a b", "x" * 256, "ü", ""])
def test_keys_that_are_none(api: Api, key: str) -> None:
    """1 to 255 printable characters without spaces."""
    response = api.post(
        "/chat",
        {"session_id": api.session()["id"], "message": "x"},
        headers={"Idempotency-Key": key.encode()},
    )
    assert response.status_code == 400


def test_while_the_first_still_runs(api: Api) -> None:
    """409 with the message that is being generated, which can be followed."""
    session = api.session()
    text = "[[gateway:answer tokens=10 delay=0.1]]"
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(say, api, session["id"], text, "key")
        wait_until(lambda: len(api.messages(session["id"])) == 2)
        response = say(api, session["id"], text, "key")
        assert response.status_code == 409
        assert response.json()["message_id"] == api.messages(session["id"])[-1]["id"]
        assert first.result().status_code == 200


def test_one_generation_per_session(api: Api, elsewhere: Api) -> None:
    """A second message while the agent answers is refused with the running one's id."""
    session = api.session()
    running = begin(api, session["id"])
    for asked in (api, elsewhere):
        response = asked.chat(session["id"], "and another thing")
        assert (response.status_code, response.json()["code"]) == (409, "session_busy")
        assert response.json()["message_id"] == running["id"]
    assert len(api.messages(session["id"])) == 2, "nothing of the refused ones is stored"
    wait_until(lambda: find(api, session["id"], running["id"])["status"] == "complete")
    assert elsewhere.chat(session["id"], "now").status_code == 200


def test_many_at_once_into_one_session(api: Api, elsewhere: Api) -> None:
    """Of 10 parallel messages one is taken; none is half stored; ids are the order."""
    session = api.session()
    with ThreadPoolExecutor(10) as pool:
        text = "[[gateway:answer tokens=5 delay=0.1]]"
        sent = [pool.submit((api, elsewhere)[i % 2].chat, session["id"], text) for i in range(10)]
        statuses = sorted(future.result().status_code for future in sent)
    assert set(statuses) <= {200, 409}
    stored = api.messages(session["id"])
    assert len(stored) == 2 * statuses.count(200)
    assert [m["role"] for m in stored] == ["user", "assistant"] * statuses.count(200)
