"""A transaction is all or nothing, alone or among many, and a connection always comes back."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from server.settings import get_settings
from server.storage import contract
from server.storage.contract import Connection, execute, fetch_all, fetch_one
from tests import checkout
from tests.conftest import with_settings

HOLD_THE_WRITE_LOCK = """
with database_adapter.get_db() as conn:
    database_adapter.transaction_lock(conn, "one")
    with conn.cursor() as cursor:
        cursor.execute("UPDATE users SET name = 'held'")
    print("held", flush=True)
    sys.stdin.readline()
"""
COUNT_UP = """
from server.storage.contract import execute, fetch_one
for _ in range(100):
    with database_adapter.get_db() as conn:
        database_adapter.transaction_lock(conn, "counter")
        n = int(fetch_one(conn, "SELECT name FROM users")["name"])
        execute(conn, "UPDATE users SET name = %s", (str(n + 1),))
"""


def add(conn: Connection, email: str = "ada@example.com", name: str | None = None) -> None:
    execute(
        conn,
        "INSERT INTO users (email, name, password_hash) VALUES (%s, %s, 'x')",
        (email, name),
    )


def add_and_fail(conn: Connection) -> None:
    add(conn)
    raise ZeroDivisionError


def add_what_is_refused_and_fail(conn: Connection) -> None:
    with suppress(contract.BadValue):
        add(conn, name="a\0b")
    add_and_fail(conn)


def make_table_and_fail(conn: Connection) -> None:
    execute(conn, "CREATE TABLE half (id BIGINT)")
    raise ZeroDivisionError


def emails(database: contract.Database) -> list[str]:
    with database.read_db() as conn:
        return [row["email"] for row in fetch_all(conn, "SELECT email FROM users ORDER BY email")]


def in_parallel(count: int, work: Callable[[int], object]) -> None:
    """Do the work in so many threads, all of them in it at the same moment."""
    together = threading.Barrier(count)

    def one(number: int) -> None:
        together.wait(10)
        work(number)

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(one, range(count)))


@contextmanager
def another_process_writing(master: dict[str, str]) -> Iterator[None]:
    """Meanwhile another process is in the middle of a transaction that has written."""
    with checkout.ready(HOLD_THE_WRITE_LOCK, master) as process:
        checkout.go(process)
        assert checkout.line(process) == "held"
        yield


def test_a_value_that_was_refused_leaves_the_transaction_whole(
    database: contract.Database,
) -> None:
    """BEGIN goes with the first statement: refused before it is sent, it took BEGIN along."""
    with pytest.raises(ZeroDivisionError), database.get_db() as conn:
        add_what_is_refused_and_fail(conn)
    assert emails(database) == []


def test_the_end_of_the_block_commits(database: contract.Database) -> None:
    """What a block wrote is there afterwards, also for a connection made later."""
    with database.get_db() as conn:
        add(conn)
    database.close_pool()
    assert emails(database) == ["ada@example.com"]


def test_an_exception_rolls_everything_back(database: contract.Database) -> None:
    """The first of two writes goes too when the second part fails."""
    with pytest.raises(ZeroDivisionError), database.get_db() as conn:
        add_and_fail(conn)
    assert emails(database) == []


def test_a_failed_statement_can_not_end_as_a_commit(database: contract.Database) -> None:
    """A block that hides a statement's failure never ends as if everything had been stored.

    PostgreSQL answers COMMIT after a failed statement with ROLLBACK and psycopg2 says nothing:
    the block ended well and the row was gone.
    """
    outcome = "committed"
    try:
        with database.get_db() as conn:
            add(conn)
            with suppress(Exception):
                execute(conn, "SELECT nothing FROM users")
    except contract.DatabaseError:
        outcome = "refused"
    assert (outcome, emails(database)) in [("committed", ["ada@example.com"]), ("refused", [])]


def test_a_transaction_reads_its_own_writes_and_others_do_not(database: contract.Database) -> None:
    """Inside the block the row is there; outside it is not until the block ends."""
    with database.get_db() as conn:
        add(conn)
        assert fetch_one(conn, "SELECT email FROM users") == {"email": "ada@example.com"}
        assert emails(database) == []
    assert emails(database) == ["ada@example.com"]


def test_schema_changes_are_part_of_the_transaction(database: contract.Database) -> None:
    """A table made in a block that fails is not there: half a migration would stay for ever."""
    with pytest.raises(ZeroDivisionError), database.get_db() as conn:
        make_table_and_fail(conn)
    with database.get_db() as conn:
        execute(conn, "CREATE TABLE half (id BIGINT)")


def test_a_transaction_inside_a_transaction_never_hangs(
    database: contract.Database, master: dict[str, str]
) -> None:
    """A second one is one of its own, where the database can, or is refused as busy in time.

    Whatever happens to the inner one, the outer one commits and every connection comes back.
    """
    with_settings({**master, "DB_POOL_WAIT": "0.5"})
    database.close_pool()
    started = time.monotonic()
    with database.get_db() as conn:
        add(conn)
        with suppress(contract.Busy), database.get_db() as other:
            add(other, "inner@example.com")
    assert time.monotonic() - started < 1.5
    assert "ada@example.com" in emails(database)
    assert database.pool_stats()["in_use"] == 0


def test_a_hundred_failures_cost_no_connection(database: contract.Database) -> None:
    """After 100 failing blocks, 20 at once find a connection each.

    psycopg2's pool lost a place for ever when the rollback met a dead connection; after 20 of
    them the service answered nothing any more.
    """
    for number in range(100):
        block = database.get_db if number % 2 else database.read_db
        with suppress(Exception), block() as conn:
            execute(conn, "SELECT broken" if number % 3 else "SELECT 1")
            if number % 5 == 0 and database.BACKEND == "postgresql":
                execute(conn, "SELECT pg_terminate_backend(pg_backend_pid())")
            raise ValueError
        assert database.pool_stats()["in_use"] == 0

    def read(_: int) -> None:
        with database.read_db() as conn:
            assert fetch_one(conn, "SELECT 1 AS one") == {"one": 1}

    in_parallel(20, read)
    stats = database.pool_stats()
    assert (stats["in_use"], stats["waiting"]) == (0, 0)
    assert 0 < stats["idle"] == stats["size"] <= stats["max"]


def test_a_full_pool_waits_then_says_busy(
    database: contract.Database, master: dict[str, str]
) -> None:
    """One too many waits for its turn; when none comes it is `Busy`, and later all is well.

    psycopg2's pool raised at once: of 40 requests at the same moment 20 were a 500.
    """
    with_settings({**master, "DB_POOL_MIN": "1", "DB_POOL_MAX": "3", "DB_POOL_WAIT": "0.6"})
    database.close_pool()
    most, wait = 3, 0.6
    with ExitStack() as stack, ThreadPoolExecutor(1) as threads:
        for _ in range(most - 1):
            stack.enter_context(database.read_db())
        with database.read_db():
            started = time.monotonic()
            with pytest.raises(contract.Busy), database.read_db():
                pass
            assert wait * 0.9 <= time.monotonic() - started < wait + 1
            assert database.pool_stats()["in_use"] == most
            late = threads.submit(emails, database)
            while database.pool_stats()["waiting"] == 0:
                time.sleep(0.01)
            assert not late.done()
        assert late.result(timeout=2) == []
    assert database.pool_stats()["in_use"] == 0


def test_more_threads_than_connections_all_get_served(
    database: contract.Database, master: dict[str, str]
) -> None:
    """40 at once on few connections: everybody waits a moment, nobody fails, no row is lost."""
    with_settings({**master, "DB_POOL_MIN": "1", "DB_POOL_MAX": "4"})
    database.close_pool()

    def write(number: int) -> None:
        with database.get_db() as conn:
            add(conn, f"{number}@example.com")

    in_parallel(12, write)
    in_parallel(12, lambda number: emails(database))
    assert len(emails(database)) == 12


def test_close_then_use_again(database: contract.Database) -> None:
    """The next use opens anew; a connection in use meanwhile finishes its work."""
    with database.get_db() as conn:
        add(conn)
        database.close_pool()
        add(conn, "bea@example.com")
    database.close_pool()
    database.close_pool()
    assert emails(database) == ["ada@example.com", "bea@example.com"]
    assert database.pool_stats()["in_use"] == 0


def test_the_transaction_lock_excludes_until_the_end(database: contract.Database) -> None:
    """Whoever asks for the same name gets it when the transaction of the first has ended."""
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait(5)
        with database.get_db() as conn:
            database.transaction_lock(conn, "name")
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with database.get_db() as conn:
        database.transaction_lock(conn, "name")
        database.transaction_lock(conn, "name")
        inside.set()
        time.sleep(0.3)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_no_update_is_lost_between_processes(
    database: contract.Database, master: dict[str, str]
) -> None:
    """3 processes, 100 read-modify-writes each: 300.

    SQLite's deferred transactions did 200 of 600 and failed with `database is locked` at once,
    whatever the busy timeout was.
    """
    with database.get_db() as conn:
        add(conn, name="0")
    for status, said in checkout.run_together([COUNT_UP] * 3, master):
        assert (status, said) == (0, "")
    with database.read_db() as conn:
        assert fetch_one(conn, "SELECT name FROM users") == {"name": "300"}


def test_readers_read_and_writers_give_up_while_another_process_writes(
    database: contract.Database, master: dict[str, str]
) -> None:
    """A writer that sits in its transaction blocks no reader, and other writers not for ever."""
    with database.get_db() as conn:
        add(conn, name="before")
    with_settings({**master, "DB_STATEMENT_TIMEOUT": "0.7", "DB_POOL_WAIT": "0.7"})
    database.close_pool()
    with another_process_writing(master):
        started = time.monotonic()
        with database.read_db() as conn:
            assert fetch_one(conn, "SELECT name FROM users") == {"name": "before"}
        assert time.monotonic() - started < 0.5
        with pytest.raises(contract.Busy), database.get_db() as conn:
            execute(conn, "UPDATE users SET name = 'mine'")
        assert time.monotonic() - started < 2
    deadline = time.monotonic() + 5
    while True:
        try:
            with database.get_db() as conn:
                execute(conn, "UPDATE users SET name = 'mine'")
            break
        except contract.Busy:
            assert time.monotonic() < deadline


def test_a_killed_writer_leaves_nothing(
    database: contract.Database, master: dict[str, str]
) -> None:
    """kill -9 in the middle of a transaction: its writes are gone and its lock too."""
    with database.get_db() as conn:
        add(conn, name="before")
    with checkout.ready(HOLD_THE_WRITE_LOCK, master) as process:
        checkout.go(process)
        assert checkout.line(process) == "held"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with database.get_db() as conn:
        database.transaction_lock(conn, "one")
        assert fetch_one(conn, "SELECT name FROM users") == {"name": "before"}


def test_a_sign_of_life_needs_the_schema(
    database: contract.Database, master: dict[str, str]
) -> None:
    """`ping` says nothing when all is well, and `Unavailable` while the tables aren't there.

    Its short patience stayed on the pooled connection once it had failed: a second after the
    schema was made, slower statements failed at half a second.
    """
    database.ping()
    with database.get_db() as conn:
        execute(conn, "ALTER TABLE schema_migrations RENAME TO elsewhere")
    with pytest.raises(contract.Unavailable):
        database.ping()
    with pytest.raises(contract.Unavailable), database.read_db() as conn:
        execute(conn, "SELECT id FROM not_yet")
    with database.get_db() as conn:
        execute(conn, "ALTER TABLE elsewhere RENAME TO schema_migrations")
    database.ping()
    if database.BACKEND == "postgresql":
        with database.read_db() as conn:
            execute(conn, "SELECT pg_sleep(0.8)")
    assert database.pool_stats()["in_use"] == 0


def test_the_connection_test_says_what_it_found(
    database: contract.Database, master: dict[str, str]
) -> None:
    """The operators' command prints a version and where that is."""
    found = database.test_connection()
    assert found["status"] == "ok"
    assert "reason" not in found
    if database.BACKEND == "sqlite":
        assert found["database"] == master["DB_PATH"]
        assert found["version"] == f"SQLite {sqlite3.sqlite_version}"
    else:
        assert found["database"] == master["DB_NAME"]
        assert (found["host"], found["port"]) == (master["DB_HOST"], int(master["DB_PORT"]))
        assert found["version"].startswith("PostgreSQL 1")


def test_the_connection_test_never_raises(master: dict[str, str], tmp_path: Path) -> None:
    """Whatever is wrong, the command prints a reason and no password."""
    module = "database_postgres" if master["USE_POSTGRES"] == "true" else "database"
    closed = {"DB_PORT": "1", "DB_PATH": str(tmp_path / "missing" / "master.db")}
    for wrong in (closed, {"DB_PORT": "none"}, {"DB_POOL_MIN": "30"}):
        status, said = checkout.run(
            f"import {module}; print({module}.test_connection())",
            {**master, "DB_PASSWORD": "hidden-pass", **wrong},
        )
        assert status == 0
        assert "'status': 'error'" in said
        assert "'reason': ''" not in said
        assert "hidden-pass" not in said
    assert not (tmp_path / "missing").exists()


def test_sqlite_a_full_disk_changes_nothing(sqlite_database: contract.Database) -> None:
    """`StorageFull`, reads go on, and once there is room writing does too."""
    with sqlite_database.get_db() as conn:
        add(conn)
        pages = fetch_one(conn, "PRAGMA page_count")
        assert pages is not None
        execute(conn, f"PRAGMA max_page_count = {pages['page_count']}")
    with pytest.raises(contract.StorageFull), sqlite_database.get_db() as conn:
        add(conn, "x" * 100_000)
    assert emails(sqlite_database) == ["ada@example.com"]
    sqlite_database.close_pool()
    with sqlite_database.get_db() as conn:
        add(conn, "bea@example.com")


def test_sqlite_a_read_connection_can_not_write(sqlite_database: contract.Database) -> None:
    """A forgotten write in a read block fails in every test run, since half of it is on SQLite."""
    with pytest.raises(contract.ReadOnly), sqlite_database.read_db() as conn:
        add(conn)
    with sqlite_database.get_db() as conn:
        add(conn)


def test_sqlite_a_file_that_was_moved_away_is_not_written(
    sqlite_database: contract.Database, tmp_path: Path
) -> None:
    """The master moved away at run time is `Unavailable`; no new one appears, none is lost.

    The open handle still pointed to the old file: writes were acknowledged and went where nobody
    would look for them.
    """
    with sqlite_database.get_db() as conn:
        add(conn)
    path = get_settings().db_path
    path.rename(tmp_path / "moved")
    for block in (sqlite_database.get_db, sqlite_database.read_db):
        with pytest.raises(contract.Unavailable), block() as conn:
            execute(conn, "SELECT id FROM users")
    assert not path.exists()
    (tmp_path / "moved").rename(path)
    assert emails(sqlite_database) == ["ada@example.com"]


def test_sqlite_a_broken_file_is_unavailable(
    sqlite_database: contract.Database,
) -> None:
    """Rubbish in the file is `Unavailable`, and the file is left for somebody to rescue."""
    path = get_settings().db_path
    sqlite_database.close_pool()
    rubbish = b"not a database " * 1000
    path.write_bytes(rubbish)
    with pytest.raises(contract.Unavailable):
        sqlite_database.ping()
    with pytest.raises(contract.Unavailable):
        sqlite_database.init_schema()
    assert path.read_bytes() == rubbish


def test_sqlite_one_bad_row_does_not_hide_the_others(sqlite_database: contract.Database) -> None:
    """Text that isn't UTF-8 is shown with replacements; sqlite3 alone fails the whole list."""
    with sqlite_database.get_db() as conn:
        add(conn)
        execute(
            conn,
            "INSERT INTO users (email, password_hash) VALUES (CAST(x'FFFE41' AS TEXT), 'x')",
        )
    assert emails(sqlite_database) == ["ada@example.com", "��A"]


def test_sqlite_the_file_is_for_its_owner_only(sqlite_database: contract.Database) -> None:
    """Password hashes lie in it."""
    path = get_settings().db_path
    assert path.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert sqlite_database.pool_stats()["in_use"] == 0
