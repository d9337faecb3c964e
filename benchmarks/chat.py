"""Chat through a gateway that costs nothing, beside a bare proxy that stores nothing.

    venv/bin/python -m benchmarks.chat              whole answers
    venv/bin/python -m benchmarks.chat --stream     streamed, 40 tokens; and the first of them

One worker, 16 connections with a session each, PostgreSQL at default durability: every question
and every answer is on disk. Prints answers a second as medians, and ratios.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import load
from benchmarks.rounds import durable_postgres, in_turns, keep, medians, program
from tests import postgres
from tests.service import Api, Service, sign_up

CONNECTIONS = 16
SAID = "What is the capital of France, and what is it known for?"
COMPLETIONS = "/v1/chat/completions"
# Between two tokens, where it is measured when the first one comes.
DELAY = 0.02

TOKENS = 40

Ask = Callable[[float, float], load.Load]
"""A load of so many seconds, whose connections begin within so many."""


def asking_service(url: str, api: Api, *, stream: bool) -> Ask:
    """Asks in a session for each connection."""
    project = api.project()["id"]
    sessions = [api.session(project)["id"] for _ in range(CONNECTIONS)]
    bodies = [{"session_id": one, "message": SAID, "stream": stream} for one in sessions]
    return _asking(url + "/chat", api.token, bodies, b"event: delta" if stream else None)


def asking_gateway(url: str, *, stream: bool) -> Ask:
    """Asks a gateway, or what stands before it, as the service does."""
    said = [{"role": "user", "content": SAID}]
    body = {"model": "stub", "user": "bench", "messages": said, "stream": stream}
    return _asking(url + COMPLETIONS, None, [body] * CONNECTIONS, b'"content"' if stream else None)


def _asking(url: str, token: str | None, bodies: list[dict[str, Any]], mark: bytes | None) -> Ask:
    requests = []
    for body in bodies:
        host, port, request = load.request(url, token, json.dumps(body).encode())
        requests.append([request])

    def ask(seconds: float, spread: float) -> load.Load:
        found = load.run(host, port, requests, seconds, mark=mark, spread=spread)
        if found.failed:
            raise RuntimeError(f"{found.failed} requests to {url} failed")
        return found

    return ask


class Stage:
    """PostgreSQL and services before gateways."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.server = stack.enter_context(durable_postgres())
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

    def gateway(self, delay: float = 0) -> str:
        """A gateway's URL."""
        return self._stack.enter_context(
            program("gateway", "--delay", str(delay), "--tokens", str(TOKENS))
        )

    def service(self, gateway: str) -> tuple[str, Api]:
        """A service before the gateway, with a user."""
        settings = postgres.create_master(self.server)
        settings |= {"OPENCLAW_URL": gateway, "OPENCLAW_TOKEN": "token"}
        service = self._stack.enter_context(Service(settings, self._folder))
        return service.url, sign_up(service)


def measure(stage: Stage, stack: ExitStack, rounds: int, seconds: float, *, stream: bool) -> Any:
    """Answers a second, in turns."""
    gateway = stage.gateway()
    proxy = stack.enter_context(program("rivals.proxy", "--to", gateway))
    url, api = stage.service(gateway)
    asks = {
        "service": asking_service(url, api, stream=stream),
        "proxy": asking_gateway(proxy, stream=stream),
        "gateway": asking_gateway(gateway, stream=stream),
    }

    def rate(ask: Ask) -> float:
        return ask(seconds, 0).rate

    found = in_turns({name: partial(rate, ask) for name, ask in asks.items()}, rounds)
    middle = medians(found)
    return {
        "what": f"POST /chat, {'streamed, 40 tokens' if stream else 'whole'}, answers a second",
        "postgresql": stage.server.version,
        "medians": middle,
        "ratios": {"proxy": round(middle["service"] / middle["proxy"], 2)},
        "rounds": found,
    }


def first_token(stage: Stage, rounds: int, seconds: float) -> dict[str, float]:
    """Milliseconds until the first token, at the median with 16 streams.

    The streams begin one after the other, as people do: of 16 that begin at the same instant the
    last would wait for the work of 15.
    """
    gateway = stage.gateway(DELAY)
    url, api = stage.service(gateway)
    asks = {
        "gateway": asking_gateway(gateway, stream=True),
        "service": asking_service(url, api, stream=True),
    }

    def first(ask: Ask) -> float:
        return ask(seconds, TOKENS * DELAY).first_ms

    found = in_turns({name: partial(first, ask) for name, ask in asks.items()}, rounds)
    middle = {name: statistics.median(values) for name, values in found.items()}
    shown = {name: round(value, 2) for name, value in middle.items()}
    return {**shown, "added": round(middle["service"] - middle["gateway"], 2)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2)
    given = parser.parse_args()
    with ExitStack() as stack:
        stage = Stage(stack)
        result = measure(stage, stack, given.rounds, given.seconds, stream=given.stream)
        if given.stream:
            result["first_token_ms"] = first_token(stage, given.rounds, 2 * given.seconds)
        keep("stream" if given.stream else "chat", result)


if __name__ == "__main__":
    main()
