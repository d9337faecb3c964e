"""Signs of life of each part, none of which may hang."""

import time
from collections.abc import Callable
from typing import Any, Literal

import anyio
import anyio.to_thread
from anyio import CapacityLimiter
from pydantic import BaseModel, ConfigDict

import database_adapter
from server.chat.gateway import Gateway
from server.errors import Problem
from server.storage.contract import DatabaseError

SECONDS = 1.5


class Part(BaseModel):
    """The state of one part."""

    model_config = ConfigDict(extra="allow")

    status: Literal["ok", "error"]


class Checks:
    """The checks of this process; they have threads of their own, which requests can't use up."""

    def __init__(self) -> None:
        self._limiter = CapacityLimiter(4)

    async def database(self) -> Part:
        """A round trip to the master database, with its latency and the pool's numbers."""
        started = time.monotonic()
        try:
            await self._in_time(database_adapter.ping)
        except (DatabaseError, TimeoutError) as error:
            return Part(status="error", reason=_reason(error))
        latency = round((time.monotonic() - started) * 1000, 1)
        return Part(status="ok", latency_ms=latency, pool=database_adapter.pool_stats())

    async def gateway(self, gateway: Gateway) -> Part:
        """Whether the gateway can take requests."""
        try:
            with anyio.fail_after(SECONDS):
                await gateway.probe()
        except Problem as problem:
            return Part(status="error", kind=gateway.kind, reason=problem.detail)
        except TimeoutError as error:
            return Part(status="error", kind=gateway.kind, reason=_reason(error))
        return Part(status="ok", kind=gateway.kind, model=gateway.model)

    async def _in_time(self, check: Callable[[], Any]) -> None:
        with anyio.fail_after(SECONDS):
            await anyio.to_thread.run_sync(check, limiter=self._limiter, abandon_on_cancel=True)


def _reason(error: Exception) -> str:
    return f"no answer within {SECONDS:g} s" if isinstance(error, TimeoutError) else _short(error)


def _short(error: Exception) -> str:
    """The kind of failure: its text may name hosts, roles and paths."""
    words = {"Unavailable": "unavailable", "Busy": "busy", "ReadOnly": "read-only"}
    return words.get(type(error).__name__, "unavailable")
