"""Every way a request can fail, and the one place where failures become HTTP.

    Problem
    ├── Unauthorized 401        ├── Forbidden 403          ├── NotFound 404
    ├── Conflicting 409         ├── TooLarge 413           ├── Unsupported 415
    ├── Invalid 422             ├── TooManyRequests 429    ├── Internal 500
    ├── GatewayFailed 502       ├── Overloaded 503         └── GatewayTimeout 504

The body is `application/problem+json` (RFC 9457) with members of our own: `success`, `error`,
`code`, `request_id`, and what the case adds.
"""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from server.logs import request_id
from server.storage import contract
from server.storage.names import Refused

log = logging.getLogger("clawd.errors")

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """A failure that the client is told of."""

    status = 500
    code = "internal_error"
    detail = "The service failed. The log has the reason under this request_id."

    def __init__(
        self,
        detail: str | None = None,
        *,
        code: str | None = None,
        retry_after: int | None = None,
        **members: Any,
    ) -> None:
        self.detail = detail or self.detail
        self.code = code or self.code
        self.members = members
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, retry_after))
        super().__init__(self.detail)

    def body(self) -> dict[str, Any]:
        """The problem as JSON."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "success": False,
            "error": self.detail,
            "code": self.code,
            "request_id": request_id.get(),
            **self.members,
        }


class BadRequest(Problem):
    """The request could not be read."""

    status = 400
    code = "bad_request"
    detail = "The request could not be read."


class Unauthorized(Problem):
    """There is no valid token."""

    status = 401
    code = "invalid_token"
    detail = "Not authenticated."

    def __init__(self, detail: str | None = None, **members: Any) -> None:
        super().__init__(detail, **members)
        self.headers["WWW-Authenticate"] = "Bearer"


class Forbidden(Problem):
    """It is the caller's own, but may not be done."""

    status = 403
    code = "forbidden"
    detail = "This is not allowed."


class NotFound(Problem):
    """It doesn't exist, or belongs to somebody else: the answer is the same."""

    status = 404
    code = "not_found"
    detail = "Not found."


class Conflicting(Problem):
    """The state of things doesn't allow it now."""

    status = 409
    code = "conflict"
    detail = "This conflicts with the present state."


class TooLarge(Problem):
    """The body, or an image in it, is larger than allowed."""

    status = 413
    code = "too_large"
    detail = "The request is too large."


class Unsupported(Problem):
    """A media type that the service doesn't take."""

    status = 415
    code = "unsupported_media_type"
    detail = "This media type is not supported."


class Invalid(Problem):
    """A value is not what it must be."""

    status = 422
    code = "invalid"
    detail = "The request is not valid."

    def __init__(
        self,
        detail: str | None = None,
        *,
        loc: Sequence[str | int] = (),
        code: str | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail, code=code, **members)
        self.members.setdefault(
            "errors", [{"loc": list(loc), "msg": self.detail, "type": self.code}]
        )


class TooManyRequests(Problem):
    """A limit on attempts is reached."""

    status = 429
    code = "too_many_requests"
    detail = "Too many attempts. Try again later."


class GatewayFailed(Problem):
    """The gateway was not reached, broke off, or answered nonsense or an error."""

    status = 502
    code = "gateway_error"
    detail = "The AI gateway failed."


class Overloaded(Problem):
    """A part of the service is away or busy; `Retry-After` says when to come again."""

    status = 503
    code = "unavailable"
    detail = "The service is not available at the moment."

    def __init__(
        self, detail: str | None = None, *, retry_after: int | None = None, **members: Any
    ) -> None:
        super().__init__(detail, retry_after=retry_after or 1, **members)


class GatewayTimeout(Problem):
    """The gateway took too long."""

    status = 504
    code = "gateway_timeout"
    detail = "The AI gateway did not answer in time."


class StorageFull(Problem):
    """The disk is full; what is stored can still be read."""

    status = 507
    code = "storage_full"
    detail = "The disk is full. Nothing was changed."


KINDS: tuple[type[Problem], ...] = (
    Problem,
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    Conflicting,
    TooLarge,
    Unsupported,
    Invalid,
    TooManyRequests,
    GatewayFailed,
    Overloaded,
    GatewayTimeout,
    StorageFull,
)


class ProblemBody(BaseModel):
    """A failure (RFC 9457), with this service's members."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["Not found."])
    success: bool = Field(examples=[False])
    error: str = Field(examples=["Not found."], description="The same text as `detail`.")
    code: str = Field(examples=["not_found"], description="A stable word for programs.")
    request_id: str = Field(examples=["3f0c5d6a9b1e4c7f8a2d"])


def from_database(error: contract.DatabaseError) -> Problem:
    """The problem that a failing database means for a request."""
    match error:
        case contract.OutcomeUnknown():
            return Overloaded(
                "The connection to the database broke. Whether the change was made is not known.",
                code="outcome_unknown",
            )
        case contract.Unavailable():
            return Overloaded("The database is not available.", code="database_unavailable")
        case contract.Misconfigured():
            return Overloaded("The database is not available.", code="database_unavailable")
        case contract.Busy():
            return Overloaded("The database is busy.", code="database_busy")
        case contract.ReadOnly():
            return Overloaded("The database can't be written now.", code="database_readonly")
        case contract.StorageFull():
            return StorageFull()
        case contract.BadValue():
            return Invalid("A value is out of range.", code="out_of_range")
        case contract.Conflict():
            return Conflicting("This conflicts with what is stored.")
        case contract.DatabaseExists():
            return Conflicting("A database of that name already exists.", code="database_exists")
        case Refused():
            return Forbidden(error.reason, code="refused_by_guard", force_required=False)
        case _:
            return Problem()


def from_validation(error: RequestValidationError) -> Problem:
    """422 that says where and why, and never repeats what was sent."""
    errors = [
        {"loc": list(item["loc"]), "msg": item["msg"], "type": item["type"]}
        for item in error.errors()
    ]
    first = errors[0] if errors else {"loc": [], "msg": "The request is not valid."}
    where = ".".join(str(part) for part in first["loc"][1:])
    detail = f"{where}: {first['msg']}" if where else str(first["msg"])
    return Invalid(detail, errors=errors)


_BY_STATUS = {kind.status: kind for kind in (Problem, BadRequest, Unauthorized, NotFound, TooLarge)}


def from_http(error: HTTPException) -> Problem:
    """The same shape for what FastAPI and Starlette raise themselves."""
    problem: Problem
    if kind := _BY_STATUS.get(error.status_code):
        problem = kind()
    else:
        problem = Problem(str(error.detail), code=_word(error.status_code))
        problem.status = error.status_code
    problem.headers.update(error.headers or {})
    return problem


def _word(status: int) -> str:
    return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")


def to_problem(error: Exception) -> Problem:
    """The problem that an exception means for the client."""
    match error:
        case Problem():
            return error
        case contract.DatabaseError():
            return from_database(error)
        case RequestValidationError():
            return from_validation(error)
        case HTTPException():
            return from_http(error)
        case _:
            return Problem()


def respond(problem: Problem) -> JSONResponse:
    """The problem as a response."""
    return JSONResponse(
        problem.body(), problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def _allowed(request: Request) -> str:
    """Every method of the path: Starlette names those of the first route that fits."""
    scopes = {method: {**request.scope, "method": method} for method in METHODS}
    return ", ".join(
        method
        for method, scope in scopes.items()
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    )


async def _handle(request: Request, error: Exception) -> JSONResponse:
    problem = to_problem(error)
    if problem.status == 405:
        problem.headers["Allow"] = _allowed(request)
    if problem.status >= 500:
        cause = f"{type(error).__name__}: {error}"
        bug = error if problem.status == 500 else None
        log.error("request failed", extra={"code": problem.code, "cause": cause}, exc_info=bug)
    return respond(problem)


def install(app: FastAPI) -> None:
    """Make every failure of the app answer with a problem."""
    for kind in (Problem, contract.DatabaseError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _handle)


_ALWAYS = (500, 503, 507)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: the failures that it declares, each with an example.

    Every route that uses the database can also answer 500, 503 and 507.
    """
    return {
        kind.status: {
            "model": ProblemBody,
            "description": (kind.__doc__ or "").strip(),
            "content": {MEDIA_TYPE: {"example": _example(kind)}},
        }
        for kind in KINDS
        if kind.status in (*statuses, *_ALWAYS)
    }


def _example(kind: type[Problem]) -> Mapping[str, Any]:
    return {**kind().body(), "request_id": "3f0c5d6a9b1e4c7f8a2d"}
