"""The gateway behind a URL: OpenClaw, or any endpoint that speaks OpenAI's chat completions."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio.to_thread
import httpx

from server.chat import sse
from server.chat.completion import (
    SaidError,
    StreamedCompletion,
    broken_off,
    nonsense,
    parse,
    read_whole,
)
from server.chat.gateway import Sink
from server.errors import GatewayFailed, GatewayTimeout, Overloaded, Problem
from server.settings import Settings

log = logging.getLogger("clawd.gateway")

SENT_BYTES = 64 * 1024
MAX_BODY = 32 * 1024 * 1024
# Well below the patience of servers, 5 seconds for Node and uvicorn, 2 for gunicorn: a request that
# meets their closing the connection is lost, and must not be sent twice.
KEPT_SECONDS = 1.0


class HttpGateway:
    """A gateway behind a URL; what it says in an error may hold secrets and is not passed on."""

    kind = "openclaw"

    def __init__(
        self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.model = settings.openclaw_model
        self._settings = settings
        headers = {"Accept-Encoding": "identity"}
        if settings.openclaw_token is not None:
            headers["Authorization"] = f"Bearer {settings.openclaw_token.get_secret_value()}"
        self._client = httpx.AsyncClient(
            base_url=settings.openclaw_url or "",
            headers=headers,
            # Our own deadlines watch over reading: httpx has none for the whole.
            timeout=httpx.Timeout(settings.gateway_connect_timeout, read=None, write=30, pool=10),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=50, keepalive_expiry=KEPT_SECONDS
            ),
            transport=transport,
            # Neither a proxy of the environment nor a redirect may lead the token elsewhere.
            trust_env=False,
            follow_redirects=False,
        )

    async def answer(self, body: dict[str, Any], sink: Sink) -> None:
        """Ask for a completion, streamed or whole as `body["stream"]` says."""
        async with self._deadlines() as patience, self._post(body) as response:
            body.clear()
            await _check_status(response)
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if response.headers.get("content-encoding", "identity") != "identity":
                raise nonsense("compressed, though that was not asked for")
            if kind == "text/event-stream":
                await _read_stream(response, StreamedCompletion(sink, patience), patience)
            elif kind == "application/json":
                read_whole(await _body(response), sink)
            else:
                raise nonsense("neither JSON nor an event stream")

    async def probe(self) -> None:
        """Ask for /readyz; an endpoint that has no such page is up when it answers at all."""
        try:
            response = await self._client.get("/readyz", timeout=1.5)
        except httpx.HTTPError as error:
            raise _from_httpx(error) from error
        if response.status_code >= 500:
            raise Overloaded("The AI gateway is not ready.", code="gateway_not_ready")

    async def ask(self, path: str) -> tuple[int, str]:
        """The status and the Date of what it answers to a GET."""
        try:
            response = await self._client.get(path, timeout=1.5)
        except httpx.HTTPError as error:
            raise _from_httpx(error) from error
        return response.status_code, response.headers.get("date", "")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _headers(self, body: dict[str, Any]) -> dict[str, str]:
        if not self._settings.openclaw_session_header:
            return {}
        # The key under which the gateway files `user`: with another one old sessions would forget.
        agent = re.fullmatch(r"(?:agent:|openclaw[/:])(\w+)", self.model)
        name = agent[1] if agent and agent[1] != "default" else "main"
        return {"x-openclaw-session-key": f"agent:{name}:openai-user:{body['user']}"}

    @asynccontextmanager
    async def _post(self, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        headers = {"Content-Type": "application/json", **self._headers(body)}
        content = await anyio.to_thread.run_sync(lambda: json.dumps(body).encode())
        headers["Content-Length"] = str(len(content))
        sent = _Once(content)
        del content
        try:
            async with self._client.stream(
                "POST", "/v1/chat/completions", content=sent, headers=headers
            ) as response:
                yield response
        except httpx.HTTPError as error:
            raise _from_httpx(error) from error

    @asynccontextmanager
    async def _deadlines(self) -> AsyncIterator["_Patience"]:
        patience = _Patience(self._settings)
        try:
            async with asyncio.timeout_at(patience.deadline) as patience.timeout:
                yield patience
        except (TimeoutError, Problem) as error:
            # An answer that was finished stays so, however the connection ends.
            if not patience.finished or isinstance(error, SaidError):
                raise GatewayTimeout() if isinstance(error, TimeoutError) else error from error


class _Once:
    """A request's body that is not kept while the answer comes, as httpx would keep bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content, self._content = memoryview(self._content), b""
        for at in range(0, len(content), SENT_BYTES):
            yield bytes(content[at : at + SENT_BYTES])


class _Patience:
    """The deadlines of one answer: to the first content, then between bytes, and for the whole."""

    def __init__(self, settings: Settings) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle = settings.gateway_idle_timeout
        self._end = self._loop.time() + settings.gateway_total_timeout
        self._has_content = False
        self.finished = False
        self.timeout: asyncio.Timeout | None = None
        self.deadline = min(self._loop.time() + settings.gateway_first_timeout, self._end)

    def content_came(self) -> None:
        self._has_content = True
        self.byte_came()

    def finish_came(self, seconds: float) -> None:
        """The answer is whole; what may still come, usage and end marks, has this long."""
        self.finished = True
        if self.timeout is not None:
            self.timeout.reschedule(min(self._loop.time() + seconds, self._end))

    def byte_came(self) -> None:
        # Before the first content, comments and the role chunk prove nothing.
        if self._has_content and not self.finished and self.timeout is not None:
            self.timeout.reschedule(min(self._loop.time() + self._idle, self._end))


async def _read_stream(
    response: httpx.Response, completion: StreamedCompletion, patience: _Patience
) -> None:
    reader = sse.Reader()
    try:
        async for chunk in response.aiter_raw():
            patience.byte_came()
            for name, data in reader.feed(chunk):
                completion.take(name, data)
        for name, data in reader.close():
            completion.take(name, data)
    except sse.LineTooLong as error:
        raise nonsense("a line without end") from error
    if not completion.finished:
        raise broken_off()


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BODY:
            raise nonsense("an answer without end")
    return bytes(body)


async def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    if status == 200:
        return
    kind = await _error_type(response)
    log.warning("gateway answered an error", extra={"gateway_status": status, "type": kind})
    match status:
        case 401 if kind == "authentication_error":
            log.error("the model provider refused the gateway's key")
            raise GatewayFailed(
                "The AI gateway was refused by its model provider.", code="gateway_provider_auth"
            )
        case 401 | 403:
            log.error("the gateway refused the token: check OPENCLAW_TOKEN")
            raise GatewayFailed("The AI gateway refused the service.", code="gateway_auth")
        case 429 | 503:
            raise Overloaded(
                "The AI gateway is busy.",
                code="gateway_busy",
                retry_after=_retry_after(response.headers.get("retry-after", "")),
            )
        case 408 | 504:
            raise GatewayTimeout()
        case 400 | 404 | 413 | 415 | 422:
            raise GatewayFailed("The AI gateway rejected the request.", code="gateway_rejected")
        case _:
            raise GatewayFailed()


async def _error_type(response: httpx.Response) -> str:
    """The word by which OpenAI's protocol names the kind of error, if there is one."""
    with suppress(httpx.HTTPError, Problem):
        error = parse(await _body(response)).get("error")
        if isinstance(error, dict):
            return str(error.get("type"))[:100]
    return ""


def _retry_after(value: str) -> int:
    """Seconds; a gateway that names none, or hours, gets a guess."""
    return int(value) if value.isascii() and value.isdigit() and int(value) <= 300 else 5


def _from_httpx(error: httpx.HTTPError) -> Problem:
    """The problem that each exception of httpx means; the test goes through all of them."""
    log.warning("gateway not usable", extra={"cause": type(error).__name__})
    match error:
        case httpx.PoolTimeout():
            return Overloaded("The AI gateway is busy.", code="gateway_busy", retry_after=5)
        case httpx.ConnectTimeout():
            return GatewayTimeout(
                "The AI gateway can't be reached in time.", code="gateway_connect_timeout"
            )
        case httpx.TimeoutException():
            return GatewayTimeout()
        case httpx.ConnectError() | httpx.UnsupportedProtocol() | httpx.ProxyError():
            return GatewayFailed("The AI gateway can't be reached.", code="gateway_unreachable")
        case httpx.TransportError():
            return broken_off()
        case _:
            return GatewayFailed()
