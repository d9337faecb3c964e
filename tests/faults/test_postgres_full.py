"""The disk under PostgreSQL is full, for real, and has room again."""

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psycopg2
import pytest

from tests import postgres
from tests.chat.following import wait_until
from tests.faults.disk import Disk, small_disk
from tests.faults.load import Users, check_back, check_refused, check_sound
from tests.service import Api, Service, sign_up
from tests.sql import Sql

# What another user of the same server writes until there is no room for its log: a PANIC, which
# takes the whole server down, and it does not come up again before there is room.
FLOOD = "SELECT pg_logical_emit_message(false, 'flood', repeat('x', 500000))"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> postgres.Server:
    """A PostgreSQL whose log comes in small pieces; `disk` starts it."""
    return postgres.Server(
        postgres.find_binaries()[-1],
        initdb_options=("--wal-segsize=1",),
        configuration="max_wal_size = 4MB\nmin_wal_size = 2MB\n",
    )


@pytest.fixture(scope="module")
def disk(server: postgres.Server) -> Iterator[Disk]:
    """Its disk, of 96 MiB."""
    with small_disk(server, "96m") as made, server:
        yield made


@pytest.fixture
def api(server: postgres.Server, disk: Disk, tmp_path: Path) -> Iterator[Api]:
    """A user of a service on it, with the echo."""
    settings = {**postgres.create_master(server), "AUTH_RATE_LIMIT": "off"}
    try:
        with Service(settings, tmp_path) as service:
            yield sign_up(service)
    finally:
        disk.clear()
        server.start()


def panic(server: postgres.Server) -> None:
    """Let somebody else write until the server ends itself."""
    with suppress(psycopg2.Error), closing(server.connect()) as conn, conn.cursor() as cursor:
        for _ in range(100):
            cursor.execute(FLOOD)
    wait_until(lambda: not server.running, what="the PANIC")


def new_piece_of_log(server: postgres.Server) -> None:
    """Begin a piece of the server's log, so that little writes find room while tables don't."""
    with closing(server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT pg_switch_wal()")
        cursor.execute("CHECKPOINT")


def test_tables_have_no_room(server: postgres.Server, disk: Disk, api: Api) -> None:
    """What is there can be read, what is new is refused with 503, nothing of it is half stored."""
    session = api.session()
    text = "word " * 19_000
    new_piece_of_log(server)
    disk.fill()
    answers = [api.chat(session["id"], f"{number} {text}") for number in range(4)]
    check_refused(answers[-1], "database_unavailable")
    assert api.get("/projects").status_code == 200
    assert len(api.messages(session["id"])) == 2 * sum(a.is_success for a in answers)
    assert server.running
    disk.clear()
    check_back(api)
    assert api.chat(session["id"], text).status_code == 200
    check_sound(api.service)


def test_the_server_has_panicked(server: postgres.Server, disk: Disk, api: Api) -> None:
    """The server's log has no room: it ends itself, and can't start again until there is some.

    Only 503 until then, right again without a restart of ours, nothing lost or stored twice.
    """
    with Users(api) as users:
        users.wait_for(20, 201)
        disk.fill()
        panic(server)
        users.wait_for(50, 503)
        disk.clear()
        server.start()
        check_back(api)
        users.wait_for(20, 201)
    users.check()
    check_sound(api.service)


def test_a_project_finds_no_room(
    server: postgres.Server, disk: Disk, api: Api, tmp_path: Path
) -> None:
    """503; once there is room, the next start or the next minute leaves no row and no database."""
    sql = Sql(api.service.settings)
    before = sql.databases()
    disk.fill(leave=3_000_000)
    check_refused(api.post("/projects", {"name": "shop"}), "database_unavailable")
    disk.clear()
    server.start()
    check_back(api)
    settings = {name: value for name, value in api.service.settings.items() if name != "PORT"}
    with Service(settings, tmp_path):
        wait_until(lambda: sql.databases() == before and sql.count("projects") == 0)
    assert api.project("shop")["db_name"] == "shop_db"
    check_sound(api.service)
