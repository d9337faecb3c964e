"""An answer whose finish has come is whole, however its connection ends."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import pytest

from server.chat.openclaw import HttpGateway
from server.errors import Problem
from server.settings import Settings
from tests.chat.test_gateway_client import Sink

DELTA = {"choices": [{"index": 0, "delta": {"content": "all of it"}, "finish_reason": None}]}
FINISH = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
OTHER = {"choices": [{"index": 1, "delta": {"content": "not asked for"}}]}
Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]


async def reset(writer: asyncio.StreamWriter) -> None:
    """RST."""
    writer.transport.abort()


async def close(writer: asyncio.StreamWriter) -> None:
    """FIN in the middle of a chunked response."""
    writer.close()


async def wait(writer: asyncio.StreamWriter) -> None:
    """Silence, until the other side has had enough."""
    for _ in range(200):
        if writer.transport.is_closing():
            return
        await asyncio.sleep(0.1)


def ask(sent: list[bytes], end: Handler) -> Sink:
    """One answer from a gateway that sends this, then ends so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
            for piece in sent:
                writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.1)
            await end(writer)
        finally:
            writer.transport.abort()

    async def run() -> Sink:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        gateway = HttpGateway(Settings(openclaw_url=f"http://127.0.0.1:{port}"))
        sink = Sink()
        try:
            await gateway.answer({"stream": True, "user": "u"}, sink)
        finally:
            await gateway.close()
            server.close()
            await asyncio.sleep(0.05)  # for the connection's end to be seen
        return sink

    return asyncio.run(run())


def data(*events: object) -> list[bytes]:
    """Events as bytes."""
    return [f"data: {json.dumps(event)}\n\n".encode() for event in events]


@pytest.mark.parametrize("end", [reset, close, wait])
def test_a_finished_answer_is_complete(end: Handler) -> None:
    """After `finish_reason` nothing that is missing is missed, and nobody waits long for it."""
    started = time.monotonic()
    assert ask(data(DELTA, FINISH), end).text == "all of it"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "events",
    [
        data(DELTA, FINISH, {"error": {"message": "no", "type": "x"}}),
        data(DELTA, {"error": {}}),
        [*data(DELTA), b"event: error\ndata: {}\n\n"],
        [*data({"choices": [{"delta": {"role": "assistant"}}]}), b"data: [DONE]\n\n"],
    ],
    ids=["after-the-finish", "empty-error", "event-error", "nothing-said"],
)
def test_what_is_no_answer(events: list[bytes]) -> None:
    """An error outweighs all that was before it; an end mark after nothing proves nothing."""
    with pytest.raises(Problem):
        ask(events, close)


def test_only_the_first_of_several_answers_counts() -> None:
    """We asked for one."""
    assert ask(data(DELTA, OTHER, FINISH), close).text == "all of it"
