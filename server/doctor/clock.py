"""Checks of the clock."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import database_adapter
from server.doctor import queries
from server.doctor.finding import Finding, warning, well
from server.doctor.gateway import opened
from server.errors import Problem
from server.settings import Settings

SKEW_SECONDS = 5.0  # a Date has whole seconds

Now = Callable[[], datetime]


def against_database(now: Now) -> Finding:
    """How far PostgreSQL's clock is from ours."""
    with database_adapter.peek_db() as conn:
        before = now()
        theirs = queries.read_clock(conn)["now"]
        return _compare("PostgreSQL's", theirs, before + (now() - before) / 2)


def against_gateway(settings: Settings, now: Now) -> Finding:
    """How far the gateway's is, where it tells."""
    date = ""
    with suppress(Problem):  # that it doesn't answer is another check's
        date = asyncio.run(_date(settings))
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return well("the gateway doesn't tell the time")
    return _compare("the gateway's", theirs.replace(tzinfo=theirs.tzinfo or UTC), now())


async def _date(settings: Settings) -> str:
    async with opened(settings) as gateway:
        # Without a look at the token: a gateway locks those out who come with a wrong one.
        _, date = await gateway.ask("/readyz")
        return date


def _compare(whose: str, theirs: datetime, ours: datetime) -> Finding:
    skew = (theirs - ours).total_seconds()
    detail = f"{whose} clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} ours"
    if abs(skew) <= SKEW_SECONDS:
        return well(detail)
    return warning(detail, "let both machines keep the time: sudo timedatectl set-ntp true")
