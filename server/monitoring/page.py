"""The page /metrics: every number of the instance, for whoever may read it.

To all others it is a path like any that doesn't exist. It answers whatever there is to do and
whatever is broken, within two seconds.
"""

import asyncio
import os
from dataclasses import dataclass

from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import database_adapter
from server import metrics
from server.health.checks import Checks
from server.monitoring import families
from server.monitoring.access import may_read
from server.monitoring.measured import Measured
from server.monitoring.processes import Processes
from server.settings import Settings, get_settings
from server.version import VERSION, commit


class Monitor:
    """What a scrape asks: this process, the others, the database and the disks."""

    def __init__(self, settings: Settings, checks: Checks) -> None:
        self._settings = settings
        self._checks = checks
        self._process = str(os.getpid())
        # Now: a checkout that is updated while the process runs has another one.
        self._build = {"version": VERSION, "commit": commit() or ""}
        self._measured = Measured(settings)
        self._processes = Processes(settings, self._read)
        metrics.watch_pool(database_adapter.pool_stats)

    def open(self) -> None:
        """Give the other processes this one's numbers."""
        self._processes.open()

    def close(self) -> None:
        """No longer."""
        self._processes.close()

    async def scrape(self) -> bytes:
        """All numbers, as text."""
        own, others, measured, database = await asyncio.gather(
            asyncio.to_thread(self._read),
            self._processes.ask_others(),
            self._measured.families(),
            self._database(),
        )
        silent = [other for other in others if isinstance(other, str)]
        answered = [other for other in others if not isinstance(other, str)]
        several = [own, *answered, self._about(silent), measured, database]
        return await asyncio.to_thread(families.text, several)

    def _read(self) -> list[Metric]:
        return [
            *families.of_process(metrics.REGISTRY, self._process),
            _process_up({self._process: True}),
        ]

    def _about(self, silent: list[str]) -> list[Metric]:
        info = InfoMetricFamily("clawd_build", "What answered this scrape.")
        info.add_metric([], {**self._build, "backend": self._settings.backend_choice[0]})
        return [info, _process_up(dict.fromkeys(silent, False))]

    async def _database(self) -> list[Metric]:
        part = (await self._checks.database()).model_dump()
        up = GaugeMetricFamily("clawd_database_up", "1 where the master database answers, else 0.")
        up.add_metric([], float(part["status"] == "ok"))
        seconds = GaugeMetricFamily(
            "clawd_database_ping_seconds", "How long it took; absent while it doesn't answer."
        )
        if "latency_ms" in part:
            seconds.add_metric([], part["latency_ms"] / 1000)
        return [up, seconds]


def _process_up(processes: dict[str, bool]) -> Metric:
    up = GaugeMetricFamily(
        "clawd_process_up",
        "The processes of this instance; 0: it didn't say its numbers in time.",
        labels=["process"],
    )
    for process, answers in processes.items():
        up.add_metric([process], float(answers))
    return up


@dataclass(frozen=True)
class _Route:
    path: str


def around(app: ASGIApp) -> ASGIApp:
    """The application, with the page before it."""

    async def paged(scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["path"] == metrics.PATH
        if not asked or scope["method"] not in ("GET", "HEAD") or not _may(scope):
            await app(scope, receive, send)
            return
        # For the log; what is scraped is not counted.
        scope["route"] = _Route(metrics.PATH)
        monitor: Monitor = scope["app"].state.monitor
        response = Response(await monitor.scrape(), media_type=families.MEDIA_TYPE)
        await response(scope, receive, send)

    return paged


def _may(scope: Scope) -> bool:
    client = scope.get("client")
    address = client[0] if client else None
    return may_read(get_settings(), address, scope["http_version"], Headers(scope=scope))
