"""The stub gateway answers as the real one was recorded to, and misbehaves as it was told."""

import asyncio
import base64
import http.client
import json
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway import (
    ERRORS,
    NAMED,
    Answer,
    Behaviour,
    Cut,
    Data,
    Drip,
    EndEarly,
    GatewayStub,
    GzipBomb,
    HangUp,
    Page,
    ProviderError,
    Redirect,
    Refuse,
    Silence,
    ToolUse,
    Wire,
)

RECORDED = Path(__file__).parent / "recorded"
PATH = "/v1/chat/completions"
AUTHORIZED = {"Authorization": "Bearer secret"}
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n rest").decode()
JPEG = "data:image/jpeg;base64," + base64.b64encode(b"\xff\xd8\xff rest").decode()

# What the stub is told before it gets the recorded request.
EXCHANGES: dict[str, Behaviour] = {
    "01-nonstream-agent-main": Answer(text="Stub reply #1; saw 3 messages, 2 from user."),
    "02-stream-basic": Answer(tokens=5),
    "03-stream-include-usage": Answer(tokens=5),
    "27b-user-null": Answer(),
    "45-image-http-url": Answer(),
    "57-body-over-20MB-text": Answer(),
    "60-auth-none": Answer(),
    "63-bad-json": Answer(),
    "66-get": Answer(),
    "68-auth-ratelimit-right-token-locked": Refuse("rate-limited"),
    "71-health-head": Answer(),
    "71-healthz": Answer(),
    "71-readyz": Answer(),
    "80-up-400-nonstream": ProviderError("provider-refused"),
    "80-up-401-nonstream": ProviderError("provider-key"),
    "80-up-429-nonstream": ProviderError("provider-rate-limit"),
    "80-up-500-nonstream": ProviderError("provider-error"),
    "80-up-503-nonstream": ProviderError("provider-overloaded"),
    "80-up-cut-nonstream": ProviderError("provider-timeout"),
    "80-up-length-nonstream": Answer(
        text="Stub reply #115; saw 3 messages, 2 from user.", finish="length"
    ),
    "81-up-cut-stream": ProviderError("provider-timeout", after=3),
    "81-up-nousage-stream": Answer(tokens=5, usage="zeros"),
    "81-up-think-stream": Answer(whole=True),
    "82-after-upstream-401-breaker-nonstream": ProviderError("breaker"),
    "82-after-upstream-401-breaker-stream": ProviderError("breaker"),
    "121-during-drain": Answer(),
    "121b-health-during-drain": Answer(),
    "124-sigkill-midstream": Cut(after=11),
    "132-cut-once-stream": ProviderError("append-only", after=3),
    "136-agent-tool-nonstream": ToolUse(gap=0),
    "136-agent-tool-stream": ToolUse(gap=0),
}


@pytest.fixture
def gateway() -> Iterator[GatewayStub]:
    with GatewayStub() as stub:
        yield stub


def chat(text: str = "hello", /, **fields: object) -> dict[str, object]:
    return {"model": "agent:main", "messages": [{"role": "user", "content": text}], **fields}


def ask(gateway: GatewayStub, text: str = "hello", /, **fields: object) -> httpx.Response:
    return httpx.post(gateway.url + PATH, json=chat(text, **fields), headers=AUTHORIZED, timeout=5)


def content(response: httpx.Response) -> str:
    """The text of an answer, streamed or not."""
    if not response.headers["content-type"].startswith("text/event-stream"):
        return str(response.json()["choices"][0]["message"]["content"])
    choices = [choice for event in chunks(response) for choice in event.get("choices", ())]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """The JSON of all events of a stream."""
    return [json.loads(data) for data in datas(response.text) if data != "[DONE]"]


def datas(text: str) -> list[str]:
    """The data of the unnamed events, read as the SSE standard says."""
    blocks = re.split("\n\n", re.sub("\r\n|\r", "\n", text.removeprefix("\ufeff")))
    unnamed = (block.split("\n") for block in blocks if not re.search("(?m)^event:", block))
    joined = ["\n".join(f[6:] for f in fields if f.startswith("data: ")) for fields in unnamed]
    return [data for data in joined if data]


def connect(gateway: GatewayStub) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def request_bytes(
    body: bytes, head: str = f"POST {PATH} HTTP/1.1\nAuthorization: Bearer secret"
) -> bytes:
    lines = [*head.split("\n"), "Host: gateway", f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def send(sock: socket.socket, text: str = "hello", /, **fields: object) -> None:
    sock.sendall(request_bytes(json.dumps(chat(text, **fields)).encode()))


def begin(gateway: GatewayStub, sock: socket.socket, **fields: object) -> None:
    """Sends a chat and waits until the stub has it."""
    before = len(gateway.chats)
    send(sock, **fields)
    gateway.wait_until(lambda: len(gateway.chats) > before)


def read_answer(sock: socket.socket, method: str = "POST") -> tuple[str, str]:
    """The sorted head and the body, cut or whole, without chunks and what differs each time."""
    response = http.client.HTTPResponse(sock, method=method)
    response.begin()
    headers = sorted(f"{name}: {value}" for name, value in response.getheaders())
    try:
        body = response.read()
    except http.client.IncompleteRead as cut:
        body = cut.partial
    head = "\n".join([f"HTTP/1.1 {response.status} {response.reason}", *headers])
    return normal(head), normal(body.decode())


def normal(text: str) -> str:
    """The text without ids, times, numbers of tokens, and the words of a stream."""
    for pattern, same in (
        (r"chatcmpl_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "chatcmpl_ID"),
        (r'"created":\d+', '"created":0'),
        (r"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", "Date: NOW"),
        (r"Content-Length: \d+", "Content-Length: N"),
        (r'_tokens":[1-9]\d*', '_tokens":1'),
        (r'"delta":{"content":"(?:[^"\\]|\\.)+"}', '"delta":{"content":"WORD"}'),
        (r'((Ms|Ratio|utilization)":)[\d.]+', r"\g<1>0"),
        (r'"cpuBreakdown":{[^}]*}', '"cpuBreakdown":{}'),
    ):
        text = re.sub(pattern, same, text)
    return text


def recorded(name: str) -> tuple[str, str, str, str]:
    """Head and body of the request, head and body of the answer."""
    exchange = (RECORDED / f"{name}.txt").read_text().partition("\n>>>\n")[2]
    request, _, answer = exchange[:-1].partition("\n<<<\n")
    request_head, _, request_body = request.partition("\n\n")
    head, _, body = answer.partition("\n\n")
    status, *headers = head.split("\n")
    return request_head, request_body, normal("\n".join([status, *sorted(headers)])), normal(body)


@pytest.mark.parametrize("name", EXCHANGES)
def test_answers_as_recorded(gateway: GatewayStub, name: str) -> None:
    request_head, request_body, head, body = recorded(name)
    gateway.behave(EXCHANGES[name])
    gateway.draining = name.startswith("121")
    raw = request_body.replace("<21500000 x>", 21_500_000 * "x").encode()
    with connect(gateway) as sock:
        sock.sendall(request_bytes(raw, request_head))
        assert read_answer(sock, request_head.split()[0]) == (head, body)


def test_every_recording_is_compared() -> None:
    assert {path.stem for path in RECORDED.glob("*.txt")} == set(EXCHANGES)


def test_role_comes_at_once_and_alone(gateway: GatewayStub) -> None:
    """Recorded: the head and the role chunk in one TCP segment, before the model is called."""
    gateway.behave(Silence())
    with connect(gateway) as sock:
        send(sock, stream=True)
        segment = sock.recv(65536).decode()
    assert segment.count("data: ") == 1
    assert '"delta":{"role":"assistant"}' in segment


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": 123}, "user: Invalid input: expected string, received number"),
        ({"stream": "yes"}, "stream: Invalid input: expected boolean, received string"),
        ({"messages": "hi"}, "messages: Invalid input: expected array, received string"),
        ({"model": 5}, "model: Invalid input: expected string, received number"),
        ({"model": "gpt-4o"}, "Invalid `model`. Use `openclaw` or `openclaw/<agentId>`."),
        ({"model": "agent:nobody"}, "Unknown agent 'nobody'."),
        ({"messages": []}, "Missing user message in `messages`."),
        ({"messages": [{"role": "user", "content": "  "}]}, "Missing user message in `messages`."),
        ({"messages": [{"role": "robot", "content": "x"}]}, "Missing user message in `messages`."),
    ],
)
def test_refuses_what_the_gateway_refuses(
    gateway: GatewayStub, change: dict[str, Any], message: str
) -> None:
    response = ask(gateway, **change)
    assert response.status_code == 400
    assert response.json() == {"error": {"message": message, "type": "invalid_request_error"}}


def test_accepts_what_the_gateway_accepts(gateway: GatewayStub) -> None:
    for model in ("agent:main", "AGENT:MAIN", "openclaw", "openclaw/main", ""):
        assert ask(gateway, model=model, stream=None).json()["model"] == model
    only_assistant = [{"role": "assistant", "content": "two"}]
    assert content(ask(gateway, messages=only_assistant)).endswith('You say: "two"')
    lower = httpx.post(gateway.url + PATH, json=chat(), headers={"authorization": "bearer secret"})
    assert lower.status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_remembers_the_turns_of_a_user(gateway: GatewayStub, stream: bool) -> None:
    """Recorded: case and blanks around `user` do not count; without one nothing is remembered."""
    first = ask(gateway, "My name is Zoe.", user="adapter-session-S1", stream=stream)
    assert content(first) == 'Turn 1: 1 message, 0 images. You say: "My name is Zoe."'
    second = ask(gateway, "And now?", user=" adapter-session-s1 ", stream=stream)
    assert content(second).endswith('You say: "And now?" You first said: "My name is Zoe."')
    assert gateway.turns("adapter-session-s1") == ["My name is Zoe.", "And now?"]
    for other in ({"user": "another"}, {"user": ""}, {}):
        assert content(ask(gateway, "hi", stream=stream, **other)).startswith("Turn 1:")


def test_session_header_wins_over_user(gateway: GatewayStub) -> None:
    ask(gateway, "before", user="s1")
    headers = AUTHORIZED | {"x-openclaw-session-key": "agent:main:openai-user:s1"}
    response = httpx.post(gateway.url + PATH, json=chat(user="s2"), headers=headers)
    assert content(response).endswith('You first said: "before"')


def test_images_of_the_last_message_count(gateway: GatewayStub) -> None:
    def message(*urls: str) -> list[dict[str, object]]:
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return [{"role": "user", "content": [{"type": "text", "text": "Look"}, *parts]}]

    both = ask(gateway, messages=message(PNG, JPEG))
    assert "1 message, 2 images (image/png, image/jpeg)" in content(both)
    broken = "data:image/png;base64," + base64.b64encode(b"no image").decode()
    assert "0 images" in content(ask(gateway, messages=message(broken)))
    older = [*message(PNG), {"role": "user", "content": "and?"}]
    assert "2 messages, 0 images" in content(ask(gateway, messages=older))
    for refused in (message(*9 * [PNG]), message("data:application/pdf;base64,AAAA")):
        assert ask(gateway, messages=refused).status_code == 400


def test_tokens_come_one_after_the_other(gateway: GatewayStub) -> None:
    gateway.behave(Answer(tokens=5, first=0.1, delay=0.05))
    with httpx.stream(
        "POST", gateway.url + PATH, json=chat(stream=True), headers=AUTHORIZED
    ) as response:
        lines = response.iter_lines()
        times = [time.monotonic() for line in lines if '"content"' in line]
    assert len(times) == 5
    assert times[0] - gateway.chats[0].at > 0.14
    assert times[4] - gateway.chats[0].at > 0.34


@pytest.mark.parametrize("stream", [True, False])
def test_one_big_chunk_takes_as_long_as_the_pieces(gateway: GatewayStub, stream: bool) -> None:
    gateway.behave(Answer(tokens=3, delay=0.1, whole=True))
    response = ask(gateway, stream=stream)
    assert content(response) == "w0 w1 w2"
    assert time.monotonic() - gateway.chats[0].at > 0.29
    assert response.text.count('"content":') == 1


def last(response: httpx.Response) -> list[object]:
    """What the last two events are: a finish_reason, an error's message, usage or [DONE]."""

    def kind(data: str) -> object:
        if data == "[DONE]":
            return data
        event = json.loads(data)
        if "error" in event:
            return event["error"]["message"]
        return event["choices"][0]["finish_reason"] if event["choices"] else event["usage"]

    return [kind(data) for data in datas(response.text)[-2:]]


@pytest.mark.parametrize(
    ("behaviour", "text", "ends"),
    [
        (Answer(text="One two."), "One two.", ["stop", "[DONE]"]),
        (Answer(text=""), "", ["stop", "[DONE]"]),
        (Answer(text="One", finish="length"), "One", ["length", "[DONE]"]),
        (Answer(text="One", done=False), "One", [None, "stop"]),
        (Answer(text="One", finish=None), "One", [None, "[DONE]"]),
        (Answer(text="One", usage="absent"), "One", ["stop", "[DONE]"]),
        (EndEarly(after=2), "w0 w1", [None, None]),
        (ProviderError("internal", after=2), "w0 w1", ["internal error", "[DONE]"]),
        (ProviderError("internal"), "", ["internal error", "[DONE]"]),
        (ToolUse(gap=0), 'Let me check.\n\nThe tool said: "lab-tool-ran"', ["stop", "[DONE]"]),
    ],
)
def test_ends_of_streams(
    gateway: GatewayStub, behaviour: Behaviour, text: str, ends: list[object]
) -> None:
    gateway.behave(behaviour)
    response = ask(gateway, stream=True)
    assert content(response) == text
    assert last(response) == ends


@pytest.mark.parametrize(
    ("behaviour", "usage"),
    [
        (Answer(tokens=5), {"prompt_tokens": 101, "completion_tokens": 5, "total_tokens": 106}),
        (
            Answer(tokens=5, usage="zeros"),
            {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        ),
        (Answer(tokens=5, usage="absent"), None),
    ],
)
def test_usage(gateway: GatewayStub, behaviour: Behaviour, usage: object) -> None:
    gateway.behave(behaviour)
    assert ask(gateway).json().get("usage") == usage
    streamed = chunks(ask(gateway, stream=True, stream_options={"include_usage": True}))
    assert streamed[-1].get("usage") == usage
    assert all("usage" not in chunk for chunk in chunks(ask(gateway, stream=True)))


@pytest.mark.parametrize("name", ["nul", "separators", "lone-surrogate", "half-emoji"])
def test_difficult_text_arrives_whole(gateway: GatewayStub, name: str) -> None:
    behaviour = NAMED[name]()
    assert isinstance(behaviour, Answer)
    wanted = behaviour.text or "".join(behaviour.pieces or ())
    assert content(ask(gateway, f"[[gateway:{name}]]", stream=True)) == wanted
    assert json.loads(ask(gateway, f"[[gateway:{name}]]").content)  # one line, no raw NUL


def test_separators_are_not_escaped(gateway: GatewayStub) -> None:
    """JSON.stringify writes U+2028 as it is, so str.splitlines would cut the event there."""
    body = ask(gateway, "[[gateway:separators]]", stream=True).content
    assert "one\u2028two".encode() in body or '"\u2028two'.encode() in body


@pytest.mark.parametrize(
    "wire",
    [
        Wire(line_ends="crlf"),
        Wire(line_ends="cr"),
        Wire(bom=True),
        Wire(multi_line=True),
        Wire(split=True),
        Wire(noise=True),
        Wire("crlf", bom=True, multi_line=True, split=True, noise=True),
    ],
)
def test_other_wires_carry_the_same(gateway: GatewayStub, wire: Wire) -> None:
    text = "Grüße, 你好 \N{GRINNING FACE}!"
    gateway.behave(Answer(text=text, wire=wire))
    response = ask(gateway, stream=True)
    assert content(response) == text
    assert response.text.startswith("\ufeff") == wire.bom
    assert ("\r" in response.text) == (wire.line_ends != "lf")
    assert ("event: progress" in response.text) == wire.noise
    assert ("data:  " in response.text) == wire.multi_line
    with connect(gateway) as sock:
        send(sock, stream=True)
        broken = [part for part in segments(sock) if not is_utf8(part)]
    assert bool(broken) == wire.split


def segments(sock: socket.socket) -> Iterator[bytes]:
    """What arrives in each read until the stream ends."""
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        data = sock.recv(65536)
        yield data


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("stream", [True, False])
def test_silence_is_noticed_by_the_client_only(gateway: GatewayStub, stream: bool) -> None:
    for behaviour in (Silence(after=2), Silence(head=False)):
        gateway.behave(behaviour)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                gateway.url + PATH, json=chat(stream=stream), headers=AUTHORIZED, timeout=0.2
            )
    gateway.wait_until(lambda: all(request.cancelled for request in gateway.chats))


@pytest.mark.parametrize("stream", [True, False])
def test_drip_never_ends_and_says_nothing(gateway: GatewayStub, stream: bool) -> None:
    gateway.behave(Drip(every=0.01))
    body = b""
    with httpx.stream(
        "POST", gateway.url + PATH, json=chat(stream=stream), headers=AUTHORIZED
    ) as response:
        for part in response.iter_raw():
            body += part
            if len(body) > (300 if stream else 10):
                break
    assert body.endswith(b": keepalive\n\n") if stream else body == b" " * 11
    gateway.wait_until(lambda: gateway.chats[0].cancelled)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("reset", [True, False])
def test_cut_breaks_the_connection(
    gateway: GatewayStub, stream: bool, half: bool, reset: bool
) -> None:
    gateway.behave(Cut(after=2, half=half, reset=reset))
    wanted = httpx.ReadError if reset else httpx.RemoteProtocolError
    with pytest.raises(wanted):
        ask(gateway, stream=stream)
    assert not gateway.chats[0].cancelled


@pytest.mark.parametrize(("half", "end"), [(False, b"\n\n\r\n"), (True, b"chatcmpl")])
def test_cut_between_events_or_within_one(gateway: GatewayStub, half: bool, end: bytes) -> None:
    gateway.behave(Cut(after=1, half=half))
    with connect(gateway) as sock:
        send(sock, stream=True)
        data = sock.makefile("rb").read()
    assert end in data[data.index(b'"w0"') :]
    assert data.endswith(b"\n\n\r\n") != half


def test_hang_up(gateway: GatewayStub) -> None:
    gateway.script(HangUp(), HangUp(reset=True))
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        ask(gateway)
    with pytest.raises(httpx.ReadError):
        ask(gateway)


@pytest.mark.parametrize("name", [name for name, error in ERRORS.items() if error.status != 200])
def test_refusals(gateway: GatewayStub, name: str) -> None:
    gateway.behave(Refuse(name))
    for stream in (True, False):
        response = ask(gateway, stream=stream)
        assert response.status_code == ERRORS[name].status
        assert response.json() == ERRORS[name].json()


def test_retry_after_can_be_changed(gateway: GatewayStub) -> None:
    gateway.script(Refuse("draining"), Refuse("draining", ""), Refuse("provider-rate-limit", "7"))
    assert [ask(gateway).headers.get("retry-after") for _ in range(3)] == ["1", None, "7"]


@pytest.mark.parametrize("stream", [True, False])
def test_answers_that_are_no_completion(gateway: GatewayStub, stream: bool) -> None:
    gateway.script(Redirect(), Page(), Page(body="{}", content_type="application/json"))
    redirect, page, empty = (ask(gateway, stream=stream) for _ in range(3))
    assert (redirect.status_code, redirect.headers["location"]) == (302, "/elsewhere")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert empty.json() == {}
    gateway.script(Data('{"a":', after=1))
    wrong = ask(gateway, stream=stream)
    assert wrong.status_code == 200
    assert (datas(wrong.text)[2] if stream else wrong.text) == '{"a":'


@pytest.mark.parametrize("stream", [True, False])
def test_gzip_though_identity_was_asked(gateway: GatewayStub, stream: bool) -> None:
    gateway.behave(GzipBomb(size=3_000_000))
    headers = AUTHORIZED | {"Accept-Encoding": "identity"}
    with httpx.stream(
        "POST", gateway.url + PATH, json=chat(stream=stream), headers=headers
    ) as response:
        response.read()
        assert response.headers["content-encoding"] == "gzip"
        assert response.num_bytes_downloaded < 10_000
    assert content(response) == "a" * 3_000_000


def test_big_line(gateway: GatewayStub) -> None:
    response = ask(gateway, "[[gateway:big-line]]", stream=True)
    assert max(map(len, response.text.splitlines())) > 1024 * 1024


def test_marker_beats_script_beats_behave(gateway: GatewayStub) -> None:
    gateway.behave(Answer(text="always"))
    gateway.script(Answer(text="next"))
    marked = ask(gateway, "please [[gateway:answer text='by marker' finish=length]]", stream=True)
    assert (content(marked), last(marked)) == ("by marker", ["length", "[DONE]"])
    assert [content(ask(gateway)) for _ in range(2)] == ["next", "always"]
    gateway.reset()
    assert gateway.requests == []
    assert content(ask(gateway, "hi [[gateway:answer]]")).endswith('You say: "hi"')


@pytest.mark.parametrize("name", NAMED)
def test_every_name_answers_a_marker(gateway: GatewayStub, name: str) -> None:
    with connect(gateway) as sock:
        send(sock, f"[[gateway:{name}]]", stream=True)
        assert sock.recv(65536).startswith(b"" if name == "hang-up" else b"HTTP/1.1 ")
    assert gateway.chats[0].path == PATH


@pytest.mark.parametrize("marker", ["cutt", "cut half=maybe", "cut depth=3", "empty 3", "cut x"])
def test_unknown_marker_fails_the_test(marker: str) -> None:
    def story() -> None:
        with GatewayStub() as gateway, connect(gateway) as sock:
            send(sock, f"[[gateway:{marker}]]")
            assert sock.recv(1) == b""

    with pytest.raises(ValueError, match=marker):
        story()


def test_marker_fields_in_order_and_by_name(gateway: GatewayStub) -> None:
    refused = ask(gateway, "[[gateway:refuse draining retry-after=9]]")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "9")
    failed = ask(gateway, "[[gateway:error provider-key 2]]", stream=True)
    assert (content(failed), last(failed)[1]) == ("w0 w1", "[DONE]")
    silent = ask(gateway, "[[gateway:answer tokens=2 finish=none done=false]]", stream=True)
    assert last(silent) == [None, None]


def test_request_is_recorded(gateway: GatewayStub) -> None:
    ask(gateway, "hello", user="u")
    (request,) = gateway.requests
    assert (request.method, request.path, request.cancelled) == ("POST", PATH, False)
    assert request.body == chat("hello", user="u")
    assert request.headers["authorization"] == "Bearer secret"
    assert time.monotonic() - request.at < 5


def test_cancellation_has_a_time(gateway: GatewayStub) -> None:
    gateway.behave(Answer(tokens=1000, delay=0.01))
    with httpx.stream("POST", gateway.url + PATH, json=chat(stream=True), headers=AUTHORIZED) as r:
        lines = r.iter_lines()
        assert next(lines).startswith("data: ")
        assert gateway.running == 1
        closed = time.monotonic()
    gateway.wait_until(lambda: gateway.chats[0].cancelled and gateway.running == 0)
    assert 0 <= (gateway.chats[0].cancelled_at or 0) - closed < 1


def test_a_finished_answer_is_not_cancelled(gateway: GatewayStub) -> None:
    for stream in (True, False):
        ask(gateway, stream=stream)
    with connect(gateway) as sock:
        send(sock, stream=True)
        while b"[DONE]" not in sock.recv(65536):
            pass
    time.sleep(0.05)
    assert [request.cancelled for request in gateway.chats] == [False, False, False]


def test_runs_of_a_session_wait_for_each_other(gateway: GatewayStub) -> None:
    """Recorded: the second gets its role chunk at once, and then nothing until the first ends."""
    gateway.script(Answer(tokens=5, delay=0.1), Answer(), Answer())
    with connect(gateway) as first, connect(gateway) as second, connect(gateway) as other:
        for sock, user in ((first, "a"), (second, "A"), (other, "b")):
            begin(gateway, sock, user=user, stream=True)
        assert b"[DONE]" in b"".join(segments(other))
        assert second.recv(65536).count(b"data: ") == 1
        second.setblocking(False)
        with pytest.raises(BlockingIOError):
            second.recv(1)
        assert b"[DONE]" in b"".join(segments(first))
        second.settimeout(5)
        assert b"[DONE]" in b"".join(segments(second))
    assert gateway.turns("a") == ["hello", "hello"]


def test_parallel_runs_are_limited() -> None:
    with GatewayStub(parallel=2) as gateway:
        gateway.behave(Answer(tokens=2, delay=0.1))
        sockets = [connect(gateway) for _ in range(4)]
        for sock in sockets:
            begin(gateway, sock)
        assert gateway.peak > 2
        for sock in sockets:
            assert sock.recv(65536)
            sock.close()
        assert time.monotonic() - gateway.chats[0].at > 0.35


def test_connections_are_kept_and_closed() -> None:
    with GatewayStub(idle=0.2) as gateway, connect(gateway) as sock:
        for stream in (True, False, True):
            send(sock, stream=stream)
            assert read_answer(sock)[0].startswith("HTTP/1.1 200 OK")
        assert sock.recv(1) == b""  # after `idle` seconds
    with GatewayStub(idle=60) as gateway, connect(gateway) as sock:
        sock.sendall(request_bytes(b"", "GET /healthz HTTP/1.1\nConnection: close"))
        assert "Connection: close" in read_answer(sock)[0]
        assert sock.recv(1) == b""


def test_pipelined_and_chunked_requests(gateway: GatewayStub) -> None:
    body = json.dumps(chat()).encode()
    head = f"POST {PATH} HTTP/1.1\r\nAuthorization: Bearer secret\r\nTransfer-Encoding: chunked"
    chunked = b"%b\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (head.encode(), len(body), body)
    with connect(gateway) as sock:
        sock.sendall(chunked + chunked)
        gateway.wait_until(lambda: len(gateway.chats) == 2)
    assert [request.body for request in gateway.chats] == [chat(), chat()]


def test_expectation_is_met(gateway: GatewayStub) -> None:
    """Recorded: 100 Continue before the answer, when curl asks for it."""
    with connect(gateway) as sock:
        sock.sendall(request_bytes(b"", "GET /healthz HTTP/1.1\nExpect: 100-continue"))
        assert sock.makefile("rb").readline() == b"HTTP/1.1 100 Continue\r\n"


def test_down_and_up_again_on_the_same_port(gateway: GatewayStub) -> None:
    gateway.behave(Silence())
    with connect(gateway) as sock:
        begin(gateway, sock, user="u", stream=True)
        with gateway.down():
            with pytest.raises(httpx.ConnectError):
                ask(gateway)
            assert b"[DONE]" not in sock.recv(65536)
    gateway.behave(Answer())
    assert content(ask(gateway, user="u")).startswith("Turn 2:")


def test_draining_lets_streams_finish(gateway: GatewayStub) -> None:
    gateway.behave(Answer(tokens=5, delay=0.05))
    with connect(gateway) as sock:
        begin(gateway, sock, stream=True)
        gateway.draining = True
        assert ask(gateway).json()["error"]["code"] == "gateway_unavailable"
        assert httpx.get(gateway.url + "/readyz").json()["failing"] == ["gateway-draining"]
        assert "[DONE]" in read_answer(sock)[1]
    gateway.draining = False
    assert httpx.get(gateway.url + "/readyz").json()["ready"] is True


@pytest.fixture
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_many_files")
def test_a_thousand_open_streams(gateway: GatewayStub) -> None:
    gateway.behave(Silence(after=3))
    request = request_bytes(json.dumps(chat(stream=True)).encode())
    port = int(gateway.url.rpartition(":")[2])

    async def begun() -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        await reader.readuntil(b" w2")
        return writer

    async def streams() -> None:
        writers = await asyncio.gather(*(begun() for _ in range(1000)))
        assert gateway.running == gateway.peak == 1000
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers))

    asyncio.run(streams())
    gateway.wait_until(lambda: gateway.running == 0)
    assert all(request.cancelled for request in gateway.chats)


def test_nothing_is_left_behind() -> None:
    before = threading.active_count()
    with GatewayStub() as gateway, connect(gateway) as idle, connect(gateway) as waiting:
        gateway.behave(Silence())
        begin(gateway, waiting)
        assert idle.getpeername() == waiting.getpeername()
    assert threading.active_count() == before
    with pytest.raises(httpx.ConnectError):
        ask(gateway)
