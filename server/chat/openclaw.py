"""The gateway behind a URL: OpenClaw, or any endpoint that speaks OpenAI's chat completions."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import anyio.to_thread

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
PROBE_SECONDS = 1.5


class HttpGateway:
    """A gateway behind a URL; what it says in an error may hold secrets and is not passed on."""

    kind = "openclaw"

    def __init__(self, settings: Settings) -> None:
        """Must be called within a running event loop."""
        self.model = settings.openclaw_model
        self._settings = settings
        headers = {"Accept-Encoding": "identity"}
        if settings.openclaw_token is not None:
            headers["Authorization"] = f"Bearer {settings.openclaw_token.get_secret_value()}"
        self._client = aiohttp.ClientSession(
            settings.openclaw_url,
            headers=headers,
            # Our own deadlines watch over reading, and over the whole.
            timeout=aiohttp.ClientTimeout(connect=settings.gateway_connect_timeout),
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            # A proxy of the environment must not lead the token elsewhere.
            trust_env=False,
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
        status, _ = await self.ask("/readyz")
        if status >= 500:
            raise Overloaded("The AI gateway is not ready.", code="gateway_not_ready")

    async def ask(self, path: str) -> tuple[int, str]:
        """The status and the Date of what it answers to a GET."""
        timeout = aiohttp.ClientTimeout(PROBE_SECONDS)
        async with (
            _errors(),
            self._client.get(path, timeout=timeout, allow_redirects=False) as response,
        ):
            return response.status, response.headers.get("date", "")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _headers(self, body: dict[str, Any]) -> dict[str, str]:
        if not self._settings.openclaw_session_header:
            return {}
        # The key under which the gateway files `user`: with another one old sessions would forget.
        agent = re.fullmatch(r"(?:agent:|openclaw[/:])(\w+)", self.model)
        name = agent[1] if agent and agent[1] != "default" else "main"
        return {"x-openclaw-session-key": f"agent:{name}:openai-user:{body['user']}"}

    @asynccontextmanager
    async def _post(self, body: dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Content-Type": "application/json", **self._headers(body)}
        content = await _encode(body)
        headers["Content-Length"] = str(len(content))
        sent = _Once(content) if len(content) > SENT_BYTES else content
        del content
        async with (
            _errors(),
            self._client.post(
                "/v1/chat/completions", data=sent, headers=headers, allow_redirects=False
            ) as response,
        ):
            yield response

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


async def _encode(body: dict[str, Any]) -> bytes:
    """The body as JSON; a large one is written by a thread, so that nobody waits for it."""
    contents = [one["content"] for one in body.get("messages", [])]
    if all(isinstance(one, str) for one in contents) and sum(map(len, contents)) <= SENT_BYTES:
        return json.dumps(body).encode()
    return await anyio.to_thread.run_sync(lambda: json.dumps(body).encode())


class _Once:
    """A large body that is not kept while the answer comes, as bytes would be."""

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
    response: aiohttp.ClientResponse, completion: StreamedCompletion, patience: _Patience
) -> None:
    reader = sse.Reader()
    try:
        async for chunk in response.content.iter_any():
            patience.byte_came()
            for name, data in reader.feed(chunk):
                completion.take(name, data)
        for name, data in reader.close():
            completion.take(name, data)
    except sse.LineTooLong as error:
        raise nonsense("a line without end") from error
    if not completion.finished:
        raise broken_off()


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            raise nonsense("an answer without end")
    return bytes(body)


async def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
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


async def _error_type(response: aiohttp.ClientResponse) -> str:
    """The word by which OpenAI's protocol names the kind of error, if there is one."""
    with suppress(aiohttp.ClientError, Problem):
        error = parse(await _body(response)).get("error")
        if isinstance(error, dict):
            return str(error.get("type"))[:100]
    return ""


def _retry_after(value: str) -> int:
    """Seconds; a gateway that names none, or hours, gets a guess."""
    return int(value) if value.isascii() and value.isdigit() and int(value) <= 300 else 5


@asynccontextmanager
async def _errors() -> AsyncIterator[None]:
    """Turn the client's errors into problems."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError) as error:
        log.warning("gateway not usable", extra={"cause": type(error).__name__})
        raise _problem(error) from error


def _problem(error: aiohttp.ClientError | TimeoutError) -> Problem:
    """What each exception of aiohttp means; the test goes through all of them."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return GatewayTimeout(
                "The AI gateway can't be reached in time.", code="gateway_connect_timeout"
            )
        case TimeoutError():
            return GatewayTimeout()
        case aiohttp.ClientConnectorError() | aiohttp.InvalidURL():
            return GatewayFailed("The AI gateway can't be reached.", code="gateway_unreachable")
        # The last one: what came was not HTTP.
        case (
            aiohttp.ClientConnectionError()
            | aiohttp.ClientPayloadError()
            | aiohttp.ClientResponseError()
        ):
            return broken_off()
        case _:
            return GatewayFailed()
