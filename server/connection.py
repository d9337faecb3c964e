"""A client's connection: what a request may be, and take, before the application sees it.

uvicorn with httptools takes headers without end and waits for them for ever. (Its other parser,
h11, bounds their size, yet serves a quarter fewer requests, and takes Content-Length beside
Transfer-Encoding.) After anything doubtful the connection is closed: what follows on it could be
half a request, or a second one that a proxy before us has not seen.
"""

import asyncio
import logging
import select
import uuid
from typing import Any, Literal, cast

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from server import edge, errors, metrics
from server.logs import request_id
from server.settings import get_settings

log = logging.getLogger("clawd.http")

# Request line and headers together.
MAX_HEAD_BYTES = 32 * 1024
# Chunks of one byte are five bytes long.
MAX_FRAMING = 8
# A body that comes at this pace, 256 kbit/s, may take longer than BODY_TIMEOUT.
PACE_BYTES_A_SECOND = 32 * 1024
# What the client still sends is thrown away for so long: closing at once would lose the answer.
LINGER_SECONDS = 1.0


class Connections(ServerState):
    """Those of this process, with what concerns them all."""

    handed_over = False
    """This process ends, and another one goes on serving the port."""


class Unacceptable(Exception):
    """A request whose headers were read, but which is refused for them."""


def _problem(status: int, code: str, detail: str) -> errors.Problem:
    problem = errors.Problem(detail, code=code)
    problem.status = status
    return problem


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with limits; one clock runs while a request is on its way in."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = get_settings()
        self._seconds = {"head": settings.header_timeout, "body": settings.body_timeout}
        self._reading: Literal["head", "body", ""] = "head"
        self._parts = 0
        self._received = 0
        self._body = 0
        self._since = 0.0
        self._clock: asyncio.TimerHandle | None = None
        self._problem: errors.Problem | None = None
        self._over = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if not self._reading:
            self._read("head")
        self._received += len(data)
        parts = self._parts
        super().data_received(data)
        if self._over:
            return
        # What isn't the body's own is its framing: chunk sizes, their extensions, trailers.
        if self._reading and self._received > MAX_HEAD_BYTES + MAX_FRAMING * self._body:
            self._refuse(_too_large())
        elif self._parts != parts or self._clock is None:
            self._start_clock()

    def on_message_begin(self) -> None:
        if not self._reading:
            self._read("head")
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        lines = sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.url) + lines > MAX_HEAD_BYTES:
            self._problem = _too_large()
            raise Unacceptable
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            self._problem = errors.BadRequest("There must be one Host header.")
            raise Unacceptable
        super().on_headers_complete()
        if self._handed_over:
            self.cycle.keep_alive = False
        self._read("body")

    def on_header(self, name: bytes, value: bytes) -> None:
        # uvicorn takes trailers for headers: an Authorization or X-Forwarded-For behind the body.
        if self._reading != "body":
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._read("")
        super().on_message_complete()

    def shutdown(self) -> None:
        """The process is asked to end.

        Where another one serves the port, the client's next request must not meet a connection
        that has just been closed: this one ends with an answer that says so, else as late as any
        idle connection does. An answer that has begun can't say it any more.
        """
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if not self._handed_over:
            super().shutdown()
        elif cycle is not None and not cycle.response_started:
            cycle.keep_alive = False

    def timeout_keep_alive_handler(self) -> None:
        """Close the idle connection, unless the next request is there and only not read yet."""
        waiting = select.poll()
        waiting.register(self.transport.get_extra_info("socket"), select.POLLIN)
        if not waiting.poll(0):
            super().timeout_keep_alive_handler()

    @property
    def _handed_over(self) -> bool:
        # The server of uvicorn alone, or of its --reload, never does that.
        return isinstance(self.server_state, Connections) and self.server_state.handed_over

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._problem or errors.BadRequest("This is not an HTTP request."))

    def _read(self, part: Literal["head", "body", ""]) -> None:
        self._reading, self._received, self._body = part, 0, 0
        self._parts += 1

    def _start_clock(self) -> None:
        self._stop_clock()
        if self._reading:
            self._since = self.loop.time()
            self._clock = self.loop.call_later(self._seconds[self._reading], self._check_clock)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _check_clock(self) -> None:
        """Give up a request that comes too slowly; a queued one isn't being read at all."""
        left = self._seconds[self._reading] if self._reading else 0.0
        if not self.pipeline:
            left += self._since + self._body / PACE_BYTES_A_SECOND - self.loop.time()
        if left > 0:
            self._clock = self.loop.call_later(left, self._check_clock)
        elif self._reading == "head" and not self._received:
            self.transport.close()
        else:
            self._refuse(_problem(408, "request_timeout", "The request did not come in time."))

    def _refuse(self, problem: errors.Problem) -> None:
        """Say why, unless that could be taken for another request's answer; then close."""
        self._over = True
        self._stop_clock()
        cycle = cast("RequestResponseCycle | None", self.cycle)
        at_work = cycle is not None and not cycle.response_complete
        if self._reading != "body" and at_work:
            # The requests before this one were whole: they still get their answers.
            self.cycle.keep_alive = False
        elif self.pipeline or (self._reading == "body" and self.cycle.response_started):
            self.transport.close()
        else:
            if at_work:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self._answer(problem)

    def _answer(self, problem: errors.Problem) -> None:
        token = request_id.set(uuid.uuid4().hex[:20])
        try:
            response = errors.respond(problem)
            edge.add_headers(response.headers, {"type": "http"})
            ip = self.client[0] if self.client else None
            log.info("request refused", extra={"status": problem.status, "ip": ip})
            metrics.REFUSED_CONNECTIONS.labels(str(problem.status)).inc()
        finally:
            request_id.reset(token)
        response.headers["connection"] = "close"
        lines = [b"%s: %s\r\n" % header for header in response.raw_headers]
        body = bytes(response.body)
        self.transport.write(b"".join([STATUS_LINE[problem.status], *lines, b"\r\n", body]))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._clock = self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _too_large() -> errors.Problem:
    return _problem(431, "headers_too_large", "The request line or the headers are too large.")
