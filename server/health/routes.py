"""HTTP of health: for load balancers, process managers and people; needs no token."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

import database_adapter
from server.errors import MEDIA_TYPE, ProblemBody
from server.health.checks import Checks, Part
from server.settings import get_settings
from server.version import VERSION, commit

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The service and its parts."""

    status: str = Field(examples=["ok"])
    backend: str = Field(examples=["sqlite"])
    version: str
    commit: str | None
    uptime_s: float
    database: Part
    gateway: dict[str, Any] = Field(examples=[{"kind": "echo", "model": "echo"}])


_DOWN: dict[int | str, dict[str, Any]] = {
    500: {
        "model": ProblemBody,
        "description": "The service failed.",
        "content": {MEDIA_TYPE: {}},
    },
    503: {"model": Part, "description": "This part is down."},
}
_ALL_DOWN = {**_DOWN, 503: {"model": Health, "description": "The database is away."}}


async def _checks(request: Request) -> Checks:
    checks: Checks = request.app.state.checks
    return checks


CurrentChecks = Annotated[Checks, Depends(_checks)]


def _answer(body: BaseModel, *, ok: bool) -> JSONResponse:
    headers = {} if ok else {"Retry-After": "1"}
    return JSONResponse(body.model_dump(mode="json"), 200 if ok else 503, headers=headers)


@router.head("/health", include_in_schema=False)
@router.get("/health", response_model=Health, responses=_ALL_DOWN)
async def health(request: Request, checks: CurrentChecks) -> JSONResponse:
    """The whole service; 503 when the database is away."""
    state = request.app.state
    database = await checks.database()
    ok = database.status == "ok" and state.ready
    if state.not_ready_because and not ok:
        database = Part.model_validate(
            {**database.model_dump(), "status": "error", "reason": state.not_ready_because}
        )
    gateway = state.chat.generations.gateway
    body = Health(
        status="ok" if ok else "error",
        backend=get_settings().backend_choice[0],
        version=VERSION,
        commit=commit(),
        uptime_s=round(time.monotonic() - state.started, 1),
        database=database,
        gateway={"kind": gateway.kind, "model": gateway.model},
    )
    return _answer(body, ok=ok)


@router.get("/health/live", responses=_DOWN)
async def live() -> Part:
    """The process answers; nothing else is touched."""
    return Part(status="ok")


@router.get("/health/ready", response_model=Part, responses=_DOWN)
async def ready(request: Request, checks: CurrentChecks) -> JSONResponse:
    """Requests can be served: the schema is there and the database answers."""
    part = await checks.database()
    if not request.app.state.ready:
        part = Part(status="error", reason=request.app.state.not_ready_because or "starting")
    return _answer(Part(status=part.status, **_extra(part, "reason")), ok=part.status == "ok")


@router.get("/health/db", response_model=Part, responses=_DOWN)
async def db(checks: CurrentChecks) -> JSONResponse:
    """The database: its latency and the pool's numbers."""
    part = await checks.database()
    if part.status == "error":
        part = Part.model_validate({**part.model_dump(), "pool": database_adapter.pool_stats()})
    return _answer(part, ok=part.status == "ok")


@router.get("/health/queue", response_model=Part, responses=_DOWN)
async def queue(request: Request, checks: CurrentChecks) -> JSONResponse:
    """The answers being generated, by all processes on this database."""
    part = await checks.queue(request.app.state.chat.generations.count)
    return _answer(part, ok=part.status == "ok")


@router.get("/health/gateway", response_model=Part, responses=_DOWN)
async def gateway(request: Request, checks: CurrentChecks) -> JSONResponse:
    """The gateway, asked now."""
    part = await checks.gateway(request.app.state.chat.generations.gateway)
    return _answer(part, ok=part.status == "ok")


def _extra(part: Part, *names: str) -> dict[str, Any]:
    return {name: value for name, value in part.model_dump().items() if name in names}
