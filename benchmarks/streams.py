"""Many open streams in one process: memory for each, and how other requests fare beside them.

    venv/bin/python -m benchmarks.streams
    venv/bin/python -m benchmarks.streams --streams 200 --delay 0.2 --rounds 1

On PostgreSQL at default durability and on SQLite in turns, on a pool of five connections. Opens the
streams, one in a session of its own, against a gateway that sends a token every `--delay` seconds,
and meanwhile asks for `GET /projects` twenty times a second. Prints medians; KB are 1,000 bytes.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.rounds import durable_postgres, figures_in_turns, keep
from tests import postgres
from tests.gateway import GatewayStub
from tests.service import Api, Service, close_clients, sign_up

TOKEN = "token-of-the-gateway"


async def open_stream(service: Service, token: str, session_id: int, text: str) -> dict[str, Any]:
    """Read one streamed turn to its end; what came of it."""
    body = json.dumps({"session_id": session_id, "message": text, "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(
        b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        + f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n".encode()
        + b"Connection: close\r\n\r\n"
        + body
    )
    started, first, tail, done = time.monotonic(), 0.0, b"", False
    while chunk := await reader.read(65536):
        if not first and b"event: delta" in chunk:
            first = time.monotonic()
        done = done or b"event: done" in tail + chunk
        tail = chunk[-20:]
    writer.close()
    return {"first": first - started, "done": done}


@dataclass
class Asked:
    """What became of the requests beside the streams."""

    took: list[float] = field(default_factory=list)
    failed: int = 0


async def ask(service: Service, token: str, until: asyncio.Event) -> Asked:
    """Ask for `GET /projects` until told to stop."""
    asked = Asked()
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=30) as client:
        while not until.is_set():
            started = time.monotonic()
            try:
                (await client.get("/projects")).raise_for_status()
                asked.took.append(time.monotonic() - started)
            except httpx.HTTPError:
                asked.failed += 1
            await asyncio.sleep(0.05)
    return asked


async def watch(service: Service, api: Api, count: int, text: str) -> dict[str, float]:
    """Open the streams and look on."""
    sessions = [api.session(api.project()["id"])["id"]]
    project_id = api.get(f"/sessions/{sessions[0]}").json()["project_id"]
    sessions += [api.session(project_id)["id"] for _ in range(count - 1)]
    if service.process is None or api.token is None:
        raise RuntimeError("the service does not run")
    process = psutil.Process(service.process.pid)
    # Threads, pools and buffers that the first streams make are not each stream's own.
    await asyncio.gather(
        *(open_stream(service, api.token, one, "[[gateway:answer]]") for one in sessions[:50])
    )
    before = process.memory_info().rss
    done = asyncio.Event()
    asking = asyncio.create_task(ask(service, api.token, done))
    streams = [
        asyncio.create_task(open_stream(service, api.token, session, text)) for session in sessions
    ]
    peak, most = before, 0
    while not all(stream.done() for stream in streams):
        peak = max(peak, process.memory_info().rss)
        async with httpx.AsyncClient(timeout=30) as client:
            most = max(most, (await client.get(service.url + "/health/queue")).json()["here"])
        await asyncio.sleep(0.5)
    done.set()
    asked, ended = await asking, [stream.result() for stream in streams]
    took = sorted(asked.took)
    return {
        "complete": sum(stream["done"] for stream in ended),
        "open_at_once": most,
        "kb_per_stream": (peak - before) / count / 1000,
        "first_token_s": statistics.median(s["first"] for s in ended),
        "projects_requests": len(took),
        "failed": asked.failed + count - sum(stream["done"] for stream in ended),
        "projects_ms": statistics.median(took) * 1000,
        "projects_ms_p95": took[int(len(took) * 0.95)] * 1000,
    }


def run(settings: dict[str, str], count: int, text: str) -> dict[str, float]:
    """The same with a fresh process of the service."""
    with tempfile.TemporaryDirectory() as folder, Service(settings, Path(folder)) as service:
        try:
            return asyncio.run(watch(service, sign_up(service), count, text))
        finally:
            close_clients()


def measure(stack: ExitStack, given: argparse.Namespace) -> dict[str, Any]:
    """Set everything up, and measure on both databases in turns."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    gateway = stack.enter_context(GatewayStub(token=TOKEN))
    server = stack.enter_context(durable_postgres())
    common = {"DB_POOL_MIN": "5", "DB_POOL_MAX": "5", "AUTH_RATE_LIMIT": "off"}
    common |= {"OPENCLAW_URL": gateway.url, "OPENCLAW_TOKEN": TOKEN}
    masters = {
        "PostgreSQL": postgres.create_master(server),
        "SQLite": {"USE_POSTGRES": "false", "DB_PATH": str(folder / "master.db")},
    }
    text = f"[[gateway:answer tokens={given.tokens} delay={given.delay}]]"
    todo = {
        name: partial(run, {**master, **common}, given.streams, text)
        for name, master in masters.items()
    }
    middle = figures_in_turns(todo, given.rounds, warm_up=0)
    return {
        "what": f"{given.streams} open streams, a token every {given.delay} seconds; failed: "
        "streams that did not end well, and requests beside them",
        "postgresql": server.version,
        "kb_per_stream": {name: found["kb_per_stream"] for name, found in middle.items()},
        "failed": {name: found["failed"] for name, found in middle.items()},
        "medians": middle,
    }


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--streams", type=int, default=1000)
    options.add_argument("--tokens", type=int, default=25)
    options.add_argument("--delay", type=float, default=1.0)
    options.add_argument("--rounds", type=int, default=3)
    with ExitStack() as stack:
        keep("streams", measure(stack, options.parse_args()))


if __name__ == "__main__":
    main()
