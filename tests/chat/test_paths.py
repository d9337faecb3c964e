"""The four ways to chat: streamed or not, with images or without."""

import base64
import struct
import zlib
from typing import Any

import httpx
import pytest

from tests.gateway import GatewayStub
from tests.gateway.request import RecordedRequest
from tests.service import Api, Json, parse_events, sign_up

FOUR_WAYS = pytest.mark.parametrize(
    ("stream", "with_image"),
    [(False, False), (False, True), (True, False), (True, True)],
    ids=["whole", "whole-image", "stream", "stream-image"],
)


def png(width: int = 2, height: int = 2) -> str:
    """A real PNG as a data URL."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    rows = b"".join(b"\0" + b"\x7f\x00\x7f" * width for _ in range(height))
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()


def last_chat(gateway: GatewayStub, session: Json) -> RecordedRequest:
    """The newest request that reached the gateway for the session."""
    user = f"adapter-session-{session['session_key']}"
    return [request for request in gateway.chats if request.body.get("user") == user][-1]


def say(api: Api, session: Json, text: str, *, stream: bool, **fields: Any) -> Json:
    """One turn in either way; its final body."""
    if not stream:
        response = api.chat(session["id"], text, **fields)
        assert response.status_code == 200, response.text
        whole: Json = response.json()
        return whole
    events = api.chat_events(session["id"], text, **fields)
    return {**events[0].data, **events[-1].data, "session_id": session["id"]}


@FOUR_WAYS
def test_one_request_builder(
    api: Api, gateway: GatewayStub, *, stream: bool, with_image: bool
) -> None:
    """`user` names the session in all four ways; the users' own backend forgot it in one."""
    session = api.session()
    images = [png()] if with_image else []
    answer = say(api, session, "Look", stream=stream, images=images)
    body: Any = last_chat(gateway, session).body
    assert body["model"] == "agent:main"
    assert body["user"] == f"adapter-session-{session['session_key']}"
    assert body["stream"] is stream
    assert "session_key" not in body
    assert len(body["messages"]) == 1, "the gateway remembers: only the new turn is sent"
    content = body["messages"][0]["content"]
    if with_image:
        assert content == [
            {"type": "text", "text": "Look"},
            {"type": "image_url", "image_url": {"url": images[0]}},
        ]
    else:
        assert content == "Look"
    assert answer["message"]["status"] == "complete"
    assert answer["message"]["content"].startswith("Turn 1")
    assert len(answer["user_message"]["images"]) == len(images)


@FOUR_WAYS
def test_the_gateway_remembers_across_ways(
    api: Api, gateway: GatewayStub, *, stream: bool, with_image: bool
) -> None:
    """Whatever way the second turn takes, it reaches the session of the first."""
    session = api.session()
    api.chat(session["id"], "My name is Ada")
    images = [png()] if with_image else []
    answer = say(api, session, "Who am I?", stream=stream, images=images)
    assert 'You first said: "My name is Ada"' in answer["message"]["content"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_is_answered_is_what_is_stored(api: Api, *, stream: bool) -> None:
    """The answer, its status, model and usage stand in the list as they were told."""
    session = api.session()
    answer = say(api, session, "Hello", stream=stream)
    assert api.messages(session["id"]) == [answer["user_message"], answer["message"]]
    message = answer["message"]
    assert message["model"] == "agent:main"
    assert message["usage"]["total_tokens"] == (
        message["usage"]["prompt_tokens"] + message["usage"]["completion_tokens"]
    )
    assert message["error"] is None
    assert answer["user_message"]["usage"] is None


def test_the_shape_of_a_stream(api: Api) -> None:
    """start, deltas, done; every event has an id; the deltas make up the message."""
    session = api.session()
    response = api.chat(session["id"], "Hello [[gateway:answer tokens=9]]", stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["cache-control"] == "no-cache"
    events = parse_events(response.text)
    names = [event.name for event in events]
    assert names[0] == "start"
    assert set(names[1:-1]) == {"delta"}
    assert names[-1] == "done"
    start, done = events[0].data, events[-1].data
    assert start["user_message"]["content"].startswith("Hello")
    assert start["message"]["status"] == "streaming"
    assert start["message"]["id"] == done["message"]["id"]
    text = "".join(event.data["content"] for event in events[1:-1])
    assert text == done["message"]["content"]
    ids = [int(event.id) for event in events]
    assert ids == sorted(set(ids)), "ids grow"


def test_a_stream_is_a_stream(api: Api) -> None:
    """The first words arrive while the gateway still thinks of the last ones."""
    session = api.session()
    with api.stream(session["id"], "[[gateway:answer tokens=20 delay=0.1]]") as response:
        seen = ""
        for text in response.iter_text():
            seen += text
            if "event: delta" in seen:
                break
        assert "event: done" not in seen


def test_images_alone_are_a_message(api: Api, gateway: GatewayStub) -> None:
    """A picture needs no words; nothing at all is refused."""
    session = api.session()
    answer = api.chat(session["id"], "", images=[png()]).json()
    assert answer["user_message"]["images"][0]["media_type"] == "image/png"
    body: Any = last_chat(gateway, session).body
    content = body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url"]
    assert api.chat(session["id"], "  ").status_code == 422


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"message": "x"}, 422),
        ({"session_id": 0, "message": "x"}, 422),
        ({"session_id": 2**63, "message": "x"}, 422),
        ({"session_id": 2**63 - 1, "message": "x"}, 404),
        ({"session_id": True, "message": "x"}, 422),
        ({"session_id": 1, "message": None}, 422),
        ({"session_id": 1, "message": "x" * 100_001}, 422),
        ({"session_id": 1, "message": "a\0b"}, 422),
        ({"session_id": 1, "message": "x", "stream": "yes"}, 422),
        ({"session_id": 1, "message": "x", "images": "no"}, 422),
        ({"session_id": 1, "message": "x", "images": ["https://example.com/a.png"]}, 422),
        ({"session_id": 1, "message": "x", "images": [{"url": "http://127.0.0.1/"}]}, 422),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_refusals_are_plain_http(api: Api, body: Json, status: int, *, stream: bool) -> None:
    """What is refused before anything is stored is an ordinary error, for streams too."""
    response = api.post("/chat", {"stream": stream, **body})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"


def test_somebody_elses_session_is_no_session(api: Api) -> None:
    """The classic hole of chat backends (CVE-2026-45349): a foreign session_id in the body."""
    session = api.session()
    stranger = sign_up(api.service)
    refused = stranger.chat(session["id"], "let me in")
    absent = stranger.chat(2**60, "let me in")
    assert refused.status_code == absent.status_code == 404
    assert {**refused.json(), "request_id": ""} == {**absent.json(), "request_id": ""}
    assert api.messages(session["id"]) == []


def test_a_large_body(api: Api) -> None:
    """24 MiB pass the door of /chat, more do not, whether announced or not."""
    session = api.session()
    body = b'{"session_id": %d, "message": "x", "pad": "' % session["id"]
    headers = {"content-type": "application/json"}
    fits = body + b"x" * (23 * 1024 * 1024) + b'"}'
    assert api.request("POST", "/chat", content=fits, headers=headers).status_code == 200
    large = body + b"x" * (25 * 1024 * 1024) + b'"}'
    assert api.request("POST", "/chat", content=large, headers=headers).status_code == 413

    def pieces() -> Any:
        for at in range(0, len(large), 65536):
            yield large[at : at + 65536]

    try:
        response = api.request("POST", "/chat", content=pieces(), headers=headers)
    except httpx.WriteError:
        return  # the service closed the connection on us: it did not read on
    assert response.status_code == 413


def test_the_log_names_the_session_and_no_words(api: Api) -> None:
    """Operators find the line that the documents promise; what was said is not in the log."""
    session = api.session()
    api.chat(session["id"], "a very private sentence")
    log = api.service.log
    user = f"adapter-session-{session['session_key']}"
    assert f"[CHAT] Sending to OpenClaw with 'user' field: {user}" in log
    assert "very private" not in log
