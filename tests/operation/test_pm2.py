"""The service under the real PM2, as docs/deployment.md has operators run it."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from dotenv import dotenv_values

from tests import postgres
from tests.gateway import GatewayStub
from tests.operation.load import Load
from tests.operation.process_manager import (
    DEVELOPMENT,
    PM2,
    PRODUCTION,
    serves,
    set_ports,
    user,
    wait_for,
)
from tests.service import PASSWORD, free_port

TOKEN = "token-that-nobody-may-read"
STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [+-]\d\d:\d\d: .*")


class Running(NamedTuple):
    """Both instances under one PM2."""

    pm2: PM2
    production: int
    development: int
    folder: Path


@pytest.fixture(scope="module")
def running(
    clone: Path, postgres_server: postgres.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Production on PostgreSQL, development on SQLite, from one folder, by the documented commands.

    It has to be a short path: PM2 puts sockets into its home.
    """
    folder = tmp_path_factory.mktemp("pm2")
    tree = shutil.copytree(clone, folder / "tree", symlinks=True)
    ports = free_port(), free_port()
    set_ports(tree, *ports)
    master = postgres.create_master(postgres_server)
    with ExitStack() as stack:
        gateway = stack.enter_context(GatewayStub(token=TOKEN))
        wanted = {"OPENCLAW_URL": gateway.url, "OPENCLAW_TOKEN": TOKEN, "EXPOSE_DOCS": "true"}
        write(tree / ".env", wanted)
        write(tree / ".env.postgres", master)
        pm2 = stack.enter_context(PM2(folder, tree, {}))
        pm2.start(PRODUCTION)
        pm2.start(DEVELOPMENT)
        wait_for(lambda: serves(ports[1]))
        yield Running(pm2, *ports, folder)


def write(file: Path, settings: dict[str, str]) -> None:
    """Settings as operators keep them."""
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), "utf-8")


def test_both_instances_run_side_by_side(running: Running) -> None:
    """Each on its port and its database; production in two processes, served once PM2 says so."""
    found = [
        httpx.get(f"http://127.0.0.1:{port}/health").json()["backend"]
        for port in (running.production, running.development)
    ]
    assert found == ["postgresql", "sqlite"]
    assert len(set(running.pm2.pids(PRODUCTION))) == 2
    assert len(running.pm2.pids(DEVELOPMENT)) == 1


def test_a_reload_loses_no_request_and_cuts_no_stream(running: Running) -> None:
    """It once refused connections for a second; benchmarks/reload.py does more of it."""
    before = running.pm2.pids(PRODUCTION)
    with Load(user(running.production, running.folder), clients=4, tokens=12) as load:
        wait_for(load.reaches(100, 1))
        running.pm2.run("reload", PRODUCTION)
        wait_for(load.reaches(100, 1))
    load.check()
    assert not set(before) & set(running.pm2.pids(PRODUCTION))


def test_a_crash_is_not_the_end(running: Running) -> None:
    """kill -9 of one: the other serves on; of both: PM2 starts them again on the same port."""
    one, other = running.pm2.pids(PRODUCTION)
    os.kill(one, signal.SIGKILL)
    assert serves(running.production)
    os.kill(other, signal.SIGKILL)
    wait_for(lambda: len({*running.pm2.pids(PRODUCTION)} - {one, other}) == 2)
    wait_for(lambda: serves(running.production))


def test_a_stop_ends_all_processes(running: Running) -> None:
    """`pm2 stop` ends all that it names, in order."""
    running.pm2.run("stop", PRODUCTION)
    assert running.pm2.pids(PRODUCTION) == []
    assert not serves(running.production)
    assert serves(running.development)


def test_logs_have_time_stamps_and_no_secrets(running: Running) -> None:
    """The last of this file, after all that was logged."""
    lines = running.pm2.logs().splitlines()
    assert [line for line in lines if not STAMP.fullmatch(line)] == []
    said = "\n".join(lines)
    assert '"event": "request"' in said
    password = dotenv_values(running.pm2.tree / ".env.postgres")["DB_PASSWORD"]
    assert password
    for secret in (TOKEN, password, PASSWORD, "Bearer "):
        assert secret not in said
