"""The first page of a session with 100,000 messages and of a user with 10,000 projects.

    venv/bin/python -m benchmarks.large
    venv/bin/python -m benchmarks.large --rounds 3 --seconds 1

Beside a session with 60 messages and a user with 60 projects in the same master, on PostgreSQL at
default durability and on SQLite; one uvicorn worker each, 16 connections. Prints requests a second
as medians; each ratio says how many times as fast the small one is.
"""

import argparse
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.both import Databases, add_messages, add_projects, settle
from benchmarks.page import rate
from benchmarks.rounds import durable_postgres, in_turns, keep, medians
from tests.service import Service, sign_up

SMALL = 60
LARGE = {"session": 100_000, "projects": 10_000}


def fill(service: Service) -> dict[str, tuple[str, str]]:
    """URL and token of each page. The small ones are older: what is newest is found soonest."""
    found = {}
    for size in ("small", "large"):
        api = sign_up(service)
        many = LARGE if size == "large" else dict.fromkeys(LARGE, SMALL)
        project_id = add_projects(api, many["projects"])
        session_id = api.session(project_id)["id"]
        add_messages(api, session_id, many["session"])
        token = api.token or ""
        found[f"session {size}"] = f"{service.url}/sessions/{session_id}/messages?limit=50", token
        found[f"projects {size}"] = f"{service.url}/projects", token
    settle(service)
    return found


def measure(stack: ExitStack, rounds: int, seconds: float) -> dict[str, Any]:
    """Start everything, and measure in turns."""
    server = stack.enter_context(durable_postgres())
    services = Databases(stack, server).services
    pages = {name: fill(service) for name, service in services.items()}
    found = in_turns(
        {
            f"{name} {work} {size}": partial(rate, *pages[name][f"{work} {size}"], seconds)
            for name in services
            for work in LARGE
            for size in ("small", "large")
        },
        rounds,
    )
    middle = medians(found)
    return {
        "what": "first pages, requests a second",
        "postgresql": server.version,
        "small": SMALL,
        "large": LARGE,
        "medians": middle,
        "ratios": {
            name: {
                work: round(middle[f"{name} {work} small"] / middle[f"{name} {work} large"], 2)
                for work in LARGE
            }
            for name in services
        },
        "rounds": found,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5)
    given = parser.parse_args()
    with ExitStack() as stack:
        keep("large", measure(stack, given.rounds, given.seconds))


if __name__ == "__main__":
    main()
