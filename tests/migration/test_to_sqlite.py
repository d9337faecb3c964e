"""The way back: everything in SQLite files, by the same rules as there."""

import fcntl
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.migration import target as at_target
from server.migration.census import Options
from server.migration.folder import Folder
from server.migration.master import NOT_COPIED, master_tables
from server.migration.report import Report, Screen
from server.migration.to_postgres import Request
from server.migration.to_sqlite import WayBack
from server.storage import migrate
from tests import postgres
from tests.conftest import with_settings, without_settings
from tests.migration.moving import Move, Outcome
from tests.migration.sources import TIME, Told, make_by_hand
from tests.service import PASSWORD, ROOT, Api, Service, environment, new_name

KILLS = int(os.environ.get("KILLS", "12"))
# What a project's users may have that SQLite can hold, and what it bends.
ODD = """
CREATE TABLE odd (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, f float8, n numeric, j jsonb, u uuid,
    at timestamptz DEFAULT now(), d int GENERATED ALWAYS AS (id * 2) STORED, t text, b bytea,
    k boolean
);
INSERT INTO odd (f, n, j, u, at, t, b, k) VALUES
    ('-0', 12345678901234567890.5, '5', '8f14e45f-ceea-467f-a0e6-2f4d5c1e7a10',
        '0001-01-01 00:00:00+00', E'tab\\tnew\\nline\\\\', '\\x00ff', true),
    ('Infinity', 1, '[]', NULL, '9999-12-31 23:59:59.999999+00', '', '', false),
    (5e-324, 0.1, NULL, NULL, '2026-03-29 01:59:59.12+00', NULL, NULL, NULL);
CREATE TABLE loose (a text, x numeric); INSERT INTO loose VALUES ('x', 1), ('x', 1), (NULL, 2.5);
CREATE VIEW few AS SELECT id FROM odd WHERE k;
"""
BAD = """
CREATE TABLE bad (
    id int PRIMARY KEY, at timestamptz, f float8, n numeric, odd int REFERENCES odd (id)
);
INSERT INTO bad VALUES (1, 'infinity', 1, 1, 1), (2, '10000-01-01 00:00:00+00', 1, 1, NULL),
    (3, '0001-12-31 00:00:00+00 BC', NULL, NULL, NULL), (4, NULL, 'NaN', 1, NULL),
    (5, NULL, 1, 'NaN', NULL), (6, NULL, NULL, 'Infinity', NULL), (7, now(), 1, 1, 2);
CREATE TABLE child (bad int REFERENCES bad (id)); INSERT INTO child VALUES (1), (7), (NULL);
"""


@pytest.fixture
def alone(move: Move) -> Move:
    """The small source, moved to PostgreSQL; the way back leads to a folder where nothing is."""
    assert move.call().code == 0
    return elsewhere(move, "back")


@pytest.fixture(scope="module")
def shared(
    postgres_server: postgres.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Move]:
    """The same, once for all tests that leave in PostgreSQL what the others can live with."""
    path = tmp_path_factory.mktemp("shared") / "master.db"
    make_by_hand(path, new_name())
    settings = postgres.create_master(postgres_server)
    move = Move({**settings, "DB_PATH": str(path)}, postgres_server)
    assert move.call().code == 0
    yield move
    postgres.drop_master(postgres_server, settings)


@pytest.fixture
def gone(shared: Move, tmp_path: Path) -> Move:
    """The shared PostgreSQL, and a folder of the test's own where nothing is."""
    return elsewhere(shared, str(tmp_path / "back"))


def elsewhere(move: Move, name: str) -> Move:
    """The same PostgreSQL, with files in another folder."""
    path = move.path.parent / name / "master.db"
    return replace(move, settings={**move.settings, "DB_PATH": str(path)})


def bring(move: Move, options: Options | None = None, **request: Any) -> Outcome:
    """The way back in this process."""
    with_settings(move.settings)
    try:
        wanted = Request(move.backups, options or Options(), **request)
        report = WayBack(wanted, Screen(quiet=True), Report("")).go()
    finally:
        without_settings()
    return Outcome(report.exit, json.loads(json.dumps(report.as_dict())), "")


def as_role(move: Move, sql: str, name: str = "") -> None:
    """Run statements as the role that the service has, which owns what they make."""
    move.ask(f"SET ROLE {move.settings['DB_USER']}; {sql}", name=name)


def project_of(move: Move) -> str:
    """The database of the only project."""
    return str(move.ask("SELECT db_name FROM projects")[0][0])


def contents(path: Path) -> dict[str, list[str]]:
    """All rows of a file's tables with the types of their values, and the highest ids."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as conn:
        found = {}
        for (table,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            if table not in NOT_COPIED:
                rows = conn.execute(f'SELECT * FROM "{table}"').fetchall()
                found[table] = sorted(map(repr, rows))
        assert conn.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
    return found


def files(move: Move) -> dict[str, bytes]:
    """Every file of the target as it is, but for the index that any reader of a log makes."""
    found = [move.path, *move.path.parent.glob("master.db*"), *move.file("x").parent.glob("*")]
    return {
        path.name: path.read_bytes() for path in found if path.exists() and "-" not in path.name
    }


@contextmanager
def writing(conn: Any, *statements: str) -> Iterator[None]:
    """Somebody who writes all the time, until the block ends."""
    ended = threading.Event()

    def write() -> None:
        with conn.cursor() as cursor:
            while not ended.wait(0.001):
                for statement in statements:
                    cursor.execute(statement)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_there_and_back(told: Told, moved: Move) -> None:
    """What the service made on SQLite comes back from PostgreSQL row for row, and it serves it.

    Tokens, passwords, images, idempotency keys and branches included; new rows get ids above the
    highest that was ever given away.
    """
    there = moved.call(Options(zone=UTC))
    assert there.code == 0
    assert (
        "1 deleted project(s) stay in the source: they can't come back here"
        in (there.report["notes"])
    )
    back = elsewhere(moved, "back")
    outcome = back.run("--to", "sqlite")
    assert (outcome.code, outcome.report["result"]) == (0, "Both sides hold the same.")
    # Where times had no zone, the copy has them with it.
    taken = Folder(Path(there.report["folder"]))
    assert contents(back.path) == contents(taken.database("master"))
    projects = [path.stem for path in moved.file("x").parent.glob("*.sqlite3")]
    assert len(projects) == 4
    for name in projects:
        assert contents(back.file(name)) == contents(taken.database(name))
        assert back.file(name).stat().st_mode & 0o777 == 0o600
    assert back.path.stat().st_mode & 0o777 == 0o600
    assert back.file("x").parent.stat().st_mode & 0o777 == 0o700
    assert back.path.read_bytes()[18:20] == b"\2\2", "the master is in WAL mode"
    settings = {**back.on_sqlite, "AUTH_RATE_LIMIT": "off"}
    with Service(settings, back.path.parent) as service:
        assert told.ask(service.url) == told.answers
        body = {"email": told.emails[0], "password": PASSWORD}
        said = httpx.post(service.url + "/auth/login", json=body, verify=False, timeout=30)
        assert said.status_code == 200
        api = Api(service, said.json()["access_token"])
        again = api.post("/chat", told.keyed, headers={"Idempotency-Key": "k"})
        assert again.status_code == 200
        with moved.source() as conn:
            highest = dict(conn.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
        project = api.project("new")
        session = api.session(project["id"])
        message = api.chat(session["id"], "hello").json()["user_message"]
        assert project["id"] == highest["projects"] + 1
        assert session["id"] == highest["sessions"] + 1
        assert message["id"] > highest["messages"]


def test_there_and_back_from_postgres(alone: Move, postgres_server: postgres.Server) -> None:
    """PostgreSQL, SQLite, another PostgreSQL: both hold the same, whatever types there were."""
    name = project_of(alone)
    as_role(alone, ODD, name)
    outcome = bring(alone)
    assert outcome.code == 0, outcome.report["result"]
    (project,) = outcome.report["projects"]
    left = {(each["kind"], each["name"]) for each in project["leftovers"]}
    assert left == {("type", f"odd.{column}") for column in ("f", "n", "j", "u")}
    kept = Path(outcome.report["folder"], "leftovers", f"{name}.sql").read_text("utf-8")
    assert "-- type odd.u: SQLite has no such type; its values are texts.\nuuid;\n" in kept
    master = postgres.create_master(postgres_server)
    try:
        other = replace(alone, settings={**alone.settings, **master})
        # The server is the same: the first one's database has to make way.
        renamed = f"{name}_kept"
        alone.ask(f"ALTER DATABASE {name} RENAME TO {renamed}")
        assert other.call().code == 0
        for each in master_tables():
            sql = f"SELECT * FROM {each.name}"
            assert comparable(other.ask(sql)) == comparable(alone.ask(sql))
        for table, columns in {
            "goods": "*",
            "loose": "a, x::text",
            "odd": "id, float8send(f), n::text, j::text, u::text, at::text, d, t, b, k",
            "few": "id",
        }.items():
            sql = f"SELECT {columns} FROM {table}"
            ours, theirs = other.ask(sql, name=name), alone.ask(sql, name=renamed)
            assert comparable(ours) == comparable(theirs)
    finally:
        postgres.drop_master(postgres_server, master)


def comparable(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """In one order, with bytes as such."""
    plain = (tuple(bytes(v) if isinstance(v, memoryview) else v for v in row) for row in rows)
    return sorted(plain, key=repr)


def spoil(move: Move) -> str:
    """Put into PostgreSQL whatever SQLite can't hold; the project's database."""
    name = project_of(move)
    as_role(move, ODD + BAD, name)
    move.ask("UPDATE users SET updated_at = '-infinity' WHERE id = 7")
    move.ask(
        "SET session_replication_role = replica; DELETE FROM messages WHERE id = 10; "
        "ALTER TABLE users ADD COLUMN shoe int; CREATE TABLE mine (id int); "
        "INSERT INTO projects (user_id, name, db_name) VALUES (3, 'lost', 'lost_db')"
    )
    return name


def test_everything_is_listed_at_once_and_settled(alone: Move) -> None:
    """A census of all databases comes first: each place with its option, and nothing written.

    What options take out is kept whole in a file, and what hung on it goes by its own option.
    """
    name = spoil(alone)
    outcome = bring(alone)
    assert outcome.code == 3, outcome.report["result"]
    number = alone.ask("SELECT id FROM projects WHERE name = 'lost'")[0][0]
    misfits, orphans = "--misfits=quarantine", "--orphans=quarantine"
    assert outcome.found() == {
        ("users", "id 7", "updated_at", misfits),
        ("users", "", "shoe", "--unknown=keep"),
        ("mine", "", "", "--unknown=keep"),
        ("projects", f"id {number}", "db_name", "--missing-databases=skip"),
        ("idempotency_keys", "user_id 3, key k", "user_message_id", orphans),
        ("images", "id 2", "message_id", orphans),
        *(("bad", f"id {row}", "at", misfits) for row in (1, 2, 3)),
        ("bad", "id 4", "f", misfits),
        *(("bad", f"id {row}", "n", misfits) for row in (5, 6)),
    }
    assert files(alone) == {}
    assert not alone.file("x").parent.exists()
    settled = Options(misfits="quarantine", unknown="keep", missing_databases="skip")
    outcome = bring(alone, settled)
    assert outcome.code == 3, outcome.report["result"]
    assert ("child", "bad 1") in {
        (each["table"], each["problem"].split(",")[0].replace("names ", ""))
        for each in outcome.report["findings"]
    }
    outcome = bring(alone, replace(settled, orphans="null"))
    assert outcome.code == 0, outcome.report["result"]
    kept = Path(outcome.report["folder"], "quarantine.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in kept]
    assert {(row["table"], row["row"].get("id")) for row in rows} == {
        ("users", 7),
        ("images", 2),
        *(("bad", number) for number in range(1, 7)),
    }
    assert len(outcome.report["changes"]) == len(rows) + 2
    assert contents(alone.path)["users"] != []
    project = contents(alone.file(name))
    assert project["child"] == ["(7,)", "(None,)", "(None,)"]
    assert len(project["bad"]) == 1


def test_again_is_a_verification(shared: Move, gone: Move) -> None:
    """A second run finds everything equal and touches nothing; so does one that only compares."""
    assert bring(gone).code == 0
    before = {path: path.stat().st_ino for path in (gone.path, gone.file(project_of(gone)))}
    outcome = bring(gone)
    assert {each["state"] for each in outcome.report["tables"]} == {"equal already"}
    assert bring(gone, validate_only=True).code == 0
    assert {path: path.stat().st_ino for path in before} == before
    # The very files that everything came from are equal as well.
    assert bring(shared, validate_only=True).code == 0


def test_an_earlier_copy_is_made_anew(alone: Move) -> None:
    """A copy that nobody has changed may be replaced, with what is gone; it is kept as a backup."""
    assert bring(alone).code == 0
    name = project_of(alone)
    first = contents(alone.path)
    alone.ask("UPDATE users SET name = 'Eve' WHERE id = 7")
    alone.ask("UPDATE projects SET status = 'deleting'")
    assert bring(alone, dry_run=True).code == 0
    assert contents(alone.path) == first
    outcome = bring(alone)
    assert outcome.code == 0
    assert contents(alone.path)["users"] != first["users"]
    assert not alone.file(name).exists()
    backup = Path(outcome.report["folder"], "backup")
    assert contents(backup / "master.sqlite3") == first
    assert (backup / f"{name}.sqlite3").exists()


def test_a_strangers_file_stays(gone: Move) -> None:
    """Files that are neither equal nor an unchanged copy are refused, with the first difference."""
    assert bring(gone).code == 0
    name = project_of(gone)
    with closing(sqlite3.connect(gone.file(name))) as conn, conn:
        conn.execute("UPDATE goods SET price = 7 WHERE id = 1")
    with closing(sqlite3.connect(gone.path)) as conn, conn:
        conn.execute(f"INSERT INTO audit_log VALUES (99, '{TIME}', 1, 'a', 'b', 'c', NULL)")
    gone.file("other_db").write_bytes(gone.file(name).read_bytes())
    before = files(gone)
    outcome = bring(gone)
    assert outcome.code == 4
    assert outcome.differences() == {
        ("master", "audit_log", "id 99", ""),
        (name, "goods", "id 1", "price"),
        ("other_db", "", "the file other_db.sqlite3", ""),
    }
    assert bring(gone, validate_only=True).code == 1
    assert files(gone) == before


def test_what_is_there_counts(gone: Move) -> None:
    """A file that can't be read, a log without its file, and ids to be given away twice."""
    gone.path.parent.mkdir()
    for path in (gone.path, gone.path.with_name("master.db-wal")):
        path.write_bytes(b"something" * 100)
        assert bring(gone).code == 4
        assert path.read_bytes() == b"something" * 100
        path.unlink()
    assert not gone.file(project_of(gone)).exists()
    assert bring(gone).code == 0
    with closing(sqlite3.connect(gone.path)) as conn, conn:
        conn.execute("UPDATE sqlite_sequence SET seq = 15 WHERE name = 'messages'")
    outcome = bring(gone, validate_only=True)
    assert outcome.code == 1
    assert outcome.differences() == {("master", "messages", "the highest id given away", "")}


def test_nobody_may_use_what_is_replaced(gone: Move) -> None:
    """A service on the files would go on writing into those that are no longer there."""
    assert bring(gone).code == 0
    gone.ask("UPDATE users SET name = 'Eve' WHERE id = 7")
    with closing(sqlite3.connect(gone.path)) as conn:
        conn.execute("SELECT * FROM users").fetchall()
        before = files(gone)
        outcome = bring(gone)
        assert (outcome.code, "is in use" in outcome.report["result"]) == (2, True)
    assert files(gone) == before
    assert bring(gone).code == 0


def test_two_at_once(gone: Move, tmp_path: Path) -> None:
    """One migration from a database, and one into a folder, at a time."""
    with gone.target() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (at_target.LOCK,))
        assert bring(gone).code == 2
        cursor.execute("SELECT pg_advisory_unlock(%s)", (at_target.LOCK,))
    gone.path.parent.mkdir(exist_ok=True)
    handle = os.open(gone.path.parent, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert bring(gone).code == 2
    os.close(handle)
    assert bring(gone).code == 0


def test_a_write_meanwhile_is_named(gone: Move) -> None:
    """The files are of one moment; that there was a later one is told, with table and row."""
    name = project_of(gone)
    # Sent at once they are one transaction, of the first table that is read and of the last.
    both = f"""
        INSERT INTO auth_attempts (kind, account, address, pending, at)
            VALUES ('a', 'b', 'c', TRUE, '{TIME}');
        INSERT INTO imported_messages (session_id, source_id, user_id, digest)
            VALUES (9, gen_random_uuid()::text, 3, 'd')
    """
    price = "UPDATE goods SET price = price + 1 WHERE id = 1"
    with gone.target() as conn, gone.target(name) as project:
        with writing(conn, both), writing(project, price):
            outcome = bring(gone)
        assert outcome.code == 5
        changed = outcome.report["changed"]
        assert set(changed) == {"auth_attempts", "imported_messages", f"{name}.goods"}
        assert changed[f"{name}.goods"] == "id 1"
        found = contents(gone.path)
        assert len(found["auth_attempts"]) + 1 == len(found["imported_messages"])
        # Run again after that, it brings what has changed.
        assert bring(gone).code == 0


def test_others_may_write_to_their_own(gone: Move, postgres_server: postgres.Server) -> None:
    """Only what the files are made of counts: the server may have other databases."""
    with closing(postgres_server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute("CREATE TABLE busy (x int)")
        try:
            with writing(conn, "INSERT INTO busy VALUES (1)"):
                assert bring(gone).code == 0
        finally:
            cursor.execute("DROP TABLE busy")


NEWEST = next(step for step in migrate.steps("postgresql") if step.name == "0007_imports")
# What spoils the master, what mends it, and how the way back ends meanwhile.
SPOILT = (
    (
        "UPDATE schema_migrations SET name = '7' WHERE name = '0007_imports'",
        "UPDATE schema_migrations SET name = '0007_imports' WHERE name = '7'",
        2,
    ),
    (
        "DELETE FROM schema_migrations WHERE name = '0007_imports'",
        f"INSERT INTO schema_migrations VALUES ('0007_imports', '{NEWEST.checksum}', '')",
        3,
    ),
    ("CREATE TABLE unfinished_migration (id int)", "DROP TABLE unfinished_migration", 2),
    (
        "ALTER TABLE messages RENAME COLUMN model TO kind",
        "ALTER TABLE messages RENAME COLUMN kind TO model",
        3,
    ),
    ("ALTER TABLE users RENAME TO people", "ALTER TABLE people RENAME TO users", 2),
)


def test_the_source_must_be_a_master_of_this_code(gone: Move) -> None:
    """One of an older or newer schema, half made, or no master at all, ends before a file."""
    for spoilt, mended, code in SPOILT:
        as_role(gone, spoilt)
        assert bring(gone).code == code, spoilt
        as_role(gone, mended)
    assert files(gone) == {}
    assert bring(gone, dry_run=True).code == 0


def test_merging_goes_one_way(gone: Move) -> None:
    """New ids for rows that collide are for bringing a file home into PostgreSQL alone."""
    outcome = gone.run("--to", "sqlite", "--merge")
    assert outcome.code == 2
    assert "--merge" in outcome.report["result"]


# Starts runs without starting Python each time. Kills each after the seconds that it reads, and
# after 0 when the first of the files has been put in place.
KILLER = """
import os, signal, sys, time
from pathlib import Path
from server.migration.census import Options
from server.migration.report import Report, Screen
from server.migration.to_postgres import Request
from server.migration.to_sqlite import WayBack

def places():
    return [os.stat(path).st_ino if os.path.exists(path) else 0 for path in sys.argv[2:]]

for line in sys.stdin:
    before, seconds = places(), float(line)
    child = os.fork()
    if child == 0:
        request = Request(Path(sys.argv[1]), Options())
        os._exit(WayBack(request, Screen(quiet=True), Report("")).go().exit)
    ended = 0
    while not seconds and places() == before and not ended:
        ended = os.waitpid(child, os.WNOHANG)[0]
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL) if not ended else None
    status = 0 if ended else os.waitpid(child, 0)[1]
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


def test_killed_at_any_moment(gone: Move) -> None:
    """kill -9: under its own name each file is whole, old or new, the master never before its
    projects' files; and the next run comes to the end that an undisturbed one comes to.
    """
    name = project_of(gone)
    gone.ask("INSERT INTO goods (name) SELECT 'n' || n FROM generate_series(1, 9000) n", name=name)
    killer = subprocess.Popen(
        [sys.executable, "-c", KILLER, gone.backups, gone.path, gone.file(name)],
        cwd=ROOT,
        env=environment(gone.settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert killer.stdin
    assert killer.stdout
    killed = 0
    with killer:
        for number in range(KILLS):
            # Both files change each time, so that there is something to put in place.
            gone.ask("UPDATE users SET name = %s WHERE id = 7", str(number))
            gone.ask("UPDATE goods SET name = %s WHERE id = 1", str(number), name=name)
            killer.stdin.write(f"{random.uniform(0.02, 0.5) if number % 2 else 0}\n")
            killer.stdin.flush()
            killed += killer.stdout.readline().strip() == "-9"
            users, goods = (
                version(path, table)
                for path, table in (
                    (gone.path, "users WHERE id = 7"),
                    (gone.file(name), "goods WHERE id = 1"),
                )
            )
            assert goods is None or int(goods) >= int(users or -1)
        killer.stdin.close()
    assert killed > KILLS / 4
    assert bring(gone).code == 0
    assert version(gone.path, "users WHERE id = 7") == str(KILLS - 1)
    assert list(gone.path.parent.glob("[!b]*/*.part*")) == []
    assert list(gone.path.parent.glob("*.part*")) == []
    assert bring(elsewhere(gone, "undisturbed")).code == 0
    assert contents(elsewhere(gone, "undisturbed").path) == contents(gone.path)


def version(path: Path, row: str) -> str | None:
    """The number that a whole file has in the row; None where no file is."""
    if not path.exists():
        return None
    contents(path)
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as conn:
        return str(conn.execute(f"SELECT name FROM {row}").fetchone()[0])
