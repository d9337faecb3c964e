"""The gateway's client by itself: every way aiohttp can fail, every header it sends."""

import asyncio
import inspect
import json
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from server.chat.completion import clean
from server.chat.openclaw import HttpGateway
from server.errors import Problem
from server.settings import Settings
from tests.gateway import GatewayStub

ERRORS = sorted(
    (
        kind
        for _, kind in inspect.getmembers(aiohttp, inspect.isclass)
        if issubclass(kind, aiohttp.ClientError)
    ),
    key=lambda kind: kind.__name__,
)


class Sink:
    """Collects an answer."""

    def __init__(self) -> None:
        self.text = ""
        self.usage: tuple[int, int] | None = None

    def add_text(self, text: str) -> None:
        self.text += text

    def set_usage(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.usage = (prompt_tokens, completion_tokens)


def ask(settings: Settings, body: dict[str, Any]) -> Sink:
    """One answer, in an event loop of its own."""

    async def run() -> Sink:
        gateway = HttpGateway(settings)
        sink = Sink()
        try:
            await gateway.answer(body, sink)
        finally:
            await gateway.close()
        return sink

    return asyncio.run(run())


def ask_server(completion: Any, body: dict[str, Any], **settings: Any) -> tuple[Sink, str]:
    """The answer of a gateway that always gives this one, and what it was sent."""
    told = json.dumps(completion).encode()
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    heard: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(f"{head}Content-Length: {len(told)}\r\n\r\n".encode() + told)
        await reader.read()
        writer.close()

    async def run() -> Sink:
        server = await asyncio.start_server(serve, "127.0.0.1")
        port = server.sockets[0].getsockname()[1]
        gateway = HttpGateway(Settings(openclaw_url=f"http://127.0.0.1:{port}/v1/", **settings))
        sink = Sink()
        async with server:
            try:
                await gateway.answer(body, sink)
            finally:
                await gateway.close()
        return sink

    return asyncio.run(run()), heard[0]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_client_is_mapped(
    monkeypatch: pytest.MonkeyPatch, kind: type[aiohttp.ClientError]
) -> None:
    """Whatever aiohttp raises, the client hears 502, 503 or 504, never 500."""

    def fail(*_: object, **__: object) -> object:
        # Each takes other arguments; only its kind counts.
        error = kind.__new__(kind, "secret.internal:1234")
        raise error

    monkeypatch.setattr(aiohttp.ClientSession, "post", fail)
    with pytest.raises(Problem) as caught:
        ask(Settings(openclaw_url="http://gateway.test"), {"stream": False})
    assert caught.value.status in {502, 503, 504}
    assert "secret" not in json.dumps(caught.value.body())


@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY", "http_proxy"])
def test_no_proxy_of_the_environment_is_used(
    gateway: GatewayStub, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It would be sent the gateway's token, and every message."""
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    settings = Settings(openclaw_url=gateway.url, openclaw_token=SecretStr("token-of-the-gateway"))
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": "agent:main", "user": "adapter-session-proxy", "messages": messages}
    assert ask(settings, {**body, "stream": False}).text


def test_total_timeout_ends_an_answer_that_drips(gateway: GatewayStub) -> None:
    """A gateway that keeps writing would never end."""
    settings = Settings(
        openclaw_url=gateway.url,
        openclaw_token=SecretStr("token-of-the-gateway"),
        gateway_total_timeout=1.0,
        gateway_idle_timeout=0.5,
    )
    content = "[[gateway:answer tokens=100 delay=0.1]]"
    body = {
        "model": "agent:main",
        "user": "adapter-session-total",
        "messages": [{"role": "user", "content": content}],
        "stream": True,
    }
    with pytest.raises(Problem) as caught:
        ask(settings, body)
    assert caught.value.status == 504


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("agent:main", "agent:main:openai-user:adapter-session-1"),
        ("openclaw/helper", "agent:helper:openai-user:adapter-session-1"),
        ("openclaw/default", "agent:main:openai-user:adapter-session-1"),
        ("gpt-4o", "agent:main:openai-user:adapter-session-1"),
    ],
)
def test_the_session_header(model: str, key: str) -> None:
    """It names the session by the key under which `user` is filed, so that none is forgotten."""
    whole = {"choices": [{"message": {"content": "yes"}}]}
    sink, heard = ask_server(
        whole,
        {"user": "adapter-session-1", "stream": False},
        openclaw_model=model,
        openclaw_session_header=True,
    )
    assert sink.text == "yes"
    assert heard.startswith("POST /v1/chat/completions HTTP/1.1")
    assert f"x-openclaw-session-key: {key}\r\n" in heard
    assert "accept-encoding: identity\r\n" in heard.lower()


@pytest.mark.parametrize(
    "completion",
    [
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"message": {"content": None}}]},
        {"choices": "no"},
        {"choices": [{"message": {"content": "x"}}], "error": {"message": "no", "type": "x"}},
        [],
        "text",
    ],
)
def test_json_of_another_shape(completion: Any) -> None:
    """200 is no proof: an answer without an answer in it is a failure."""
    with pytest.raises(Problem) as caught:
        ask_server(completion, {"stream": False})
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain", "plain"),
        ("a\0b", "a\ufffdb"),
        ("half \ud83d", "half \ufffd"),
        ("pair \ud83d\ude00", "pair \U0001f600"),
        ("", ""),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    """Text that both databases can store."""
    assert clean(text) == cleaned


def test_an_idle_connection_is_not_used_again() -> None:
    """A gateway closes idle connections, perhaps just when the next request is on its way.

    OpenClaw does so after 5 seconds; kept for as long, connections brought 502s from a gateway in
    the best of health.
    """
    whole = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}
    told = json.dumps(whole).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(told)}\r\n\r\n"
    )

    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(head.encode() + told)
        await reader.read(1)
        writer.close()  # what came on this connection was not read any more

    async def run() -> list[str]:
        server = await asyncio.start_server(serve, "127.0.0.1")
        port = server.sockets[0].getsockname()[1]
        gateway = HttpGateway(Settings(openclaw_url=f"http://127.0.0.1:{port}"))
        sinks = [Sink(), Sink()]
        async with server:
            await gateway.answer({}, sinks[0])
            await asyncio.sleep(1.2)
            await gateway.answer({}, sinks[1])
            await gateway.close()
            await asyncio.gather(*(writer.wait_closed() for writer in writers))
        return [sink.text for sink in sinks]

    assert asyncio.run(run()) == ["Hello", "Hello"]
