"""Two processes of the service beside one, on this machine's cores.

    venv/bin/python -m benchmarks.workers
    venv/bin/python -m benchmarks.workers --rounds 9 --seconds 3

Reading the last 50 messages of a session as `benchmarks.page` does it: 16 connections, PostgreSQL
at default durability. The two share a port, as under PM2. PostgreSQL and whoever asks are on the
same cores, so three readings are printed, and the processor's time that each part takes:

two_processes   answers a second beside those of one process, as measured; has the target
possible        the most that it could be here: all cores busy with answers, each of which takes
                of the processor what it took of all three parts, beside one process as measured
own_cores       what it would be with a core for each process, PostgreSQL and the clients elsewhere
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks import load
from benchmarks.page import CONNECTIONS, fill
from benchmarks.rounds import durable_postgres, figures_in_turns, keep
from tests import postgres
from tests.service import Service, free_port, sign_up

PARTS = ("service", "postgresql", "clients")


def processes(stack: ExitStack, count: int, master: dict[str, str], folder: Path) -> list[Service]:
    """So many processes of the service, on one port."""
    settings = {**master, "PORT": str(free_port()), "SHARE_PORT": "true"}
    return [stack.enter_context(Service(settings, folder)) for _ in range(count)]


def processor(services: Sequence[Service], postmaster: psutil.Process) -> dict[str, float]:
    """Seconds of the processor that each part has taken so far, and that nobody took."""
    serving = [psutil.Process(each.process.pid) for each in services if each.process]
    serving_database = [postmaster, *postmaster.children()]
    return {
        "service": sum(_seconds(each) for each in serving),
        "busiest_process": max(_seconds(each) for each in serving),
        "postgresql": sum(_seconds(each) for each in serving_database),
        "clients": time.process_time(),
        "idle": psutil.cpu_times().idle,
    }


def _seconds(process: psutil.Process) -> float:
    """Its own and those of its children that have ended."""
    return float(sum(process.cpu_times()[:4]))


def run(
    services: Sequence[Service], postmaster: psutil.Process, request: bytes, seconds: float
) -> dict[str, float]:
    """Ask for a while: answers a second, cores in use by each part, microseconds an answer."""
    before = processor(services, postmaster)
    found = load.run("127.0.0.1", services[0].port, [[request]] * CONNECTIONS, seconds)
    after = processor(services, postmaster)
    if found.failed:
        raise RuntimeError(f"{found.failed} requests failed")
    used = {part: after[part] - before[part] for part in before}
    cores = {f"cores_{part}": value / found.seconds for part, value in used.items()}
    accounted = sum(cores[f"cores_{part}"] for part in (*PARTS, "idle"))
    return {
        "rate": found.rate,
        **cores,
        "cores_others": (os.cpu_count() or 1) - accounted,
        **{f"us_{part}": used[part] / len(found.took) * 1e6 for part in PARTS},
    }


def readings(one: dict[str, float], two: dict[str, float], cores: int) -> dict[str, float]:
    """The three readings that the module's docstring explains."""
    everything = sum(two[f"us_{part}"] for part in PARTS)
    return {
        "two_processes": round(two["rate"] / one["rate"], 2),
        "possible": round(cores * 1e6 / everything / one["rate"], 2),
        "own_cores": round(2 * one["us_service"] / two["us_service"], 2),
    }


def measure(stack: ExitStack, rounds: int, seconds: float) -> dict[str, Any]:
    """Start one process, and two beside it; ask them in turns."""
    server = stack.enter_context(durable_postgres())
    postmaster = psutil.Process(int((server.data_dir / "postmaster.pid").read_text().split()[0]))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    master = postgres.create_master(server)
    groups = {name: processes(stack, n, master, folder) for name, n in (("one", 1), ("two", 2))}
    api = sign_up(groups["one"][0])
    path = f"/sessions/{fill(api, master)}/messages?limit=50"
    todo = {}
    for name, services in groups.items():
        _, _, request = load.request(services[0].url + path, api.token)
        todo[name] = partial(run, services, postmaster, request, seconds)
    middle = figures_in_turns(todo, rounds)
    return {
        "what": "GET /sessions/{id}/messages?limit=50: answers a second (rate), cores in use by "
        "each part, by whatever else runs (others) and by nobody (idle), microseconds of the "
        "processor for an answer. ratios: two_processes is measured; possible, the most that these "
        "cores allow with PostgreSQL and the clients on them; own_cores, with a core for each "
        "process and the rest elsewhere: both by the processor's time",
        "postgresql": server.version,
        "ratios": readings(middle["one"], middle["two"], os.cpu_count() or 1),
        "medians": middle,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2)
    given = parser.parse_args()
    with ExitStack() as stack:
        keep("workers", measure(stack, given.rounds, given.seconds))


if __name__ == "__main__":
    main()
