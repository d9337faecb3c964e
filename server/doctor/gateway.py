"""Checks of the AI gateway."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from urllib.parse import urlsplit

from server.chat.openclaw import HttpGateway
from server.doctor.finding import Finding, problem, warning, well
from server.errors import Problem
from server.settings import Settings


def reach(settings: Settings) -> Finding:
    """Whether it takes requests, and knows our token."""
    if settings.openclaw_url is None:
        return well("none is set: the built-in echo answers, which production refuses")
    try:
        status = asyncio.run(_knock(settings))
    except Problem as error:
        return problem(
            f"{settings.openclaw_url}: {error.detail}",
            f"start the gateway (docs/openclaw.md), or set OPENCLAW_URL right; "
            f"curl {settings.openclaw_url}/readyz asks it",
        )
    if status >= 500:
        return problem(
            f"{settings.openclaw_url} answers {status}", "look into the gateway's own log"
        )
    if status in (401, 403):
        return problem(
            f"{settings.openclaw_url} refuses OPENCLAW_TOKEN",
            "set OPENCLAW_TOKEN to the gateway's token, and restart the service",
        )
    return well(f"{settings.openclaw_url} answers")


async def _knock(settings: Settings) -> int:
    """The status of an answer that needs the token; raises `Problem` unless it is ready."""
    async with opened(settings) as gateway:
        await gateway.probe()
        status, _ = await gateway.ask("/v1/models")
        return status


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[HttpGateway]:
    """The gateway, to be asked."""
    gateway = HttpGateway(settings)
    try:
        yield gateway
    finally:
        await gateway.close()


def safety(settings: Settings) -> Finding:
    """Whether others could read what is sent to it, or use it."""
    if settings.openclaw_url is None:
        return well("nothing leaves this process")
    parts = urlsplit(settings.openclaw_url)
    if parts.scheme != "https" and not _is_here(parts.hostname or ""):
        return warning(
            f"{settings.openclaw_url} is plain HTTP to another machine: token and conversations "
            "can be read on the way",
            "set OPENCLAW_URL to https://, or reach the gateway through a tunnel on 127.0.0.1",
        )
    if settings.openclaw_token is None:
        return warning(
            "OPENCLAW_TOKEN is not set: whoever reaches the gateway may use it",
            "give the gateway a token (docs/openclaw.md), and set it as OPENCLAW_TOKEN",
        )
    return well("what is sent to it can't be read on the way, and it wants a token")


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
