"""The same requests on SQLite and on PostgreSQL.

    venv/bin/python -m benchmarks.databases
    venv/bin/python -m benchmarks.databases --rounds 3 --seconds 1

Both at full durability, with their files on the same disk: one uvicorn worker each, one connection
and 16, which write to sessions of their own. Prints requests a second as medians; each ratio says
how many times as fast SQLite is.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks import load
from benchmarks.both import Databases, add_messages, add_projects, count_sessions, settle
from benchmarks.rounds import Request, durable_postgres, in_turns, keep, medians, rate
from tests.service import Api, Service, sign_up

CONNECTIONS = (1, 16)
PROJECTS, MESSAGES = 60, 60
READS = ("page", "projects", "me")
WRITES = ("new_session", "rename", "chat")


def requests(service: Service) -> dict[str, list[Request]]:
    """For each work, what each of 16 connections asks for."""
    api = sign_up(service)
    project_id = add_projects(api, PROJECTS)
    sessions = [api.session(project_id)["id"] for _ in range(max(CONNECTIONS))]
    read = api.session(project_id)["id"]
    add_messages(api, read, MESSAGES)
    settle(service)
    title, token, url = b'{"title": "First questions"}', api.token or "", service.url
    everywhere = {
        "page": load.request(f"{url}/sessions/{read}/messages?limit=50", token),
        "projects": load.request(f"{url}/projects", token),
        "me": load.request(f"{url}/auth/me", token),
        "new_session": load.request(f"{url}/projects/{project_id}/sessions", token, title),
    }
    return {
        **{work: [request] * len(sessions) for work, request in everywhere.items()},
        "rename": [_patch(f"{url}/sessions/{session}", token, title) for session in sessions],
        "chat": [_chat(api, session) for session in sessions],
    }


def _patch(url: str, token: str, body: bytes) -> Request:
    host, port, sent = load.request(url, token, body)
    return host, port, sent.replace(b"POST", b"PATCH", 1)


def _chat(api: Api, session_id: int) -> Request:
    body = b'{"session_id": %d, "message": "Hello!"}' % session_id
    return load.request(f"{api.service.url}/chat", api.token, body)


def creations(service: Service, requests: list[Request], seconds: float) -> float:
    """New sessions a second; raises when one that was answered isn't stored."""
    before = count_sessions(service)
    host, port, _ = requests[0]
    found = load.run(host, port, [[sent] for _, _, sent in requests], seconds)
    # A 201 is not a 200, so the load counts it among the others.
    answered, stored = len(found.took) + found.failed, count_sessions(service) - before
    if answered != stored:
        raise RuntimeError(f"{answered} answers, {stored} sessions")
    return stored / found.seconds


def measures(service: Service, seconds: float) -> dict[tuple[str, int], Callable[[], float]]:
    """What to measure, by the work and the number of connections."""
    asked = requests(service)
    found: dict[tuple[str, int], Callable[[], float]] = {}
    for work in (*READS, *WRITES):
        for connections in CONNECTIONS:
            some = asked[work][:connections]
            found[work, connections] = (
                partial(creations, service, some, seconds)
                if work == "new_session"
                else partial(rate, [[request] for request in some], seconds)
            )
    return found


def sync_ms() -> float:
    """How long the disk takes to keep 4 KB, the middle of 200; a write waits for at least that."""
    took = []
    with tempfile.TemporaryFile() as file:
        for _ in range(200):
            file.write(bytes(4096))
            file.flush()
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - started)
    return round(statistics.median(took) * 1000, 2)


def measure(stack: ExitStack, rounds: int, seconds: float) -> dict[str, Any]:
    """Start everything, and measure in turns."""
    server = stack.enter_context(durable_postgres())
    services = Databases(stack, server).services
    todo = {name: measures(service, seconds) for name, service in services.items()}
    works = list(todo["sqlite"])
    found = in_turns(
        {
            f"{name} {work} {connections}": todo[name][work, connections]
            for work, connections in works
            for name in services
        },
        rounds,
    )
    middle = medians(found)
    ratios: dict[str, dict[str, float]] = {"reads": {}, "writes": {}}
    for work, connections in works:
        kind, name = "reads" if work in READS else "writes", f"{work} {connections}"
        ratios[kind][name] = round(middle[f"sqlite {name}"] / middle[f"postgresql {name}"], 2)
    return {
        "what": "requests a second, by database, work and connections",
        "postgresql": server.version,
        "sync_ms": sync_ms(),
        "medians": middle,
        "ratios": ratios,
        "geometric_means": {
            kind: round(statistics.geometric_mean(of.values()), 2) for kind, of in ratios.items()
        },
        "rounds": found,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    given = parser.parse_args()
    with ExitStack() as stack:
        keep("databases", measure(stack, given.rounds, given.seconds))


if __name__ == "__main__":
    main()
