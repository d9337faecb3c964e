"""A closed loop of HTTP requests: each connection sends its next when it has its answer."""

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

import uvloop


@dataclass
class Load:
    """What a run has measured; seconds."""

    seconds: float = 0.0
    took: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.took) / self.seconds

    @property
    def median_ms(self) -> float:
        """The middle of the answers' times."""
        return statistics.median(self.took) * 1000

    @property
    def first_ms(self) -> float:
        """The middle of the times until the mark was there."""
        return statistics.median(self.first) * 1000


def request(
    url: str, token: str | None = None, body: bytes | None = None, **headers: str
) -> tuple[str, int, bytes]:
    """Where to send what: host, port, the bytes of one request."""
    parts = urlsplit(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {parts.netloc}"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return parts.hostname or "", parts.port or 80, head + (body or b"")


class _Client(asyncio.Protocol):
    """One connection that asks again and again until it is told to stop."""

    def __init__(
        self, requests: list[bytes], load: Load, until: float, *, mark: bytes | None, wait: float
    ) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._requests, self._load, self._until = requests, load, until
        self._mark, self._wait = mark, wait
        self._marked = True
        self._count = 0
        self._buffer = bytearray()
        self._missing: int | None = None  # bytes of the body, once the head is there
        self._chunked = self._good = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        asyncio.get_running_loop().call_later(self._wait, self._ask)

    def _ask(self) -> None:
        self._started = time.perf_counter()
        if self._started > self._until:
            self._end()
            return
        self._marked = self._mark is None
        self._transport.write(self._requests[self._count % len(self._requests)])
        self._count += 1

    def data_received(self, data: bytes) -> None:
        if not self._marked and self._mark is not None and self._mark in data:
            self._marked = True
            self._load.first.append(time.perf_counter() - self._started)
        if self._missing is None:
            self._buffer += data
            head, found, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not found:
                return
            self._read_head(head)
            data = rest
            self._buffer.clear()
        if self._chunked:
            self._buffer += data
            del self._buffer[:-16]
            ended = self._buffer.endswith(b"0\r\n\r\n")
        else:
            self._missing = (self._missing or 0) - len(data)
            ended = self._missing <= 0
        if ended:
            self._finish()

    def _read_head(self, head: bytes) -> None:
        lower = head.lower()
        self._good = head[9:12] == b"200"
        self._chunked = b"transfer-encoding: chunked" in lower
        _, found, rest = lower.partition(b"content-length:")
        self._missing = int(rest.partition(b"\r")[0]) if found else 0

    def _finish(self) -> None:
        if self._good:
            self._load.took.append(time.perf_counter() - self._started)
        else:
            self._load.failed += 1
        self._missing, self._chunked = None, False
        self._buffer.clear()
        self._ask()

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._load.failed += 1
            self.done.set_result(None)


def run(
    host: str,
    port: int,
    requests: list[list[bytes]],
    seconds: float,
    *,
    mark: bytes | None = None,
    spread: float = 0,
) -> Load:
    """One connection for each list of requests, which it sends in turns.

    `Load.first` has how long it took until `mark` came, in one piece, in an answer. The connections
    begin one after the other within `spread` seconds.
    """

    async def work() -> Load:
        loop, load = asyncio.get_running_loop(), Load()
        started = time.perf_counter()
        step = spread / len(requests)
        clients = [
            _Client(own, load, started + seconds, mark=mark, wait=number * step)
            for number, own in enumerate(requests)
        ]
        for client in clients:
            await loop.create_connection(partial(_itself, client), host, port)
        await asyncio.gather(*(client.done for client in clients))
        load.seconds = time.perf_counter() - started
        return load

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


def _itself(client: _Client) -> _Client:
    return client
