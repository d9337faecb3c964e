"""Processes that share a port come and go without a client's notice."""

import asyncio
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from server import listening
from server.connection import Connection, Connections
from server.listening import CantListen, Listening
from server.settings import Settings
from tests import checkout
from tests.chat.following import wait_until
from tests.conftest import GATEWAY_TOKEN
from tests.gateway import GatewayStub
from tests.service import (
    ROOT,
    Api,
    Service,
    environment,
    free_port,
    parse_events,
    sign_up,
)
from tests.test_commands import reason_line


@pytest.fixture
def settings(gateway: GatewayStub, tmp_path: Path) -> dict[str, str]:
    """Settings of processes that share a port."""
    return {
        "SHARE_PORT": "true",
        "PORT": str(free_port()),
        "USE_POSTGRES": "false",
        "DB_PATH": str(tmp_path / "master.db"),
        "OPENCLAW_URL": gateway.url,
        "OPENCLAW_TOKEN": GATEWAY_TOKEN,
        "AUTH_RATE_LIMIT": "off",
    }


@pytest.fixture
def two(settings: dict[str, str], tmp_path: Path) -> Iterator[tuple[Service, Service]]:
    """Two processes on one port."""
    with ExitStack() as stack:
        first, second = (process(settings, tmp_path / name) for name in ("first", "second"))
        for each in (first, second):
            start(each)
            stack.callback(each.stop)
        yield first, second


def process(settings: dict[str, str], folder: Path) -> Service:
    """A process with a log of its own."""
    folder.mkdir()
    return Service(settings, folder)


def start(service: Service) -> None:
    """Start it, and wait for itself: others may answer on the port."""
    before = service.log.count('"event": "serving"')
    service.start()
    wait_until(lambda: service.log.count('"event": "serving"') > before, 20)


def serves(service: Service) -> bool:
    """Whether it says so."""
    return '"event": "serving"' in service.log


def end(service: Service) -> None:
    """SIGINT, as PM2 sends it."""
    assert service.process is not None
    service.process.send_signal(signal.SIGINT)


def client_of(service: Service, token: str | None) -> Api:
    """A client with an open connection to this process, of those that accept."""
    while True:
        api = Api(service, token)
        api.http.get("/health/live")
        seen = service.log.count("/health/live")
        api.http.get("/health/live")
        if service.log.count("/health/live") > seen:
            return api


def test_what_comes_on_an_open_connection_is_answered(two: tuple[Service, Service]) -> None:
    """A client that has just sent its next request once found the connection closed."""
    ending = two[0]
    token = sign_up(ending).token
    idle, chatting, streaming = (client_of(ending, token) for _ in range(3))
    project = idle.project()["id"]
    session, streamed = (idle.session(project)["id"] for _ in range(2))
    with streaming.stream(streamed, "[[gateway:answer tokens=10 delay=0.1]]") as stream:
        end(ending)
        wait_until(lambda: "Shutting down" in ending.log)
        assert parse_events(stream.read().decode())[-1].name == "done"
    # Its headers had promised that the connection stays.
    assert streaming.http.get("/health/ready").headers.get("connection") == "close"
    ready = idle.http.get("/health/ready")
    assert (ready.status_code, ready.json()["reason"]) == (503, "shutting down")
    assert ready.headers.get("connection") == "close"
    answer = chatting.chat(session, "[[gateway:answer tokens=10 delay=0.05]]")
    assert answer.json()["message"]["status"] == "complete", answer.text
    assert answer.headers.get("connection") == "close"
    assert idle.http.get("/health/ready").status_code == 200, "the other process"
    assert ending.process is not None
    assert ending.process.wait(10) == 0


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """An application."""
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


def test_an_idle_connection_is_not_closed_on_a_request() -> None:
    """When the clock strikes the next request may be there, while the loop is busy elsewhere."""
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

    async def ask_at_the_last_moment() -> None:
        config = uvicorn.Config(hello, log_config=None)
        config.load()
        made: list[Connection] = []

        def connect() -> Connection:
            made.append(Connection(config, Connections(), {}))
            return made[-1]

        server = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0)
        place = server.sockets[0].getsockname()
        async with server, asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(*place)
            writer.write(request)
            await reader.readuntil(b"hello")
            writer.write(request)
            made[0].timeout_keep_alive_handler()
            await reader.readuntil(b"hello")
            made[0].timeout_keep_alive_handler()
            assert await reader.read() == b""
            writer.close()

    asyncio.run(ask_at_the_last_moment())


def test_a_process_alone_keeps_nobody_waiting(settings: dict[str, str], tmp_path: Path) -> None:
    """Nobody would answer the next request: whoever ends the service does not wait for it."""
    with Service(settings, tmp_path) as service, httpx.Client(base_url=service.url) as client:
        client.get("/health/live")
        assert service.stop(seconds=3) == 0


def test_killed_processes_leave_nothing_behind(two: tuple[Service, Service]) -> None:
    """kill -9 of one, then of the last: the next start needs no hand to clear anything away."""
    first, second = two
    first.kill()
    assert httpx.get(second.url + "/health/ready").status_code == 200
    start(first)
    second.kill()
    assert httpx.get(first.url + "/health/ready").status_code == 200
    first.kill()
    with pytest.raises(httpx.ConnectError):
        httpx.get(first.url + "/health/live")
    start(first)
    assert httpx.get(first.url + "/health/ready").status_code == 200


def test_processes_that_start_at_once(settings: dict[str, str], tmp_path: Path) -> None:
    """After a power cut all start together, and each finds the port still free."""
    services = [process(settings, tmp_path / str(number)) for number in range(3)]
    with ExitStack() as stack:
        for service in services:
            service.start()
            stack.callback(service.stop)
        for service in services:
            wait_until(functools.partial(serves, service), 20)


def test_a_port_is_asked_for_again(tmp_path: Path) -> None:
    """Of two that start at once one has bound it, and is only about to offer it."""
    wanted = Settings(port=free_port(), share_port=True, db_path=tmp_path / "master.db")
    held = socket.create_server(("127.0.0.1", wanted.port))
    threading.Timer(0.2, held.close).start()
    with opened(Listening(wanted)):
        pass


def test_only_the_same_service_shares(settings: dict[str, str], tmp_path: Path) -> None:
    """Every other request to another database, or to other code, would be the worst of errors."""
    (tmp_path / "copy").mkdir()
    elsewhere = checkout.copy(tmp_path / "copy")
    shutil.copy(ROOT / "app.py", elsewhere)
    others = {
        "database": ({**settings, "DB_PATH": str(tmp_path / "other.db")}, ROOT),
        "environment": ({**settings, "APP_ENV": "production"}, ROOT),
        "alone": ({**settings, "SHARE_PORT": "false"}, ROOT),
        "checkout": (settings, elsewhere),
    }
    with ExitStack() as stack:
        stack.enter_context(Service(settings, tmp_path))
        processes = {}
        for name, (wanted, folder) in others.items():
            processes[name] = subprocess.Popen(
                [sys.executable, "-m", "server"],
                cwd=folder,
                env=environment(wanted),
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(processes[name].kill)
        for name, process in processes.items():
            said = process.communicate(timeout=20)[1]
            assert process.returncode == 1, (name, said)
            reason_line(said, settings["PORT"], "address already in use", "lsof -i")
    assert not (tmp_path / "other.db").exists()


def test_another_user_gets_and_gives_nothing(tmp_path: Path) -> None:
    """Names are free for anybody to take, and to connect to: the kernel says who it is."""
    wanted = Settings(port=free_port(), share_port=True, db_path=tmp_path / "master.db")
    with opened(Listening(wanted)):
        stranger = Listening(wanted, user=os.geteuid() + 1)
        assert not stranger.is_shared()
        with pytest.raises(CantListen, match="address already in use"):
            stranger.open()
    elsewhere = Settings(port=free_port(), share_port=True, db_path=tmp_path / "master.db")
    other = Listening(elsewhere, user=os.geteuid() + 1)
    with opened(other), socket.socket(socket.AF_UNIX) as asker:
        asker.connect(listening.names(elsewhere)[0])
        assert socket.recv_fds(asker, 1, 1)[:2] == (b"", [])


@contextmanager
def opened(service: Listening) -> Iterator[None]:
    """The sockets of a process, until it ends."""
    service.open()
    try:
        yield
    finally:
        service.close()
        for each in service.sockets:
            each.close()


def test_pm2_is_told_when_requests_are_served(settings: dict[str, str]) -> None:
    """PM2 ends the next process then, so it must not be told before; the channel is node's."""
    here, there = socket.socketpair()
    with here, there:
        channel = {"NODE_CHANNEL_FD": str(there.fileno())}
        process = subprocess.Popen(
            [sys.executable, "-m", "server"],
            cwd=ROOT,
            env=environment({**settings, **channel}),
            pass_fds=[there.fileno()],
            stderr=subprocess.DEVNULL,
        )
        try:
            here.settimeout(20)
            assert json.loads(here.recv(100)) == "ready"
            url = f"http://127.0.0.1:{settings['PORT']}/health/ready"
            assert httpx.get(url).status_code == 200
        finally:
            process.terminate()
            process.wait()
