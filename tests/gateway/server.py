"""The stub gateway: a server on a loopback port, in a thread of its own."""

import asyncio
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self, TypeVar

from tests.gateway.behaviours import Answer, Behaviour, Refuse
from tests.gateway.exchange import Exchange, Runs
from tests.gateway.markers import named
from tests.gateway.probes import CHAT, MODELS, probe
from tests.gateway.protocol import (
    ERRORS,
    JSON_TYPE,
    RecordedError,
    json_text,
    whole_head,
)
from tests.gateway.request import (
    Prompt,
    RecordedRequest,
    TooLarge,
    read_request,
    session_of_user,
    understand,
)

BACKLOG = 4096
FIRST_REQUEST_WITHIN = 60.0
# How long the rest of a refused body is read, so that the client sees the refusal and no RST.
LINGER = 5.0
# Until connections that were just accepted or aborted have told their callbacks.
SETTLED = 0.01
T = TypeVar("T")


class GatewayStub:
    """A gateway that does what a test tells it; every method may be called from any thread.

    A request is answered as the marker in its last user message says, else by the next behaviour
    of `script`, else by the one of `behave`. `idle` is how many seconds a connection may wait for
    its next request, `parallel` how many runs there may be at once (the real gateway: 8 or more).
    """

    def __init__(
        self,
        token: str | None = "secret",
        *,
        idle: float = 5.0,
        parallel: int | None = None,
        max_body: int = 20 * 1024 * 1024,
    ) -> None:
        self.token = token
        self.draining = False
        self.running = 0
        self.peak = 0
        self._idle = idle
        self._parallel = parallel
        self._max_body = max_body
        self._lock = threading.Lock()
        self._requests: list[RecordedRequest] = []
        self._problems: list[BaseException] = []
        self._script: deque[Behaviour] = deque()
        self._behaviour: Behaviour = Answer()
        self._runs = Runs(parallel)
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._port = 0

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._problems and error is None:
            raise self._problems[0]

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end; the port stays the same when it is down."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def requests(self) -> list[RecordedRequest]:
        """All requests so far, refused ones too."""
        with self._lock:
            return list(self._requests)

    @property
    def chats(self) -> list[RecordedRequest]:
        """The requests for a chat completion."""
        return [request for request in self.requests if request.path == CHAT]

    def behave(self, behaviour: Behaviour) -> None:
        """Answers this way until told otherwise."""
        with self._lock:
            self._behaviour = behaviour

    def script(self, *behaviours: Behaviour) -> None:
        """Answers the next valid chat requests in these ways, one each."""
        with self._lock:
            self._script.extend(behaviours)

    def turns(self, user: str) -> list[str]:
        """The user turns that the session of this `user` remembers."""
        return list(self._runs.turns.get(session_of_user(user), ()))

    def reset(self) -> None:
        """Forgets requests, sessions, script and behaviour; requests that run now go on."""
        with self._lock:
            self._requests.clear()
            self._script.clear()
            self._behaviour = Answer()
            self._runs = Runs(self._parallel)
            self.draining = False
            self.peak = self.running

    @contextmanager
    def down(self) -> Iterator[None]:
        """Refuses connections inside the block, after ending those that there are."""
        self._call(self._close())
        try:
            yield
        finally:
            self._call(self._listen())

    def wait_until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        """Returns when the condition holds, raises TimeoutError when it does not in time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError
            time.sleep(0.005)

    def _call(self, work: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        sock = socket.create_server(("127.0.0.1", self._port), backlog=BACKLOG)
        self._port = sock.getsockname()[1]
        self._server = await asyncio.start_server(self._connection, sock=sock, backlog=BACKLOG)

    async def _close(self) -> None:
        self._server.close()
        await asyncio.sleep(SETTLED)
        for task, writer in self._connections.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        await asyncio.sleep(SETTLED)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        # drain() then waits until the kernel has all, so that nothing is lost before an abort.
        writer.transport.set_write_buffer_limits(0)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, TimeoutError, EOFError):
            pass  # the client went, or had nothing more to ask
        except Exception as problem:
            self._problems.append(problem)
        finally:
            del self._connections[task]
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, patience = b"", FIRST_REQUEST_WITHIN
        while True:
            first = first or await asyncio.wait_for(reader.read(1), patience)
            if not first:
                return
            try:
                request = await read_request(reader, writer, first, self._max_body)
            except TooLarge:
                await self._too_large(reader, writer)
                return
            with self._lock:
                self._requests.append(request)
            first, patience = await self._watched(reader, writer, request), self._idle
            if request.closes or writer.is_closing():
                return

    async def _watched(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: RecordedRequest
    ) -> bytes:
        """Answers, unless the client closes first; gives the bytes read of the next request."""
        answer = asyncio.create_task(self._answer(writer, request))
        watch = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({answer, watch}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() or _alive(watch):
                await answer
                return watch.result() if watch.done() and _alive(watch) else b""
            raise ConnectionAbortedError
        except ConnectionError:
            request.cancelled_at = time.monotonic()
            request.cancelled = True
            raise
        finally:
            answer.cancel()
            watch.cancel()
            await asyncio.gather(answer, watch, return_exceptions=True)

    async def _too_large(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = json_text(ERRORS["too-large"].json()).encode()
        writer.write(whole_head(413, len(body), JSON_TYPE, close=True) + body)
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while await reader.read(2**16):
                    pass

    async def _answer(self, writer: asyncio.StreamWriter, request: RecordedRequest) -> None:
        if request.method == "POST" and request.path.partition("?")[0] == CHAT:
            await self._chat(writer, request)
            return
        if request.path == MODELS and not self._knows(request):
            self._refuse(writer, request, ERRORS["unauthorized"])
            await writer.drain()
            return
        uptime = time.monotonic() - self._began
        writer.write(probe(request, draining=self.draining, uptime=uptime))
        await writer.drain()

    async def _chat(self, writer: asyncio.StreamWriter, request: RecordedRequest) -> None:
        understood = self._admit(request)
        if isinstance(understood, RecordedError):
            self._refuse(writer, request, understood)
            await writer.drain()
            return
        exchange = Exchange(writer, request, understood, self._runs)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await self._choose(understood).play(exchange)
        finally:
            self.running -= 1

    @staticmethod
    def _refuse(
        writer: asyncio.StreamWriter, request: RecordedRequest, error: RecordedError
    ) -> None:
        body = json_text(error.json()).encode()
        extra, close = error.headers, request.closes
        writer.write(whole_head(error.status, len(body), JSON_TYPE, extra, close=close) + body)

    def _admit(self, request: RecordedRequest) -> Prompt | RecordedError:
        return understand(request) if self._knows(request) else ERRORS["unauthorized"]

    def _knows(self, request: RecordedRequest) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return self.token is None or (scheme.lower(), token) == ("bearer", self.token)

    def _choose(self, prompt: Prompt) -> Behaviour:
        if self.draining:
            return Refuse("draining")
        if prompt.marker is not None:
            return named(prompt.marker)
        with self._lock:
            return self._script.popleft() if self._script else self._behaviour


def _alive(watch: asyncio.Task[bytes]) -> bool:
    """Whether the client is still there: it sent a byte of its next request, or nothing yet."""
    return not watch.done() or (watch.exception() is None and watch.result() != b"")
