"""Trouble with the gateway: what the user wrote stays, and the answer says what happened."""

import time

import pytest

from tests.gateway import GatewayStub
from tests.service import Api, Json, sign_up

# marker of the stub's behaviour, HTTP status, code, text already there
FAULTS = [
    ("hang-up", 502, "gateway_interrupted", ""),
    ("cut 2", 502, "gateway_interrupted", "some"),
    ("cut 2 half=true", 502, "gateway_interrupted", "some"),
    ("cut 2 reset=true", 502, "gateway_interrupted", "some"),
    ("html", 502, "gateway_nonsense", ""),
    ("bad-json", 502, "gateway_nonsense", ""),
    ("redirect", 502, "gateway_error", ""),
    ("gzip-bomb 2000000", 502, "gateway_nonsense", ""),
    ("big-line 2000000", 502, "gateway_nonsense", ""),
    ("refuse unauthorized", 502, "gateway_auth", ""),
    ("refuse bad-request", 502, "gateway_rejected", ""),
    ("refuse too-large", 502, "gateway_rejected", ""),
    ("refuse internal", 502, "gateway_error", ""),
    ("refuse provider-error", 502, "gateway_error", ""),
    ("refuse provider-key", 502, "gateway_provider_auth", ""),
    ("refuse rate-limited", 503, "gateway_busy", ""),
    ("refuse draining", 503, "gateway_busy", ""),
    ("refuse provider-overloaded", 503, "gateway_busy", ""),
    ("refuse provider-timeout", 504, "gateway_timeout", ""),
    ("silence", 504, "gateway_timeout", ""),
    ("silence head=false", 504, "gateway_timeout", ""),
]
ONLY_STREAMED = [
    ("end-early 2", 502, "gateway_interrupted", "some"),
    ("end-early 0", 502, "gateway_interrupted", ""),
    ("error provider-error", 502, "gateway_error", ""),
    ("error provider-error after=2", 502, "gateway_error", "some"),
    ("error append-only after=2", 502, "gateway_error", "some"),
    ("silence 2", 504, "gateway_timeout", "some"),
    ("drip 0.2", 504, "gateway_timeout", ""),
]
# A whole answer is cut before there is any of it.
WHOLE = [(marker, status, code, "") for marker, status, code, _ in FAULTS if "big" not in marker]


def check_stored(api: Api, session: Json, text: str, some: str) -> None:
    """The user's message is complete, the assistant's row says how it ended."""
    user, assistant = api.messages(session["id"])
    assert user["content"] == text
    assert user["status"] == "complete"
    assert assistant["status"] == ("interrupted" if some else "failed")
    assert bool(assistant["content"]) == bool(some)
    assert assistant["error"]


@pytest.mark.parametrize(("marker", "status", "code", "some"), WHOLE, ids=str)
def test_whole(api: Api, marker: str, status: int, code: str, some: str) -> None:
    """A whole answer that fails is an HTTP error with a stable word, and nothing is lost."""
    session = api.session()
    text = f"Hello [[gateway:{marker}]]"
    response = api.chat(session["id"], text)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert ("retry-after" in response.headers) == (status == 503)
    check_stored(api, session, text, some)
    assert response.json()["message_id"] == api.messages(session["id"])[1]["id"]


@pytest.mark.parametrize(("marker", "status", "code", "some"), FAULTS + ONLY_STREAMED, ids=str)
def test_stream(api: Api, marker: str, status: int, code: str, some: str) -> None:
    """Once the user's message is stored a stream is 200, and ends with `event: error`."""
    session = api.session()
    text = f"Hello [[gateway:{marker}]]"
    events = api.chat_events(session["id"], text)
    assert events[0].name == "start"
    assert events[-1].name == "error"
    problem = events[-1].data
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert problem["success"] is False
    assert problem["message"]["status"] == ("interrupted" if some else "failed")
    shown = "".join(event.data["content"] for event in events if event.name == "delta")
    assert shown == problem["message"]["content"]
    check_stored(api, session, text, some)


def test_nothing_of_the_gateway_leaks(api: Api, gateway: GatewayStub) -> None:
    """Neither its address, nor its token, nor the words of its errors reach a client."""
    session = api.session()
    for marker in ("refuse unauthorized", "refuse internal", "html", "hang-up", "redirect"):
        text = api.chat(session["id"], f"[[gateway:{marker}]]").text
        for secret in (gateway.url, gateway.url.rpartition(":")[2], "token-of-the-gateway"):
            assert secret not in text
        assert "Unauthorized" not in text, "the gateway's 401 must not look like ours"


@pytest.mark.parametrize(
    "marker",
    [
        "answer done=false",
        "answer finish=none",
        "answer usage=absent",
        "answer usage=zeros",
        "answer finish=length",
        "reasoning 0.2",
        "tool 0.2",
        "nul",
        "separators",
        "lone-surrogate",
        "wire crlf",
        "wire cr",
        "wire lf bom=true multi_line=true split=true noise=true",
        "wire crlf split=true noise=true",
    ],
)
def test_odd_but_good(api: Api, marker: str) -> None:
    """Odd streams that did come to their end are complete, and stored as they were shown."""
    session = api.session()
    events = api.chat_events(session["id"], f"Hello [[gateway:{marker}]]")
    assert events[-1].name == "done", events[-1]
    message = events[-1].data["message"]
    shown = "".join(event.data["content"] for event in events if event.name == "delta")
    assert message["status"] == "complete"
    assert message["content"] == shown
    assert api.messages(session["id"])[-1] == message
    if "usage=" in marker:
        assert message["usage"] is None, "zeros are what a gateway says that didn't count"


def test_separators_are_text(api: Api) -> None:
    """U+2028, U+2029 and U+0085 are letters of a message, not ends of a line."""
    session = api.session()
    events = api.chat_events(session["id"], "[[gateway:separators]]")
    assert "\u2028" in events[-1].data["message"]["content"]
    assert "\x85" in events[-1].data["message"]["content"]


def test_nul_is_replaced(api: Api) -> None:
    """PostgreSQL has no NUL: an answer that was paid for must not fail on one."""
    session = api.session()
    answer = api.chat(session["id"], "[[gateway:nul]]").json()
    assert answer["message"]["content"] == "before\ufffd after"


def test_the_gateway_down(api: Api, gateway: GatewayStub) -> None:
    """A gateway that is away is a 502 within a second; back again, the next turn works."""
    session = api.session()
    with gateway.down():
        started = time.monotonic()
        response = api.chat(session["id"], "anybody there?")
        assert time.monotonic() - started < 3
    assert (response.status_code, response.json()["code"]) == (502, "gateway_unreachable")
    assert api.chat(session["id"], "and now?").status_code == 200
    assert [m["status"] for m in api.messages(session["id"])] == [
        "complete",
        "failed",
        "complete",
        "complete",
    ]


def test_retry_after_is_passed_on(api: Api) -> None:
    """The gateway's own seconds, where it names some."""
    session = api.session()
    response = api.chat(session["id"], "[[gateway:refuse rate-limited retry-after=17]]")
    assert response.headers["retry-after"] == "17"


def test_the_client_goes_the_answer_stays(api: Api) -> None:
    """An answer belongs to the session: a closed tab loses nothing (Open WebUI #452 to #29596)."""
    session = api.session()
    with api.stream(session["id"], "[[gateway:answer tokens=15 delay=0.1]]") as response:
        next(response.iter_bytes())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        message = api.messages(session["id"])[-1]
        if message["status"] != "streaming":
            break
        time.sleep(0.1)
    assert message["status"] == "complete"
    assert len(message["content"]) > 20


def test_text_is_saved_as_it_streams(api: Api) -> None:
    """What has streamed is in the database within a moment, so that a crash loses no more."""
    session = api.session()
    with api.stream(session["id"], "[[gateway:answer tokens=30 delay=0.1]]") as response:
        shown = ""
        for text in response.iter_text():
            shown += text
            if shown.count("event: delta") >= 15:
                break
        stored = api.messages(session["id"])[-1]
        assert stored["status"] == "streaming"
        assert stored["content"]


@pytest.mark.parametrize("what", ["sessions", "projects"])
def test_deleting_ends_the_answer(api: Api, gateway: GatewayStub, what: str) -> None:
    """With its session or project an answer goes too, and the gateway stops working on it."""
    session = api.session()
    where = session["id"] if what == "sessions" else session["project_id"]
    with api.stream(session["id"], "[[gateway:answer tokens=100 delay=0.1]]") as response:
        next(response.iter_bytes())
        assert sign_up(api.service).delete(f"/{what}/{where}").status_code == 404
        other = Api(api.service, api.token)
        assert other.delete(f"/{what}/{where}").status_code in {200, 204}
        user = f"adapter-session-{session['session_key']}"
        gateway.wait_until(
            lambda: any(r.cancelled for r in gateway.chats if r.body.get("user") == user)
        )
    assert api.get(f"/sessions/{session['id']}").status_code == 404


@pytest.mark.parametrize(
    "marker", ["answer done=false", "answer finish=none"], ids=["no-mark", "no-reason"]
)
def test_the_connection_is_used_again(api: Api, gateway: GatewayStub, marker: str) -> None:
    """One end mark is enough, and the next turn does not wait for the first one's connection."""
    session = api.session()
    started = time.monotonic()
    for _ in range(3):
        events = api.chat_events(session["id"], f"Hello [[gateway:{marker}]]")
        assert events[-1].name == "done"
    assert time.monotonic() - started < 3
