"""Limits on sign-ups and failed log-ins, shared by all processes through the database.

An attempt is written down as pending before the password is checked, so that many at once can't
slip past the limit together, and struck out when the password was right: only failures count.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import database_adapter
from server.errors import TooManyRequests
from server.storage.contract import Connection, execute, fetch_one

QUARTER = timedelta(minutes=15)
HOUR = timedelta(hours=1)
# A check takes milliseconds: what is pending for longer belongs to a process that died.
PENDING = timedelta(seconds=20)


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


def begin(kind: Kind, account: str, address: str) -> int | None:
    """Write an attempt down; its id, or None when pending ones must be waited for first.

    Raises `TooManyRequests` with the seconds after which the oldest attempt no longer counts.
    """
    now = datetime.now(UTC)
    who = {"kind": kind, "account": account, "address": address, "now": now}
    with database_adapter.get_db() as conn:
        # Always in this order: two attempts can't wait for each other.
        database_adapter.transaction_lock(conn, f"{kind} address {address}")
        database_adapter.transaction_lock(conn, f"{kind} account {account}")
        free = True
        for limit in LOGIN if kind == "login" else SIGNUP:
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
    """Remove attempts that no limit counts any more."""
    with database_adapter.get_db() as conn:
        execute(conn, "DELETE FROM auth_attempts WHERE at < %s", (datetime.now(UTC) - HOUR,))
