"""The service from outside: what its process, its health and its database show over time."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.service import Service
from tests.sql import Sql

MIB = 1024 * 1024
PATIENCE = 30.0
_PG_CONNECTIONS = """
SELECT count(*) AS connections,
       coalesce(max(extract(epoch FROM clock_timestamp() - state_change))
                FILTER (WHERE state LIKE 'idle in transaction%'), 0)::float8 AS idle_in_transaction
FROM pg_stat_activity
WHERE usename = current_user AND pid <> pg_backend_pid()
"""


@dataclass(frozen=True)
class Sample:
    """One look; times in seconds."""

    at: float
    cpu: float
    memory_mib: float
    fds: int
    threads: int
    running: int
    pool_size: int
    in_use: int
    waiting: int
    connections: int
    idle_in_transaction: float
    wal_mib: float


class Watch:
    """Looks at one service, whose database `sql` reaches."""

    def __init__(self, service: Service, sql: Sql) -> None:
        if service.process is None:
            raise RuntimeError("the service does not run")
        self.samples: list[Sample] = []
        self._process = psutil.Process(service.process.pid)
        self.sql = sql
        self._url = service.url

    async def look(self) -> Sample:
        """What there is now."""
        async with httpx.AsyncClient(base_url=self._url, timeout=30, trust_env=False) as http:
            running = (await http.get("/health/queue")).json()["here"]
            pool = (await http.get("/health/db")).json()["pool"]
        connections, idle = await asyncio.to_thread(self._connections)
        with self._process.oneshot():
            times = self._process.cpu_times()
            return Sample(
                at=time.monotonic(),
                cpu=times.user + times.system,
                memory_mib=self._process.memory_info().rss / MIB,
                fds=self._process.num_fds(),
                threads=self._process.num_threads(),
                running=running,
                pool_size=pool["size"],
                in_use=pool["in_use"],
                waiting=pool["waiting"],
                connections=connections,
                idle_in_transaction=idle,
                wal_mib=self._wal_mib(),
            )

    async def watch(
        self, seconds: float, every: float, then: Callable[[float], None] | None = None
    ) -> None:
        """Look every so often; `then` hears which part of the time the service was at work."""
        before = await self.look()
        while seconds > 0:
            await asyncio.sleep(min(every, seconds))
            now = await self.look()
            self.samples.append(now)
            seconds -= now.at - before.at
            if then is not None:
                then((now.cpu - before.cpu) / (now.at - before.at))
            before = now

    async def look_at_rest(self, settle: float) -> Sample:
        """What there is once nothing runs any more, and `settle` seconds later."""
        await self._quiet()
        await asyncio.sleep(settle)
        # The service's client closes what the gateway has closed when it asks the next time.
        async with httpx.AsyncClient(base_url=self._url, timeout=30, trust_env=False) as http:
            await http.get("/health/gateway")
        return await self._quiet()

    async def _quiet(self) -> Sample:
        """The first look at which nothing runs, or the last one if that takes too long.

        The service's own heart beats every two seconds, and takes a connection for that.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            now = await self.look()
            if not (now.running or now.in_use) or now.at > deadline:
                return now
            await asyncio.sleep(0.1)

    def _connections(self) -> tuple[int, float]:
        """The service's connections to PostgreSQL, and how long one idles in a transaction."""
        if not self.sql.postgres:
            return 0, 0.0
        (row,) = self.sql.rows(_PG_CONNECTIONS)
        return row["connections"], row["idle_in_transaction"]

    def _wal_mib(self) -> float:
        wal = Path(self.sql.settings.get("DB_PATH", "nowhere") + "-wal")
        return wal.stat().st_size / MIB if wal.exists() else 0.0
