"""What C libraries keep of the memory that was used for a moment."""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import database_postgres
from server.memory import ARENAS
from server.storage.contract import fetch_all, fetch_one
from server.storage.postgres import LARGE_BYTES
from tests import postgres
from tests.conftest import with_settings, without_settings
from tests.service import Service, sign_up

CLIENTS = 10
# An arena other than the first begins where its address is a multiple of this, on 64 bits.
ARENA_BYTES = 64 * 1024 * 1024


def count_arenas(pid: int) -> int:
    """How many arenas glibc's malloc has made besides the first."""
    maps = Path(f"/proc/{pid}/maps").read_text("ascii")
    starts = re.findall(r"(?m)^([0-9a-f]+)-[0-9a-f]+ rw-p 0+ 00:00 0\s*$", maps)
    return sum(int(start, 16) % ARENA_BYTES == 0 for start in starts)


def test_threads_keep_no_memory_each(tmp_path: Path) -> None:
    """However many requests are at work at once, what they leave to malloc is kept in few places.

    A soak saw 440 MiB, of which 30 were in use: each of 16 threads had once hashed a password, or
    taken an upload, in an arena of its own, and kept as much for good.
    """
    settings = {"USE_POSTGRES": "false", "DB_PATH": str(tmp_path / "master.db")}
    with Service({**settings, "AUTH_RATE_LIMIT": "off"}, tmp_path) as service:
        users = [sign_up(service) for _ in range(CLIENTS)]
        together = threading.Barrier(CLIENTS)

        def work(number: int) -> None:
            body = {"email": users[number].user["email"], "password": "not the password"}
            for _ in range(2):
                together.wait(30)
                users[number].get("/projects")
                users[number].post("/auth/login", body)

        with ThreadPoolExecutor(CLIENTS) as threads:
            list(threads.map(work, range(CLIENTS)))
        assert service.process
        assert count_arenas(service.process.pid) <= ARENAS


@pytest.fixture
def master(postgres_server: postgres.Server) -> Iterator[None]:
    """A PostgreSQL master that this process uses."""
    with_settings(postgres.create_master(postgres_server))
    yield
    without_settings()


def backend_pid() -> Any:
    """The server's process at the other end of the pool's most recently used connection."""
    with database_postgres.read_db() as conn:
        return fetch_all(conn, "SELECT pg_backend_pid() AS pid")[0]["pid"]


@pytest.mark.usefixtures("master")
@pytest.mark.parametrize("fetch", [fetch_one, fetch_all])
@pytest.mark.parametrize(
    ("statement", "much"),
    [
        ("SELECT length(%s) AS sent", b"x" * LARGE_BYTES),
        ("SELECT repeat('x', %s) AS text", LARGE_BYTES + 1),
        ("SELECT convert_to(repeat('x', %s), 'UTF8') AS bytes", LARGE_BYTES + 1),
    ],
)
def test_a_connection_that_carried_much_is_not_kept(
    fetch: Callable[..., object], statement: str, much: object
) -> None:
    """libpq's buffers never shrink: each connection kept 64 MiB after one image of 10 MB."""
    first = backend_pid()
    with database_postgres.read_db() as conn:
        fetch(conn, statement, (b"x" if isinstance(much, bytes) else 1,))
    assert backend_pid() == first
    with database_postgres.read_db() as conn:
        fetch(conn, statement, (much,))
    assert backend_pid() != first
