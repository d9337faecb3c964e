"""A gateway that costs next to nothing, so that what stands before it is measured.

    python -m benchmarks.gateway --port 18789 --tokens 40 --delay 0

Speaks OpenAI's chat completions, whole and streamed, each token in a write of its own.
"""

import argparse
import asyncio
import json
from functools import partial

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n"
WORD = "token "


def _chunk(**choice: object) -> bytes:
    data = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "stub"}
    line = json.dumps({**data, "choices": [{"index": 0, "finish_reason": None, **choice}]})
    return _framed(f"data: {line}\n\n".encode())


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _whole(tokens: int) -> bytes:
    usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": WORD * tokens},
        "finish_reason": "stop",
    }
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "stub"}
    body = json.dumps({**head, "choices": [choice], "usage": usage}).encode()
    return HEAD % b"application/json" + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Answering(asyncio.Protocol):
    """One connection."""

    def __init__(self, tokens: int, delay: float) -> None:
        self._tokens, self._delay = tokens, delay
        self._answer = _whole(tokens)
        self._stream = HEAD % b"text/event-stream" + b"Transfer-Encoding: chunked\r\n\r\n"
        self._token = _chunk(delta={"content": WORD})
        self._end = _chunk(delta={}, finish_reason="stop") + _framed(b"data: [DONE]\n\n")
        self._end += b"0\r\n\r\n"
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (body := self._take()) is not None:
            if b'"stream": true' in body or b'"stream":true' in body:
                self._transport.write(self._stream)
                self._send(self._tokens)
            else:
                self._transport.write(self._answer)

    def _take(self) -> bytes | None:
        """The body of the next whole request."""
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return None
        _, sized, tail = head.lower().partition(b"content-length:")
        length = int(tail.partition(b"\r")[0]) if sized else 0
        if b"\r\ntransfer-encoding: chunked" in head.lower():
            end = rest.find(b"0\r\n\r\n")
            length = end + 5 if end >= 0 else len(rest) + 1
        if len(rest) < length:
            return None
        self._buffer = rest[length:]
        return rest[:length]

    def _send(self, left: int) -> None:
        if self._transport.is_closing():
            return
        if not left:
            self._transport.write(self._end)
            return
        self._transport.write(self._token)
        loop = asyncio.get_running_loop()
        if self._delay:
            loop.call_later(self._delay, self._send, left - 1)
        else:
            loop.call_soon(self._send, left - 1)


async def serve(port: int, tokens: int, delay: float) -> None:
    """Answer until the process ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(partial(Answering, tokens, delay), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--delay", type=float, default=0)
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.tokens, given.delay))


if __name__ == "__main__":
    main()
