"""Limits on sign-ups and failed log-ins, shared by all processes through the database.

An attempt is written down as pending before the password is checked, so that many at once can't
slip past the limit together, and struck out when the password was right: only failures count.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

import database_adapter
from server.auth import queries
from server.errors import Overloaded, TooManyRequests
from server.storage.contract import Connection, execute, fetch_one

QUARTER = timedelta(minutes=15)
HOUR = timedelta(hours=1)
# A check takes milliseconds: what is pending for longer belongs to a process that died.
PENDING = timedelta(seconds=20)
MAX_WAITING = 100
# Seconds; the first pause grows to the longest by half at a time.
PATIENCE = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.25
BATCH = 5000


@dataclass(frozen=True)
class Limit:
    """At most `most` attempts within `window`, counted by account, by address or by both."""

    most: int
    window: timedelta
    by_account: bool
    by_address: bool

    def where(self) -> str:
        """The condition that finds the attempts counted together."""
        conditions = ["kind = %(kind)s", "at > %(since)s"]
        if self.by_account:
            conditions.append("account = %(account)s")
        if self.by_address:
            conditions.append("address = %(address)s")
        return " AND ".join(conditions)


LOGIN = (
    Limit(10, QUARTER, by_account=True, by_address=True),
    Limit(100, HOUR, by_account=True, by_address=False),
    Limit(100, QUARTER, by_account=False, by_address=True),
)
SIGNUP = (
    Limit(60, timedelta(minutes=1), by_account=False, by_address=True),
    Limit(600, HOUR, by_account=False, by_address=True),
)
Kind = Literal["login", "signup"]


class Queue:
    """Where the attempts of one process wait for the database, apart from all other requests.

    Many attempts on one account wait for each other's locks: in the threads that serve every
    request they would leave none to the others.
    """

    def __init__(self) -> None:
        self._limiter = CapacityLimiter(4)
        self._waiting = 0

    async def begin(self, kind: Kind, account: str, address: str) -> int:
        """Write an attempt down, once there is room for it; its id.

        Raises `TooManyRequests`, and `Overloaded` when too many wait or it takes too long.
        """
        async with self._place():
            pause, deadline = FIRST_PAUSE, time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                attempt = await anyio.to_thread.run_sync(
                    begin, kind, account, address, limiter=self._limiter
                )
                if attempt is not None:
                    return attempt
                await anyio.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE)
        raise _busy()

    async def end(self, attempt: int, *, failed: bool) -> None:
        """Say how a pending attempt ended."""
        await anyio.to_thread.run_sync(partial(end, attempt, failed=failed), limiter=self._limiter)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._waiting >= MAX_WAITING:
            raise _busy()
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1


def _busy() -> Overloaded:
    return Overloaded("Too many log-ins at once.", code="login_busy", retry_after=2)


def begin(kind: Kind, account: str, address: str) -> int | None:
    """Write an attempt down; its id, or None when pending ones must be waited for first.

    Raises `TooManyRequests` with the seconds after which the oldest attempt no longer counts.
    """
    now = datetime.now(UTC)
    limits = LOGIN if kind == "login" else SIGNUP
    who = {"kind": kind, "account": account, "address": address, "now": now}
    with database_adapter.get_db() as conn:
        # Always in this order: two attempts can't wait for each other.
        if any(limit.by_address for limit in limits):
            database_adapter.transaction_lock(conn, f"{kind} address {address}")
        if any(limit.by_account for limit in limits):
            database_adapter.transaction_lock(conn, f"{kind} account {account}")
        free = True
        for limit in limits:
            free &= _check(conn, limit, who, now)
        if not free:
            return None
        row = fetch_one(
            conn,
            """
            INSERT INTO auth_attempts (kind, account, address, pending, at)
            VALUES (%(kind)s, %(account)s, %(address)s, %(pending)s, %(now)s)
            RETURNING id
            """,
            {**who, "pending": kind == "login"},
        )
        return row["id"] if row else None


def _check(conn: Connection, limit: Limit, who: dict[str, object], now: datetime) -> bool:
    """Whether there is room; raises when failures alone have filled the limit."""
    row = fetch_one(
        conn,
        f"""
        SELECT count(*) AS attempts, min(at) AS oldest,
            sum(CASE WHEN pending THEN 1 ELSE 0 END) AS pending
        FROM auth_attempts
        WHERE {limit.where()} AND (NOT pending OR at > %(alive)s)
        """,
        {**who, "since": now - limit.window, "alive": now - PENDING},
    )
    if row is None or row["attempts"] < limit.most:
        return True
    if row["attempts"] - row["pending"] < limit.most:
        return False
    oldest = row["oldest"]
    started = datetime.fromisoformat(oldest) if isinstance(oldest, str) else oldest
    raise TooManyRequests(retry_after=int((started + limit.window - now).total_seconds()) + 1)


def end(attempt: int, *, failed: bool) -> None:
    """Say how a pending attempt ended: a failure counts from now on, a success never did."""
    with database_adapter.get_db() as conn:
        if failed:
            execute(conn, "UPDATE auth_attempts SET pending = %s WHERE id = %s", (False, attempt))
        else:
            execute(conn, "DELETE FROM auth_attempts WHERE id = %s", (attempt,))


def forget_old() -> None:
    """Remove attempts that no limit counts any more, and tokens that have expired."""
    with database_adapter.get_db() as conn:
        execute(conn, "DELETE FROM auth_attempts WHERE at < %s", (datetime.now(UTC) - HOUR,))
    forget_expired_tokens()


def forget_expired_tokens() -> None:
    """Remove every expired token, a few thousand in a transaction; one process at a time."""
    now, removed = datetime.now(UTC), BATCH
    while removed == BATCH:
        with database_adapter.get_db() as conn:
            database_adapter.transaction_lock(conn, "expired tokens")
            removed = queries.delete_expired_tokens(conn, now, BATCH)
