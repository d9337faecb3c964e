"""What every benchmark does: rivals as processes, rounds in turns, medians and ratios as JSON."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx

from benchmarks import load
from tests import postgres
from tests.service import ROOT, environment, free_port

DURABLE = "fsync = on\nfull_page_writes = on\n"
RESULTS = ROOT / "benchmarks" / "results"
Request = tuple[str, int, bytes]  # host, port, what is sent there: `load.request` makes it


@contextmanager
def durable_postgres() -> Iterator[postgres.Server]:
    """A PostgreSQL 15 where there is one, at default durability, unlike the tests' own."""
    found = postgres.find_binaries()
    binaries = next((path for path in found if path.parent.name == "15"), found[0])
    with postgres.Server(binaries) as server:
        with (server.data_dir / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(DURABLE)
        server.restart()
        yield server


@contextmanager
def rival(module: str, path: str, **settings: str) -> Iterator[str]:
    """A rival under the same uvicorn as the service, one worker; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    quiet = ["--port", str(port), "--no-access-log", "--log-level", "warning"]
    with _process("uvicorn", f"benchmarks.rivals.{module}:app", *quiet, settings=settings):
        _wait(url + path)
        yield url


@contextmanager
def program(module: str, *options: str) -> Iterator[str]:
    """A program of benchmarks/ that serves on the `--port` it is told; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with _process(f"benchmarks.{module}", "--port", str(port), *options):
        _wait(url)
        yield url


@contextmanager
def _process(*arguments: str, settings: Mapping[str, str] | None = None) -> Iterator[None]:
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(settings or {}))
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _wait(url: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            httpx.get(url)
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def dsn(master: Mapping[str, str]) -> str:
    """The master's URL, for rivals."""
    return "postgresql://{DB_USER}:{DB_PASSWORD}@{DB_HOST}:{DB_PORT}/{DB_NAME}".format(**master)


def in_turns(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each measure once a round, after one round that warms up and isn't counted."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            value = measure()
            if number:
                found[name].append(round(value, 3))
                print(f"round {number} of {rounds}: {name} {value:.1f}", file=sys.stderr)
    return found


def medians(rounds: Mapping[str, list[float]]) -> dict[str, float]:
    """The middle of each."""
    return {name: round(statistics.median(values), 2) for name, values in rounds.items()}


def keep(name: str, result: dict[str, Any]) -> None:
    """Print the result and keep it where the README's table is made from."""
    today = datetime.now(UTC).date().isoformat()
    result = {"date": today, "cores": os.cpu_count(), **result}
    text = json.dumps(result, indent=2)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def rate(requests: Sequence[Sequence[Request]], seconds: float) -> float:
    """Answers a second, with a connection for each list of requests; raises when one fails."""
    host, port, _ = requests[0][0]
    found = load.run(host, port, [[sent for _, _, sent in own] for own in requests], seconds)
    if found.failed:
        raise RuntimeError(f"{found.failed} of the requests to port {port} failed")
    return found.rate


def figures_in_turns(
    measures: Mapping[str, Callable[[], Mapping[str, float]]], rounds: int, warm_up: int = 1
) -> dict[str, dict[str, float]]:
    """Like `in_turns`, for measures that find several figures: the middle of each."""
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in measures}
    for number in range(1 - warm_up, rounds + 1):
        for name, measure in measures.items():
            figures = measure()
            if number > 0:
                found[name].append(figures)
                print(f"round {number} of {rounds}: {name} {dict(figures)}", file=sys.stderr)
    return {
        name: medians({figure: [one[figure] for one in ones] for figure in ones[0]})
        for name, ones in found.items()
    }
