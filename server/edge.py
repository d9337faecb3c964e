"""The outermost layer: request ids, headers of every response, the access log, the last resort."""

import logging
import re
import time
import uuid
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import errors
from server.logs import request_id

log = logging.getLogger("clawd.http")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_DOCS = ("/docs", "/openapi.json")


class StartupFailed(Exception):
    """The service can't start; the message is one line that says why."""


class App(FastAPI):
    """FastAPI inside the edge, which also covers FastAPI's own last error handler.

    Starlette lets an unhandled exception pass on to the server, which then drops the connection
    and with it the client's next request; here it ends as an ordinary 500.
    """

    def build_middleware_stack(self) -> ASGIApp:
        return Edge(super().build_middleware_stack())


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
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            self._add_headers(headers)
            message = {**message, "headers": headers.raw}
            if self._is_foreign_error(headers):
                await self._reshape(headers)
                return
        elif self.reshaped:
            return
        await self.send(message)

    def _add_headers(self, headers: MutableHeaders) -> None:
        headers["X-Request-ID"] = self.id
        for name, value in _SECURITY.items():
            headers[name] = value
        path = self.scope["path"]
        headers.setdefault("Cache-Control", "no-store")
        if path not in _DOCS:
            headers.setdefault(
                "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"
            )

    def _is_foreign_error(self, headers: Headers) -> bool:
        """An error that FastAPI's own middleware wrote, such as its 413 in plain text."""
        kind = headers.get("content-type", "")
        return self.status >= 400 and kind.startswith("text/plain")

    async def _reshape(self, headers: MutableHeaders) -> None:
        self.reshaped = True
        problem = errors.from_http(HTTPException(self.status))
        response = errors.respond(problem)
        response.headers.update(
            {name: value for name, value in headers.items() if not name.startswith("content-")}
        )
        await response(self.scope, _no_body, self.send)

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


async def _no_body() -> Message:
    return {"type": "http.disconnect"}
