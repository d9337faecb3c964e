"""Many users on one service, in which nothing may grow meanwhile: what `scripts/soak` runs."""

import argparse
import asyncio
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests import postgres
from tests.conftest import BACKENDS, GATEWAY_TOKEN
from tests.fuzz.run import new_master
from tests.gateway import GatewayStub
from tests.service import Service
from tests.soak.load import Load
from tests.soak.verdict import Finding, complaints, read_log, table
from tests.soak.watch import Sample, Watch
from tests.sql import Sql

USERS = 32
SEED = 1
LONGEST_WARM_UP = 300.0
EVERY = 3.0
# Connections are closed when they were idle for five seconds, threads for ten.
SETTLE = 12.0
POOL = 20


def soak(backend: str, seconds: float, *, users: int = USERS, settle: float = SETTLE) -> Finding:
    """Let users work on a fresh service for so long, and see what becomes of it.

    The first quarter, at most five minutes, is the warm-up, in which the pace is found, too.
    """
    with ExitStack() as stack:
        gateway = stack.enter_context(GatewayStub(token=GATEWAY_TOKEN))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        server = postgres.Server(postgres.find_binaries()[-1])
        if backend == "postgresql":
            stack.enter_context(server)
        settings = {
            **new_master(backend, server, folder),
            "DB_POOL_MAX": str(POOL),
            # Each user has an address, so that limits on log-ins are at work without mixing them.
            "TRUSTED_PROXIES": "127.0.0.1",
            "OPENCLAW_URL": gateway.url,
            "OPENCLAW_TOKEN": GATEWAY_TOKEN,
            "GATEWAY_FIRST_TIMEOUT": "2",
            "GATEWAY_IDLE_TIMEOUT": "2",
            "GATEWAY_TOTAL_TIMEOUT": "6",
        }
        service = stack.enter_context(Service(settings, folder))
        load, watch = Load(service.url, users, SEED), Watch(service, Sql(settings))
        warm, end = asyncio.run(_observe(load, watch, seconds, settle))
        return Finding(
            backend=backend,
            users=users,
            pool=POOL,
            samples=watch.samples,
            warm=warm,
            end=end,
            heard=load.statuses,
            events=load.events,
            wrong=load.wrong,
            logged=read_log(service.log),
            messages=len(load.ledger.kept()),
            streaming_rows=watch.sql.count("messages", status="streaming"),
            differences=load.ledger.differences(watch.sql),
        )


async def _observe(
    load: Load, watch: Watch, seconds: float, settle: float
) -> tuple[Sample, Sample]:
    """The load with two rests, after the warm-up and at the end, and what was seen in them."""
    warm_up, every = min(seconds / 4, LONGEST_WARM_UP), min(EVERY, seconds / 20)
    async with load:
        await watch.watch(warm_up, every, load.adapt)
        await load.rest()
        warm = await watch.look_at_rest(settle)
        watch.samples.clear()
        load.go_on()
        await watch.watch(seconds - warm_up, every)
        await load.rest()
        return warm, await watch.look_at_rest(settle)


def main() -> None:
    """Soak one database after the other, print the figures; ends with 1 if one is wrong."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("minutes", type=float, help="of all databases together")
    parser.add_argument("--backend", choices=BACKENDS, action="append", help="both unless given")
    wanted = parser.parse_args()
    backends = wanted.backend or BACKENDS
    findings = []
    for backend in backends:
        minutes = wanted.minutes / len(backends)
        print(f"{backend}: {minutes:g} minutes", file=sys.stderr, flush=True)
        findings.append(soak(backend, 60 * minutes))
    print(table(findings))
    wrong = [f"{found.backend}: {one}" for found in findings for one in complaints(found)]
    if wrong:
        sys.exit("\n".join(["", *wrong]))


if __name__ == "__main__":
    main()
