"""Many open streams in one process: memory for each, and how other requests fare beside them.

    venv/bin/python -m benchmarks.streams                      SQLite
    venv/bin/python -m benchmarks.streams --postgres           a PostgreSQL of its own
    venv/bin/python -m benchmarks.streams --streams 200 --delay 0.2

Opens the streams, one in a session of its own, against a gateway that sends a token every
`--delay` seconds, and meanwhile asks for `GET /projects` twenty times a second. Prints JSON.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests import postgres
from tests.gateway import GatewayStub
from tests.service import Api, Service, sign_up

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


async def ask(service: Service, token: str, until: asyncio.Event) -> list[float]:
    """The seconds that each `GET /projects` took."""
    took: list[float] = []
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=30) as client:
        while not until.is_set():
            started = time.monotonic()
            response = await client.get("/projects")
            if response.status_code != 200:
                raise RuntimeError(response.text)
            took.append(time.monotonic() - started)
            await asyncio.sleep(0.05)
    return took


async def measure(service: Service, api: Api, count: int, text: str) -> dict[str, Any]:
    """Open the streams and watch."""
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
    took, ended = sorted(await asking), [stream.result() for stream in streams]
    return {
        "streams": count,
        "complete": sum(stream["done"] for stream in ended),
        "open_at_once": most,
        "kb_per_stream": round((peak - before) / count / 1024, 1),
        "first_token_s_median": round(statistics.median(s["first"] for s in ended), 3),
        "projects_requests": len(took),
        "projects_ms_median": round(statistics.median(took) * 1000, 1),
        "projects_ms_p95": round(took[int(len(took) * 0.95)] * 1000, 1),
    }


def main() -> None:
    """Set everything up, measure, print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--streams", type=int, default=1000)
    options.add_argument("--tokens", type=int, default=40)
    options.add_argument("--delay", type=float, default=1.0)
    options.add_argument("--postgres", action="store_true")
    chosen = options.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        gateway = stack.enter_context(GatewayStub(token=TOKEN))
        settings = {"USE_POSTGRES": "false", "DB_PATH": str(folder / "master.db")}
        if chosen.postgres:
            server = stack.enter_context(postgres.Server(postgres.find_binaries()[0]))
            settings = postgres.create_master(server)
        settings |= {"DB_POOL_MIN": "5", "DB_POOL_MAX": "5", "AUTH_RATE_LIMIT": "off"}
        settings |= {"OPENCLAW_URL": gateway.url, "OPENCLAW_TOKEN": TOKEN}
        service = stack.enter_context(Service(settings, folder))
        text = f"[[gateway:answer tokens={chosen.tokens} delay={chosen.delay}]]"
        figures = asyncio.run(measure(service, sign_up(service), chosen.streams, text))
    backend = "postgresql" if chosen.postgres else "sqlite"
    print(json.dumps({"backend": backend, "delay_s": chosen.delay, **figures}, indent=2))


if __name__ == "__main__":
    main()
