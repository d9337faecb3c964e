"""PostgreSQL goes away, hangs and comes back, and the process that uses it lives on."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from server.settings import get_settings
from server.storage import contract
from server.storage.contract import Connection, execute, fetch_one
from tests import postgres
from tests.conftest import with_settings
from tests.contract.conftest import opened


@pytest.fixture
def fragile(own_server: postgres.Server) -> Iterator[contract.Database]:
    """The module on a server that the test may break; it runs again at the end."""
    try:
        yield from opened(postgres.create_master(own_server))
    finally:
        own_server.start()


def read(database: contract.Database) -> None:
    with database.read_db() as conn:
        assert fetch_one(conn, "SELECT 1 AS one") == {"one": 1}


def come_back(database: contract.Database, seconds: float = 2) -> None:
    """It works again within two seconds; until then some are refused at once."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return read(database)
        except contract.Unavailable:
            assert time.monotonic() < deadline, "it did not come back"
            time.sleep(0.05)


def write(database: contract.Database) -> None:
    with database.get_db() as conn:
        execute(conn, "INSERT INTO audit_log (action, target, outcome) VALUES ('test', '', '')")


def in_parallel(count: int, work: Callable[[], object]) -> None:
    with ThreadPoolExecutor(count) as threads:
        for done in [threads.submit(work) for _ in range(count)]:
            done.result()


def rows(database: contract.Database) -> int:
    with database.read_db() as conn:
        row = fetch_one(conn, "SELECT count(*) AS n FROM audit_log")
    return int(row["n"]) if row else -1


def works_again(database: contract.Database) -> None:
    """Reads, writes and signs of life, and no connection was lost on the way."""
    read(database)
    write(database)
    database.ping()
    in_parallel(8, lambda: read(database))
    assert database.pool_stats()["in_use"] == 0


def fill_pool(database: contract.Database) -> None:
    """Leave several idle connections in the pool."""

    def slow() -> None:
        with database.read_db() as conn:
            execute(conn, "SELECT pg_sleep(0.1)")

    in_parallel(5, slow)
    assert database.pool_stats()["idle"] >= 5


def use_and_kill(database: contract.Database, own_server: postgres.Server) -> None:
    with database.get_db() as conn:
        execute(conn, "INSERT INTO audit_log (action, target, outcome) VALUES ('lost', '', '')")
        own_server.kill()
        execute(conn, "INSERT INTO audit_log (action, target, outcome) VALUES ('lost', '', '')")


def break_before_commit(conn: Connection, other: Callable[[int], None]) -> None:
    execute(conn, "INSERT INTO audit_log (action, target, outcome) VALUES ('?', '', '')")
    row = fetch_one(conn, "SELECT pg_backend_pid() AS pid")
    assert row is not None
    other(row["pid"])


def change_what_breaks(conn: Connection, terminate: Callable[[int], None]) -> None:
    row = fetch_one(conn, "SELECT pg_backend_pid() AS pid")
    assert row is not None
    terminate(row["pid"])
    execute(conn, "UPDATE users SET name = 'x'")


def test_stale_connections_are_replaced_without_an_error(
    fragile: contract.Database, own_server: postgres.Server
) -> None:
    """The server was restarted while the service was idle: the next 8 requests notice nothing.

    Of 8 requests after a restart 5 were a 500: the pool handed out dead connections.
    """
    fill_pool(fragile)
    own_server.restart()
    in_parallel(8, lambda: read(fragile))
    in_parallel(8, lambda: write(fragile))
    fill_pool(fragile)
    own_server.kill()
    own_server.start()
    in_parallel(8, lambda: write(fragile))
    assert rows(fragile) == 16
    works_again(fragile)


def test_killed_in_the_middle_of_use(
    fragile: contract.Database, own_server: postgres.Server
) -> None:
    """kill -9 of the whole server in a transaction: `Unavailable`, at once, and nothing stored.

    While it is away everything says so quickly; when it is back this very process works again.
    """
    fill_pool(fragile)
    with pytest.raises(contract.Unavailable):
        use_and_kill(fragile, own_server)
    for attempt in (read, write, lambda database: database.ping(), lambda d: d.init_schema()):
        started = time.monotonic()
        with pytest.raises(contract.Unavailable):
            attempt(fragile)
        assert time.monotonic() - started < 1
    with pytest.raises(contract.Unavailable):
        fragile.create_project_database("shop", "", 1)
    with pytest.raises(contract.Unavailable):
        fragile.drop_project_database("shop_db", 1, force=True)
    with pytest.raises(contract.Unavailable):
        fragile.describe_project_database("shop_db")
    with pytest.raises(contract.Unavailable), fragile.lock_project_database("shop_db"):
        pass
    result = fragile.delete_project_database("shop", force=True)
    assert (result["success"], result["database"]) == (False, "shop_db")
    assert fragile.test_connection()["status"] == "error"
    assert fragile.pool_stats() | {"max": 0} == {
        "size": 0,
        "in_use": 0,
        "idle": 0,
        "waiting": 0,
        "max": 0,
    }
    own_server.start()
    works_again(fragile)
    assert rows(fragile) == 1


def test_a_hung_server_is_given_up_within_four_seconds(
    fragile: contract.Database, own_server: postgres.Server
) -> None:
    """SIGSTOP: reads, writes, new connections and what is under way end as `Unavailable`.

    Neither `statement_timeout` nor TCP's settings help: the kernel goes on answering for a
    stopped process, and requests hung until the client gave up.
    """
    fill_pool(fragile)
    took: dict[str, float] = {}

    def measure(name: str, work: Callable[[], object]) -> None:
        started = time.monotonic()
        with pytest.raises(contract.Unavailable):
            work()
        took[name] = time.monotonic() - started

    def under_way() -> None:
        with fragile.read_db() as conn:
            execute(conn, "SELECT pg_sleep(0.2)")

    with ThreadPoolExecutor(20) as threads:
        waiting = [threads.submit(measure, "under way", under_way)]
        time.sleep(0.1)
        own_server.signal(signal.SIGSTOP)
        try:
            waiting += [
                threads.submit(measure, name, work)
                for name, work in (
                    ("read", lambda: read(fragile)),
                    ("write", lambda: write(fragile)),
                    ("ping", fragile.ping),
                    ("describe", lambda: fragile.describe_project_database("shop_db")),
                    ("schema", fragile.init_schema),
                    *((f"read {number}", lambda: read(fragile)) for number in range(8)),
                )
            ]
            for done in waiting:
                done.result()
        finally:
            own_server.signal(signal.SIGCONT)
    assert max(took.values()) < 4, took
    assert took["ping"] < 1.5
    come_back(fragile)
    works_again(fragile)


def test_a_connection_that_breaks_at_the_commit_is_in_doubt(
    fragile: contract.Database, own_server: postgres.Server
) -> None:
    """`OutcomeUnknown`: nobody may say "failed" of what may be stored, or do it again unasked."""

    def terminate(pid: int) -> None:
        with closing(own_server.connect()) as conn, conn.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
            assert cursor.fetchone() == (True,)

    with pytest.raises(contract.OutcomeUnknown), fragile.get_db() as conn:
        break_before_commit(conn, terminate)
    works_again(fragile)
    assert rows(fragile) == 1


def test_a_change_by_itself_is_in_doubt_once_it_was_sent(
    fragile: contract.Database, own_server: postgres.Server
) -> None:
    """The same of `change_db`, but not where there was no connection to send anything on."""

    def terminate(pid: int) -> None:
        with closing(own_server.connect()) as conn, conn.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))

    with pytest.raises(contract.OutcomeUnknown), fragile.change_db() as conn:
        change_what_breaks(conn, terminate)
    works_again(fragile)
    own_server.kill()
    fragile.close_pool()
    with pytest.raises(contract.Unavailable) as caught, fragile.change_db():
        pass
    assert not isinstance(caught.value, contract.OutcomeUnknown)


def test_one_backend_terminated_by_the_administrator(
    fragile: contract.Database, own_server: postgres.Server
) -> None:
    """`pg_terminate_backend` on all of ours, as before a failover: nobody notices."""
    fill_pool(fragile)
    with closing(own_server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
            "WHERE application_name = 'clawd-backend'"
        )
        found = cursor.fetchone()
    assert found is not None
    assert found[0] >= 5
    works_again(fragile)


def test_too_many_clients_is_busy(fragile: contract.Database, own_server: postgres.Server) -> None:
    """The server has no place left for us: `Busy`, and right again when it has."""
    role = get_settings().db_user
    fragile.close_pool()
    with closing(own_server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
        with pytest.raises(contract.Busy):
            read(fragile)
        cursor.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
    works_again(fragile)


def test_a_server_that_takes_no_writes(
    fragile: contract.Database, own_server: postgres.Server
) -> None:
    """After a failover to a standby: writes are `ReadOnly`, reads work."""
    name = get_settings().db_name
    with closing(own_server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        fragile.close_pool()
        read(fragile)
        with pytest.raises(contract.ReadOnly):
            write(fragile)
        cursor.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    fragile.close_pool()
    works_again(fragile)


def test_a_deadlock_is_busy(fragile: contract.Database) -> None:
    """Two transactions that wait for each other: one is told to come back, the other goes on."""
    ready: list[int] = []

    def lock_both(names: tuple[str, str]) -> str:
        try:
            with fragile.get_db() as conn:
                fragile.transaction_lock(conn, names[0])
                ready.append(1)
                while len(ready) < 2:
                    time.sleep(0.01)
                fragile.transaction_lock(conn, names[1])
        except contract.Busy:
            return "busy"
        return "done"

    with ThreadPoolExecutor(2) as threads:
        results = sorted(threads.map(lock_both, (("a", "b"), ("b", "a"))))
    assert results == ["busy", "done"]
    works_again(fragile)


@pytest.mark.parametrize(
    ("wrong", "reason", "cure"),
    [
        ({"DB_PASSWORD": "not-this-one"}, "password authentication failed", "DB_PASSWORD"),
        ({"DB_USER": "nobody_such"}, "password authentication failed", "DB_USER"),
        ({"DB_NAME": "no_such_master"}, "does not exist", "createdb -h 127.0.0.1 -p "),
        ({"DB_SSLMODE": "require"}, "does not support SSL", "DB_SSLMODE"),
    ],
    ids=["password", "role", "database", "tls"],
)
def test_what_will_never_work_is_said_with_its_cure(
    fragile: contract.Database, wrong: dict[str, str], reason: str, cure: str
) -> None:
    """One line: host, port, database, reason, the command that mends it; never the password.

    Retrying a wrong password for ever looks like a server that is starting.
    """
    with_settings(wrong)
    settings = get_settings()
    fragile.close_pool()
    for attempt in (fragile.init_schema, fragile.ping, lambda: read(fragile)):
        with pytest.raises(contract.Misconfigured, match=reason) as caught:
            attempt()
        said = str(caught.value)
        place = f"{settings.db_host}:{settings.db_port}, database {settings.db_name}"
        assert place in said
        assert cure in said.rpartition("to mend it: ")[2]
        assert "\n" not in said
        assert settings.db_password.get_secret_value() not in said
    found = fragile.test_connection()
    assert (found["status"], found["database"]) == ("error", settings.db_name)
    assert reason in found["reason"]


def test_a_name_that_leads_nowhere_is_unavailable(fragile: contract.Database) -> None:
    """Nobody listens, or the name isn't known: it may come, so it isn't `Misconfigured`."""
    for wrong in ({"DB_PORT": "1"}, {"DB_HOST": "no-such-host.invalid"}):
        with_settings(wrong)
        fragile.close_pool()
        with pytest.raises(contract.Unavailable):
            read(fragile)
