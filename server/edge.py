"""The outermost layer: request ids, headers of every response, the access log, the last resort."""

import logging
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import errors, metrics
from server.logs import request_id
from server.settings import get_settings

log = logging.getLogger("clawd.http")

# nginx's number for it, only ever in the log.
CLIENT_GONE = 499
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_ABOUT_THE_BODY = ("content-type", "content-length")
_DOCS = ("/docs", "/openapi.json")
# Load balancers and process managers ask just when there is too much to do.
_HEALTH = re.compile(r"/health(/\w+)?", re.ASCII)
# Requests that last as long as an answer takes, and only wait most of the time.
_LONG = re.compile(r"/chat(/[^/]+/stream)?")


class StartupFailed(Exception):
    """The service can't start; the message is one line that says why."""


class App(FastAPI):
    """FastAPI inside the edge, which also covers FastAPI's own last error handler.

    Starlette lets an unhandled exception pass on to the server, which then drops the connection
    and with it the client's next request; here it ends as an ordinary 500.
    """

    outermost: Callable[[ASGIApp], ASGIApp] | None = None
    """What stands right inside the edge, around the answers of every other layer."""
    unlimited: Callable[[ASGIApp], ASGIApp] | None = None
    """What answers before the limits: however much there is to do."""

    def build_middleware_stack(self) -> ASGIApp:
        settings = get_settings()
        limits = Limits(settings.max_requests, settings.max_streams)
        app = limits.around(super().build_middleware_stack())
        if self.unlimited:
            app = self.unlimited(app)
        return Edge(self.outermost(app) if self.outermost else app)


@dataclass
class _Room:
    """How many requests of one kind may be at work at once, and how many are."""

    most: int
    taken: int = 0

    @property
    def full(self) -> bool:
        return self.taken >= self.most


class Limits:
    """Refuses what is too much at once, before any work is done on it.

    A chat counts as a request while its body is read, up to 24 MiB of it, and as a stream after.
    """

    def __init__(self, max_requests: int, max_streams: int) -> None:
        self.requests = _Room(max_requests)
        self.streams = _Room(max_streams)
        metrics.watch_room("requests", lambda: self.requests.taken, max_requests)
        metrics.watch_room("streams", lambda: self.streams.taken, max_streams)

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application, called only as far as there is room."""

        async def limited(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or _HEALTH.fullmatch(scope["path"]):
                await app(scope, receive, send)
                return
            long = _LONG.fullmatch(scope["path"]) is not None
            if self.requests.full or (long and self.streams.full):
                busy = errors.Overloaded("Too many requests at once.", code="overloaded")
                await errors.respond(busy)(scope, receive, send)
                return
            place = _Place(self.requests)

            async def receive_whole() -> Message:
                message = await receive()
                if not message.get("more_body", False):
                    place.move(self.streams)
                return message

            try:
                await app(scope, receive_whole if long else receive, send)
            finally:
                place.leave()

        return limited


class _Place:
    """A request's place in one of the rooms."""

    def __init__(self, room: _Room) -> None:
        self._room = room
        room.taken += 1

    def move(self, room: _Room) -> None:
        self.leave()
        self._room = room
        room.taken += 1

    def leave(self) -> None:
        self._room.taken -= 1


class Edge:
    """Pure ASGI: no task, queue or context of its own between server and application."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(scope, send).run(self.app, receive)
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Report a failing start with its one line, not with a traceback."""
        reason: list[str] = []

        async def send_short(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                reason.append(str(message.get("message", "")).strip().rpartition("\n")[2])
                message = {
                    **message,
                    "message": reason[0].partition("StartupFailed: ")[2]
                    or message.get("message", ""),
                }
            await send(message)

        try:
            await self.app(scope, receive, send_short)
        except StartupFailed:
            if not reason:
                raise


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.send = send
        self.started = time.monotonic()
        self.status = 0
        self.reshaped = False
        asked = Headers(scope=scope).get("x-request-id", "")
        self.id = asked if _REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex[:20]

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        token = request_id.set(self.id)
        try:
            await app(self.scope, receive, self.send_message)
        except ClientDisconnect:
            # Hung up on, or refused, while the body was read: nobody is there to be answered.
            self.status = CLIENT_GONE
            metrics.answered(self.scope["method"], self._route(), CLIENT_GONE, None)
        except Exception as error:
            log.exception("unhandled exception", extra={"kind": type(error).__name__})
            if not self.status:
                await errors.respond(errors.Problem())(self.scope, receive, self.send_message)
        finally:
            self._log()
            request_id.reset(token)

    async def send_message(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            seconds = time.monotonic() - self.started
            metrics.answered(self.scope["method"], self._route(), self.status, seconds)
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            add_headers(headers, self.scope)
            message = {**message, "headers": headers.raw}
            if self._is_foreign_error(headers):
                await self._reshape(headers)
                return
        elif self.reshaped:
            return
        await self.send(message)

    def _is_foreign_error(self, headers: Headers) -> bool:
        """An error that FastAPI's own middleware wrote, such as its 413 in plain text."""
        kind = headers.get("content-type", "")
        return self.status >= 400 and kind.startswith("text/plain")

    async def _reshape(self, headers: MutableHeaders) -> None:
        self.reshaped = True
        problem = errors.from_http(HTTPException(self.status))
        response = errors.respond(problem)
        response.headers.update(
            {name: value for name, value in headers.items() if name not in _ABOUT_THE_BODY}
        )
        await response(self.scope, _no_body, self.send)

    def _route(self) -> str:
        """The template of the path: paths themselves are without number."""
        route: Any = self.scope.get("route")
        return getattr(route, "path", None) or metrics.NO_ROUTE

    def _log(self) -> None:
        route: Any = self.scope.get("route")
        user = self.scope.get("state", {}).get("user_id")
        client = self.scope.get("client")
        log.info(
            "request",
            extra={
                "method": self.scope["method"],
                # The template: paths may hold what a user typed.
                "path": getattr(route, "path", None) or self.scope["path"][:200],
                "status": self.status,
                "ms": round((time.monotonic() - self.started) * 1000, 1),
                "ip": client[0] if client else None,
                "user_id": user,
            },
        )


def add_headers(headers: MutableHeaders, scope: Scope) -> None:
    """Put on what every answer has, whoever wrote it."""
    headers["X-Request-ID"] = request_id.get()
    for name, value in _SECURITY.items():
        headers[name] = value
    headers.setdefault("Cache-Control", "no-store")
    if scope.get("path") not in _DOCS:
        headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    # uvicorn takes the scheme from X-Forwarded-Proto if TRUSTED_PROXIES names the sender.
    if scope.get("scheme") == "https":
        headers["Strict-Transport-Security"] = "max-age=31536000"


async def _no_body() -> Message:
    return {"type": "http.disconnect"}
