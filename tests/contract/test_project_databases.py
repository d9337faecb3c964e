"""A project's database comes whole or not at all, and goes only if it is the project's."""

import hashlib
import itertools
import os
import secrets
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql

import database_adapter
from server.settings import get_settings
from server.storage import contract
from server.storage.contract import execute, fetch_all, fetch_one
from server.storage.names import Refused
from tests import checkout, postgres
from tests.conftest import with_settings

PROTECTED = (
    "dreampilot",
    "defaultdb",
    "postgres",
    "template0",
    "template1",
    "information_schema",
    "pg_catalog",
)
SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    str.title,
    lambda name: name.replace("_", "-"),
    lambda name: f" {name}\t",
    lambda name: f"{name}\n",
)
MALFORMED = (
    "",
    "_db",
    "1a_db",
    "a_DB",
    "A_db",
    "a-b_db",
    "a_db ",
    "a_db\n",
    "a_db\0",
    "a\0_db",
    "dreampilot\0_db",
    "\u00e9_db",
    "\u0440\u043estgres_db",
    "a" * 61 + "_db",
    "amazon",
    'a"_db',
    'x"; DROP DATABASE postgres; --_db',
    "a'_db",
    "a%s_db",
    "a{}_db",
    "../a_db",
    "a/../a_db",
    "/etc/passwd_db",
    "./a_db",
    "a.b_db",
    "..",
    ".",
    '"dreampilot"',
)


@pytest.fixture
def name() -> str:
    """A project's name that no other test has on the same server."""
    return f"p-{secrets.token_hex(4)}"


@contextmanager
def inside(database: contract.Database, db_name: str) -> Iterator[None]:
    """Meanwhile another client is connected to the project's database and has used it."""
    settings = get_settings()
    if database.BACKEND == "sqlite":
        with closing(sqlite3.connect(settings.project_databases / f"{db_name}.sqlite3")) as file:
            file.execute("BEGIN")
            file.execute("SELECT count(*) FROM sqlite_master").fetchone()
            yield
    else:
        with closing(raw(db_name)):
            yield


def raw(db_name: str) -> psycopg2.extensions.connection:
    """A connection as the application's role, past all of the service's code."""
    settings = get_settings()
    conn = psycopg2.connect(
        host=settings.db_host,
        port=settings.db_port,
        dbname=db_name,
        user=settings.db_user,
        password=settings.db_password.get_secret_value(),
    )
    conn.autocommit = True
    return conn


def refuses_to_drop(master: str, place: str, words: str) -> None:
    """The server itself says no to our role, connected to `place`, whatever the force."""
    with closing(raw(place)) as conn, conn.cursor() as cursor:
        for force in ("", " WITH (FORCE)"):
            drop = sql.SQL("DROP DATABASE {}" + force).format(sql.Identifier(master))
            with pytest.raises(psycopg2.Error, match=words):
                cursor.execute(drop)


def everything(database: contract.Database) -> set[str]:
    """Every database, or every file in their folder, that our role or process has made."""
    if database.BACKEND == "sqlite":
        folder = get_settings().project_databases
        return {path.name for path in folder.iterdir()} if folder.exists() else set()
    with database.read_db() as conn:
        rows = fetch_all(
            conn,
            "SELECT datname FROM pg_database WHERE datdba = "
            "(SELECT oid FROM pg_roles WHERE rolname = current_user) "
            "AND datname <> current_database()",
        )
    return {row["datname"] for row in rows}


def make_row(database: contract.Database, project: str, db_name: str) -> int:
    """A project's row, as a migration or somebody by hand may have written it; its id."""
    with database.get_db() as conn:
        user = fetch_one(
            conn,
            "INSERT INTO users (email, password_hash) VALUES (%s, 'x') RETURNING id",
            (secrets.token_hex(4),),
        )
        assert user is not None
        row = fetch_one(
            conn,
            "INSERT INTO projects (user_id, name, db_name) VALUES (%s, %s, %s) RETURNING id",
            (user["id"], project, db_name),
        )
    assert row is not None
    return int(row["id"])


def test_from_creation_to_the_end(database: contract.Database, name: str) -> None:
    """Made, described, dropped; a second drop finds nothing and says so."""
    db_name = database.create_project_database(name, "CREATE TABLE b (id BIGINT)", 1)
    assert db_name == name.replace("-", "_") + "_db"
    described = database.describe_project_database(db_name)
    assert described is not None
    assert described["size_bytes"] > 0
    assert {**described, "size_bytes": 0} == {
        "name": db_name,
        "backend": database.BACKEND,
        "size_bytes": 0,
        "tables": ["b"],
    }
    assert database.drop_project_database(db_name, 1, force=False) is True
    assert database.describe_project_database(db_name) is None
    assert database.drop_project_database(db_name, 1, force=False) is False
    assert database.drop_project_database(db_name, 1, force=True) is False
    assert everything(database) == set()


def test_a_look_inside_does_not_make_it_busy(database: contract.Database, name: str) -> None:
    """Drop right after describe: our own connection, just closed, is nobody else's.

    The server takes a moment to notice that a connection has ended; a client that shows a project
    and deletes it must not meet a 409 now and then.
    """
    for number in range(5):
        db_name = database.create_project_database(f"{name}-{number}", "", 1)
        assert database.describe_project_database(db_name) is not None
        assert database.drop_project_database(db_name, 1, force=False)


def test_the_template_is_applied_as_it_stands(database: contract.Database, name: str) -> None:
    """In the dialect of schema/, with `;` in a text and `%` in a condition.

    An operator's template with a LIKE condition failed on PostgreSQL: psycopg2 took the `%` for
    a placeholder.
    """
    template = """
        -- A comment; with a semicolon.
        CREATE TABLE customers (
            id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
            email TEXT NOT NULL CHECK (email LIKE '%@%'),
            note TEXT DEFAULT 'a;b''c %s %(x)s',
            at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
            photo BYTEA
        );
        CREATE INDEX customers_email ON customers (email);
        INSERT INTO customers (email) VALUES ('ada@example.com')
    """
    db_name = database.create_project_database(name, template, 1)
    described = database.describe_project_database(db_name)
    assert described is not None
    assert described["tables"] == ["customers"]
    query = "SELECT id, email, note FROM customers"
    if database.BACKEND == "sqlite":
        path = get_settings().project_databases / f"{db_name}.sqlite3"
        with closing(sqlite3.connect(path)) as file:
            rows = file.execute(query).fetchall()
        assert path.stat().st_mode & 0o777 == 0o600
    else:
        with closing(raw(db_name)) as conn, conn.cursor() as cursor:
            cursor.execute(query)
            rows = cursor.fetchall()
    assert rows == [(1, "ada@example.com", "a;b'c %s %(x)s")]


BAD_TEMPLATES = (
    "CREATE TABLE a (id BIGINT); CREATE TABLE a (id BIGINT);",
    "CREATE TABLE a (id BIGINT PRIMARY KEY); INSERT INTO a VALUES (1), (1)",
    "CREATE TABLE a (id BIGINT); INSERT INTO nowhere VALUES (1)",
    "CREATE TABLE a (id BIGINT); CREATE TABEL b (id BIGINT)",
    "CREATE TABLE a (id BIGINT); SELECT ?",
    "CREATE TABLE a (id BIGINT); SELECT 'unfinished",
    "CREATE TABLE a (id BIGINT NOT NULL); INSERT INTO a VALUES (NULL)",
)


def test_a_bad_template_leaves_nothing(database: contract.Database, name: str) -> None:
    """`TemplateFailed`, no database, no file, and the name is free for the next attempt."""
    for template in BAD_TEMPLATES:
        with pytest.raises(contract.TemplateFailed):
            database.create_project_database(name, template, 1)
        assert everything(database) == set(), template
    assert database.create_project_database(name, "", 1)


def test_a_second_of_the_same_name_is_refused(database: contract.Database, name: str) -> None:
    """`my-app` and `my_app` need the same database: the second is `DatabaseExists`."""
    db_name = database.create_project_database(name, "CREATE TABLE first (id BIGINT)", 1)
    for again in (name, name.replace("-", "_")):
        with pytest.raises(contract.DatabaseExists):
            database.create_project_database(again, "CREATE TABLE second (id BIGINT)", 2)
    described = database.describe_project_database(db_name)
    assert described is not None
    assert described["tables"] == ["first"]
    assert len(everything(database)) == 1


def test_of_creations_at_the_same_moment_one_wins(database: contract.Database, name: str) -> None:
    """One makes it, all others are told that it exists, and nothing half made stays."""

    def create(number: int) -> str:
        try:
            return database.create_project_database(name, "CREATE TABLE a (id BIGINT)", number + 1)
        except contract.DatabaseExists:
            return "exists"

    with ThreadPoolExecutor(4) as threads:
        results = sorted(threads.map(create, range(4)))
    assert results == ["exists"] * 3 + [name.replace("-", "_") + "_db"]
    assert len(everything(database)) == 1


def test_a_foreign_database_is_not_adopted(database: contract.Database, name: str) -> None:
    """What lies there already under the name is neither taken over nor changed."""
    db_name = name.replace("-", "_") + "_db"
    if database.BACKEND == "sqlite":
        path = get_settings().project_databases / f"{db_name}.sqlite3"
        path.parent.mkdir()
        path.write_bytes(b"somebody's")
        with pytest.raises(contract.DatabaseExists):
            database.create_project_database(name, "", 1)
        assert path.read_bytes() == b"somebody's"
    else:
        with closing(raw("postgres")) as conn, conn.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(db_name)))
        with pytest.raises(contract.DatabaseExists):
            database.create_project_database(name, "", 1)
        for project_id in (None, 1):
            for force in (False, True):
                with pytest.raises(Refused, match="not the one that this project") as caught:
                    database.drop_project_database(db_name, project_id, force)
                assert caught.value.hard
    assert len(everything(database)) == 1


def test_postgres_another_projects_database_is_kept(
    postgres_database: contract.Database, name: str
) -> None:
    """The identity is in the database, not in its name: another project's is refused for good.

    Somebody had dropped and made `foo_db` anew behind the service: same name, other data.
    """
    db_name = postgres_database.create_project_database(name, "", 7)
    for project_id in (8, 77, 0, -7, None):
        for force in (False, True):
            with pytest.raises(Refused) as caught:
                postgres_database.drop_project_database(db_name, project_id, force)
            assert caught.value.hard
    assert postgres_database.drop_project_database(db_name, 7, force=False)


def test_postgres_another_masters_database_is_kept(
    postgres_database: contract.Database, server: postgres.Server, name: str
) -> None:
    """Production and development share a server: project 7 of one isn't project 7 of the other.

    Both masters belong to the same role here, so that only the mark in the database tells.
    """
    db_name = postgres_database.create_project_database(name, "", 7)
    other = f"other_{secrets.token_hex(4)}"
    with closing(raw("postgres")) as conn, conn.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(other)))
    with_settings({"DB_NAME": other})
    postgres_database.close_pool()
    postgres_database.init_schema()
    with pytest.raises(Refused) as caught:
        postgres_database.drop_project_database(db_name, 7, force=True)
    assert caught.value.hard


def test_in_use_gives_way_to_force_alone(database: contract.Database, name: str) -> None:
    """While others are connected it is a soft refusal, quickly; forced, they are cut off."""
    db_name = database.create_project_database(name, "CREATE TABLE a (id BIGINT)", 1)
    with inside(database, db_name):
        started = time.monotonic()
        with pytest.raises(Refused, match="in use") as caught:
            database.drop_project_database(db_name, 1, force=False)
        assert time.monotonic() - started < 2
        assert (caught.value.hard, caught.value.in_use) == (False, True)
        assert database.describe_project_database(db_name) is not None
        assert database.drop_project_database(db_name, 1, force=True) is True
    assert everything(database) == set()


def test_postgres_a_superuser_inside_is_not_sent_away(
    postgres_database: contract.Database, server: postgres.Server, name: str
) -> None:
    """Our role can't end a superuser's connection: refused, also forced, and never a 500."""
    db_name = postgres_database.create_project_database(name, "", 1)
    with closing(server.connect(db_name)):
        for force in (False, True):
            started = time.monotonic()
            with pytest.raises(Refused) as caught:
                postgres_database.drop_project_database(db_name, 1, force)
            assert caught.value.in_use
            assert time.monotonic() - started < 1
    assert postgres_database.drop_project_database(db_name, 1, force=True)


def test_protected_names_are_never_touched(database: contract.Database) -> None:
    """Not created, not dropped, in no spelling, whatever `force` says, below every flag."""
    for protected, spell in itertools.product(PROTECTED, SPELLINGS):
        spelling = spell(protected)
        for force in (False, True):
            with pytest.raises(Refused) as caught:
                database.drop_project_database(spelling, None, force)
            assert caught.value.hard
        allowed, reason = database.validate_project_database_deletion(protected, spelling)
        assert not allowed
        assert reason in (
            f"Cannot delete master database '{spelling}'. "
            "Master database is protected from deletion.",
            f"Cannot delete system database '{spelling}'.",
        )
        assert database.is_master_database(spelling) == (protected in PROTECTED[:3])
        with pytest.raises(Refused):
            database.create_project_database(spelling, "", 1)
    assert everything(database) == set()


def test_the_configured_master_is_protected_like_the_known_ones(
    database: contract.Database, name: str
) -> None:
    """With `DB_NAME=shop_db` the project `shop` would own the master: refused at its creation."""
    master = name.replace("-", "_") + "_db"
    with_settings({"DB_NAME": master})
    for spelling in (master, master.upper(), master.replace("_", "-"), f"{master} "):
        assert database.is_master_database(spelling)
        with pytest.raises(Refused) as caught:
            database.drop_project_database(spelling, None, force=True)
        assert caught.value.hard
        assert database.validate_project_database_deletion(name, spelling) == (
            False,
            f"Cannot delete master database '{spelling}'. "
            "Master database is protected from deletion.",
        )
    for project in (name, name.replace("-", "_")):
        with pytest.raises(Refused):
            database.create_project_database(project, "", 1)
        with pytest.raises(Refused):
            database_adapter.new_database_name(project)
    result = database.delete_project_database(name, force=True)
    assert result == {
        "success": False,
        "database": master,
        "error": f"Cannot delete master database '{master}'. "
        "Master database is protected from deletion.",
    }


def test_a_malformed_name_is_refused_for_good(database: contract.Database) -> None:
    """NUL, quotes, paths, foreign letters, 64 bytes: nothing of it reaches a statement or file.

    psycopg2 cuts an identifier at a NUL: `DROP DATABASE "dreampilot\\0_db"` ran on the master.
    """
    for db_name in MALFORMED:
        for force in (False, True):
            with pytest.raises(Refused) as caught:
                database.drop_project_database(db_name, None, force)
            assert caught.value.hard
        assert not database.validate_project_database_deletion("a", db_name)[0]
        project = db_name.removesuffix("_db")
        if project not in ("amazon", "a-b"):
            with pytest.raises(Refused):
                database.create_project_database(project, "", 1)
    assert everything(database) == set()


def test_the_longest_name(database: contract.Database) -> None:
    """59 characters and `_db` are 62 bytes: kept whole. 60 would be cut by PostgreSQL silently."""
    project = f"p{secrets.token_hex(4)}".ljust(59, "x")
    db_name = database.create_project_database(project, "", 1)
    assert db_name == project + "_db"
    assert database.describe_project_database(db_name) is not None
    with pytest.raises(Refused):
        database.create_project_database(project + "x", "", 1)
    assert database.drop_project_database(db_name, 1, force=False)


def test_the_guards_words(database: contract.Database) -> None:
    """Frontends show these texts: word for word."""
    validate = database.validate_project_database_deletion
    assert validate("amazon", "amazon_db") == (True, "Validation passed")
    assert validate("my-app", "my_app_db") == (True, "Validation passed")
    assert validate("amazon", "newprojectdemo_db") == (
        False,
        "Database name 'newprojectdemo_db' doesn't match expected pattern 'amazon_db' "
        "for project 'amazon'",
    )
    assert validate("amazon", "DreamPilot") == (
        False,
        "Cannot delete master database 'DreamPilot'. Master database is protected from deletion.",
    )
    assert validate("amazon", "pg_catalog") == (
        False,
        "Cannot delete system database 'pg_catalog'.",
    )


def test_deletion_by_name(database: contract.Database, name: str) -> None:
    """The function that the users' documents call, with its results word for word."""
    db_name = name.replace("-", "_") + "_db"
    for force in (False, True):
        project_id = make_row(database, name, db_name)
        database.create_project_database(name, "", project_id)
        result = database.delete_project_database(name, force=force)
        expected = {"success": True, "database": db_name}
        if force:
            expected["warning"] = f"FORCE deletion requested for database {db_name}"
        assert result == expected
        assert everything(database) == set()
        with database.get_db() as conn:
            execute(conn, "DELETE FROM projects WHERE id = %s", (project_id,))
    assert database.delete_project_database(name) == {
        "success": True,
        "database": db_name,
        "warning": f"Database '{db_name}' did not exist",
    }


def test_deletion_by_name_of_a_database_without_a_row(
    database: contract.Database, name: str
) -> None:
    """What a script made with no project behind it, a script can drop again."""
    db_name = database.create_project_database(name)
    assert database.delete_project_database(name) == {"success": True, "database": db_name}
    assert everything(database) == set()


def test_deletion_by_name_refuses(database: contract.Database, name: str) -> None:
    """A row with a wrong database: softly where it could be the project's, hard where never."""
    make_row(database, name, "newprojectdemo_db")
    assert database.delete_project_database(name) == {
        "success": False,
        "database": "newprojectdemo_db",
        "error": "Database name 'newprojectdemo_db' doesn't match expected pattern "
        f"'{name.replace('-', '_')}_db' for project '{name}'",
    }
    make_row(database, f"{name}-2", "postgres")
    for force in (False, True):
        assert database.delete_project_database(f"{name}-2", force) == {
            "success": False,
            "database": "postgres",
            "error": "Cannot delete master database 'postgres'. "
            "Master database is protected from deletion.",
        }
    for project in ('x"; DROP DATABASE postgres; --', "a\0", "", "../x", "%s", "é"):
        for force in (False, True):
            result = database.delete_project_database(project, force)
            assert (result["success"], result["database"]) == (
                False,
                project.replace("-", "_").lower() + "_db",
            )
            assert result["error"]


def test_deletion_by_name_while_in_use(database: contract.Database, name: str) -> None:
    """Somebody connected: refused with the reason, and forced it goes."""
    db_name = database.create_project_database(name)
    with inside(database, db_name):
        assert database.delete_project_database(name) == {
            "success": False,
            "database": db_name,
            "error": f"Database '{db_name}' is in use by other connections.",
        }
        assert database.delete_project_database(name, force=True)["success"]


def test_the_lock_of_a_name_is_let_go_by_a_killed_process(
    database: contract.Database, master: dict[str, str], name: str
) -> None:
    """While another process holds it: `Busy` at once, here and for deletions; after kill -9: free.

    A lock that outlived its process would leave a project that nobody can delete.
    """
    db_name = database.create_project_database(name)
    hold = (
        f"with database_adapter.lock_project_database({db_name!r}):\n"
        "    print('held', flush=True); sys.stdin.readline()"
    )
    with checkout.ready(hold, master) as process:
        checkout.go(process)
        assert checkout.line(process) == "held"
        started = time.monotonic()
        with pytest.raises(contract.Locked), database.lock_project_database(db_name):
            pass
        assert time.monotonic() - started < 1
        result = database.delete_project_database(name, force=True)
        assert result == {
            "success": False,
            "database": db_name,
            "error": f"database '{db_name}' is being created or deleted",
        }
        with database.lock_project_database(f"other_{db_name}"):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 3
    while not (result := database.delete_project_database(name))["success"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert result["success"]


def test_postgres_a_lock_is_let_go_at_once(postgres_database: contract.Database, name: str) -> None:
    """The lock is free when its block ends, not when the server notices that the connection has.

    A deletion right after the creation was 409 now and then.
    """
    db_name = postgres_database.create_project_database(name, "", 1)
    with closing(raw(get_settings().db_name)) as conn, conn.cursor() as cursor:
        for _ in range(20):
            with postgres_database.lock_project_database(db_name):
                pass
            cursor.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = "
                "(SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            assert cursor.fetchone() == (0,)


def test_the_lock_of_a_name_excludes_threads(database: contract.Database, name: str) -> None:
    """Two requests of one process exclude each other too, and an exception lets go."""
    with pytest.raises(ZeroDivisionError), database.lock_project_database(name):
        _ = 1 / 0
    holders = []

    def try_it(number: int) -> None:
        for _ in range(10):
            try:
                with database.lock_project_database(name):
                    holders.append(number)
                    time.sleep(0.001)
                    assert holders == [number]
                    holders.clear()
            except contract.Busy:
                pass

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(try_it, range(4)))
    with database.lock_project_database(name):
        pass


def test_a_creation_that_was_killed_is_swept_away(
    database: contract.Database, master: dict[str, str], name: str
) -> None:
    """Half of a database is invisible under its name, and removed; one in the making is not."""
    slow = (
        "SELECT pg_sleep(60)"
        if database.BACKEND == "postgresql"
        else "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    )
    template = f"CREATE TABLE a (id BIGINT); {slow};"
    code = f"database_adapter.create_project_database({name!r}, {template!r}, 1)"
    with checkout.ready(code, master) as process:
        checkout.go(process)
        deadline = time.monotonic() + 10
        while not everything(database):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert database.sweep_project_databases() == []
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    left = everything(database)
    assert left
    assert not any(entry.startswith(name.replace("-", "_")) for entry in left)
    if database.BACKEND == "sqlite":
        assert database.sweep_project_databases() == []
        for entry in left:
            os.utime(get_settings().project_databases / entry, (1, 1))
    deadline = time.monotonic() + 5
    while not (swept := database.sweep_project_databases()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert set(swept) == left
    assert everything(database) == set()
    assert database.create_project_database(name, "", 1)


def test_postgres_itself_refuses_to_drop_the_master(
    postgres_database: contract.Database, server: postgres.Server
) -> None:
    """The third guard: our role owns the master, and the server says no, also to FORCE.

    Connected to it: it can't be dropped. From elsewhere: it is a template.
    """
    master = get_settings().db_name
    refuses_to_drop(master, "postgres", "template database")
    refuses_to_drop(master, master, "template database")
    with closing(server.connect()) as outside, outside.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {master} IS_TEMPLATE false")
    refuses_to_drop(master, master, "currently open database")
    with postgres_database.read_db() as conn:
        assert fetch_one(conn, "SELECT count(*) AS n FROM users") == {"n": 0}


def test_postgres_a_master_of_somebody_else_is_not_marked(
    postgres_database: contract.Database, server: postgres.Server
) -> None:
    """In the recommended set-up the role doesn't own the master: that protects it, and more.

    A template may be cloned by every role that can make databases, so only an own one is marked.
    """
    name, role = get_settings().db_name, get_settings().db_user
    with closing(server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {name} IS_TEMPLATE false")
        cursor.execute(f"ALTER DATABASE {name} OWNER TO postgres")
    with closing(server.connect(name)) as conn, conn.cursor() as cursor:
        cursor.execute(f"GRANT ALL ON SCHEMA public TO {role}")
    postgres_database.init_schema()
    with closing(server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT datistemplate FROM pg_database WHERE datname = %s", (name,))
        assert cursor.fetchone() == (False,)
    refuses_to_drop(name, "postgres", "must be owner")


def test_postgres_without_the_right_to_make_databases(
    postgres_database: contract.Database, server: postgres.Server, name: str
) -> None:
    """A role without CREATEDB: nothing is left behind, and given the right it works at once."""
    role = get_settings().db_user
    with closing(server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(f"ALTER ROLE {role} NOCREATEDB")
        with pytest.raises(contract.Misconfigured, match="permission denied to create database"):
            postgres_database.create_project_database(name, "", 1)
        cursor.execute(f"ALTER ROLE {role} CREATEDB")
    assert everything(postgres_database) == set()
    assert postgres_database.create_project_database(name, "", 1)


@pytest.mark.parametrize("link", ["symbolic", "hard", "loop", "outside", "folder"])
def test_sqlite_no_way_leads_out_of_the_folder(
    sqlite_database: contract.Database, tmp_path: Path, link: str
) -> None:
    """A project's file that is really another file is never opened and never removed."""
    settings = get_settings()
    folder, master = settings.project_databases, settings.db_path
    outside = tmp_path / "precious.sqlite3"
    outside.write_bytes(b"precious")
    folder.mkdir()
    path = folder / "trap_db.sqlite3"
    match link:
        case "symbolic":
            path.symlink_to(os.path.relpath(master, folder))
        case "hard":
            path.hardlink_to(master)
        case "loop":
            path.symlink_to(path)
        case "outside":
            path.symlink_to(outside)
        case "folder":
            (tmp_path / "elsewhere").mkdir()
            path.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for force in (False, True):
        with pytest.raises(Refused) as caught:
            sqlite_database.drop_project_database("trap_db", 1, force)
        assert caught.value.hard
    with pytest.raises(Refused):
        sqlite_database.describe_project_database("trap_db")
    assert sqlite_database.is_master_database("trap_db") == (link in ("symbolic", "hard"))
    if link in ("symbolic", "hard"):
        with pytest.raises(Refused):
            database_adapter.new_database_name("trap")
    with pytest.raises((contract.DatabaseExists, Refused)):
        sqlite_database.create_project_database("trap", "", 1)
    assert path.is_symlink() or path.samefile(master)
    assert outside.read_bytes() == b"precious"
    sqlite_database.ping()


@pytest.mark.parametrize("place", ["same-folder", "linked-folder"])
def test_sqlite_the_master_among_the_projects(tmp_path: Path, place: str) -> None:
    """A master that lies where a project's database would lie is found by its path.

    No name gives it away here: DB_NAME says nothing on SQLite.
    """
    folder = tmp_path / "data"
    folder.mkdir()
    if place == "linked-folder":
        (tmp_path / "link").symlink_to(folder)
    projects = tmp_path / ("link" if place == "linked-folder" else "data/../data")
    settings = {
        "USE_POSTGRES": "false",
        "DB_PATH": str(folder / "shop_db.sqlite3"),
        "PROJECT_DB_DIR": str(projects),
    }
    code = """
from server.storage.contract import DatabaseError
database = database_adapter
database.init_schema()
assert database.is_master_database("shop_db")
assert database.is_master_database(sys.argv[0]) is False
for attempt in (
    lambda: database.new_database_name("shop"),
    lambda: database.create_project_database("shop", "", 1),
    lambda: database.drop_project_database("shop_db", 1, True),
    lambda: database.describe_project_database("shop_db"),
):
    try:
        attempt()
    except DatabaseError as error:
        continue
    sys.exit("not refused")
assert not database.delete_project_database("shop", True)["success"]
assert database.create_project_database("other", "", 1) == "other_db"
assert database.drop_project_database("other_db", 1, False)
database.ping()
"""
    assert checkout.run(code, settings) == (0, "")
    assert (folder / "shop_db.sqlite3").stat().st_size > 0


def test_sqlite_the_master_by_its_path(sqlite_database: contract.Database, tmp_path: Path) -> None:
    """A path that leads to the master is the master, through links and `..` too."""
    master = get_settings().db_path
    link = tmp_path / "link"
    link.symlink_to(master)
    for path in (master, link, tmp_path / "x" / ".." / master.name, f"{master}\0.txt"):
        assert sqlite_database.is_master_database(str(path)), path
    for path in (tmp_path / "other", "", ".", "x" * 5000, "\ud800", "é"):
        assert not sqlite_database.is_master_database(str(path)), path


def test_sqlite_a_drop_takes_the_side_files_too(sqlite_database: contract.Database) -> None:
    """A journal that stayed would be played into the next database of the same name."""
    db_name = sqlite_database.create_project_database("shop", "CREATE TABLE a (id BIGINT)", 1)
    path = get_settings().project_databases / f"{db_name}.sqlite3"
    for suffix in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).touch()
    assert sqlite_database.drop_project_database(db_name, 1, force=True)
    assert list(path.parent.iterdir()) == []


def test_sqlite_a_project_in_wal_mode_is_in_use(sqlite_database: contract.Database) -> None:
    """A client that merely has the file open, without a transaction, counts in WAL mode."""
    db_name = sqlite_database.create_project_database("shop", "CREATE TABLE a (id BIGINT)", 1)
    path = get_settings().project_databases / f"{db_name}.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("INSERT INTO a VALUES (1)")
        with pytest.raises(Refused) as caught:
            sqlite_database.drop_project_database(db_name, 1, force=False)
        assert caught.value.in_use
    assert sqlite_database.drop_project_database(db_name, 1, force=False)


def test_sqlite_an_unwritable_folder(sqlite_database: contract.Database, tmp_path: Path) -> None:
    """No place for project databases is a failing database, not a crash."""
    get_settings().project_databases.write_text("not a folder")
    with pytest.raises(contract.Unavailable):
        sqlite_database.create_project_database("shop", "", 1)
    with pytest.raises(contract.Unavailable), sqlite_database.lock_project_database("shop_db"):
        pass


def test_deletion_by_a_name_that_is_no_text(database: contract.Database) -> None:
    """A script's mistake is refused, and `None` does not mean the project `none`."""
    database.create_project_database("none", "", 1)
    odd: tuple[Any, ...] = (None, 5, True, 1.5, b"none", ["none"], {}, object())
    for project in odd:
        for force in (False, True):
            result = database.delete_project_database(project, force)
            assert not result["success"]
            assert result["error"]
        assert not database.validate_project_database_deletion(project, "none_db")[0]
        with pytest.raises(Refused):
            database.create_project_database(project)
        with pytest.raises(Refused):
            database.drop_project_database(project, None, force=True)
    assert database.drop_project_database("none_db", 1, force=False)


def test_what_a_creation_made_is_known(database: contract.Database, name: str) -> None:
    """Its mark tells it from what somebody else put in its place."""
    db_name = name.replace("-", "_") + "_db"
    assert not database.project_database_exists(db_name)
    assert not database.made_project_database(db_name, 1)
    database.create_project_database(name, "CREATE TABLE a (id BIGINT)", 1)
    assert database.project_database_exists(db_name)
    assert database.made_project_database(db_name, 1)
    if database.BACKEND == "postgresql":
        assert not database.made_project_database(db_name, 2)
    assert database.drop_project_database(db_name, 1, force=False)
    make_foreign(database, db_name)
    assert database.project_database_exists(db_name)
    assert not database.made_project_database(db_name, 1)


def make_foreign(database: contract.Database, db_name: str) -> None:
    """Something of a project database's name that the service didn't make."""
    if database.BACKEND == "sqlite":
        path = get_settings().project_databases / f"{db_name}.sqlite3"
        path.write_bytes(b"somebody's".ljust(4096, b"!"))
        return
    with closing(raw("postgres")) as conn, conn.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(db_name)))


def test_a_creation_by_name_belongs_to_the_row(database: contract.Database, name: str) -> None:
    """A script makes anew what a project lost: the mark is the project's, not nobody's."""
    db_name = name.replace("-", "_") + "_db"
    project_id = make_row(database, name, db_name)
    assert database.create_project_database(name) == db_name
    if database.BACKEND == "postgresql":
        with pytest.raises(Refused):
            database.drop_project_database(db_name, project_id + 1, force=True)
    assert database.drop_project_database(db_name, project_id, force=False)


def test_postgres_another_roles_database_is_kept(
    postgres_database: contract.Database, server: postgres.Server, name: str
) -> None:
    """Force wouldn't help: a hard refusal, not "in use", which asks for force."""
    db_name = postgres_database.create_project_database(name, "", 1)
    with closing(server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {db_name} OWNER TO postgres")
    for force in (False, True):
        with pytest.raises(Refused, match="another role") as caught:
            postgres_database.drop_project_database(db_name, 1, force)
        assert (caught.value.hard, caught.value.in_use) == (True, False)


def test_postgres_what_cannot_be_swept_does_not_stop_the_rest(
    postgres_database: contract.Database, server: postgres.Server
) -> None:
    """Half-made databases, the first of another role."""
    master = hashlib.sha256(get_settings().db_name.encode()).hexdigest()[:8]
    theirs, ours = (f"clawd_creating_{master}_{letter}" for letter in "ab")
    with closing(server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {theirs}")
        cursor.execute(f"CREATE DATABASE {ours} OWNER {get_settings().db_user}")
    assert postgres_database.sweep_project_databases() == [ours]


def test_sqlite_what_cannot_be_swept_does_not_stop_the_rest(
    sqlite_database: contract.Database,
) -> None:
    """A folder of a half-made file's name."""
    folder = get_settings().project_databases
    theirs, ours = (folder / f".a_db.creating-{letter * 32}" for letter in "ab")
    theirs.mkdir(parents=True)
    ours.touch()
    for path in (theirs, ours):
        os.utime(path, (1, 1))
    assert sqlite_database.sweep_project_databases() == [ours.name]


def test_sqlite_a_folder_in_a_files_place(sqlite_database: contract.Database) -> None:
    """The contract's error, not the driver's."""
    (get_settings().project_databases / "shop_db.sqlite3").mkdir(parents=True)
    for force in (False, True):
        with pytest.raises(contract.Unavailable):
            sqlite_database.drop_project_database("shop_db", 1, force)


def test_postgres_few_are_made_at_a_time(
    postgres_database: contract.Database, server: postgres.Server, name: str
) -> None:
    """Each creation has three connections of its own: fifty at once were more than a server has.

    Who is at its template's SQL is making one; a connection that has ended is listed for a while.
    """
    most = 0
    with ThreadPoolExecutor(10) as threads, closing(server.connect()) as conn:
        creations = [
            threads.submit(
                postgres_database.create_project_database, f"{name}-{n}", "SELECT pg_sleep(0.2)", n
            )
            for n in range(10)
        ]
        while not all(creation.done() for creation in creations):
            with conn.cursor() as cursor:
                cursor.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
                    "AND application_name = 'clawd-backend' AND query LIKE 'SELECT pg_sleep%'"
                )
                found = cursor.fetchone()
            most = max(most, found[0] if found else 0)
            time.sleep(0.01)
    assert len({creation.result() for creation in creations}) == 10
    assert 1 < most <= 4


KEPT = "deleted~1~0123456789abcdef"
NOT_KEPT = (
    "",
    "deleted~2~0123456789abcdef",
    "deleted~1~0123456789abcdeg",
    "deleted~1~0123456789abcde",
    "deleted~01~0123456789abcdef",
    "Deleted~1~0123456789abcdef",
    "deleted~1~0123456789abcdef\n",
    "deleted~1~0123456789abcdef\0",
    "deleted~1~../../../master",
    "x/deleted~1~0123456789abcdef",
    'deleted~1~"; DROP DATABASE x --',
)


def test_set_aside_and_brought_back(database: contract.Database, name: str) -> None:
    """The name is free meanwhile; done again it is done already; what is in it stays."""
    db_name = database.create_project_database(name, "CREATE TABLE b (id BIGINT)", 1)
    for _ in range(2):
        assert database.set_project_database_aside(db_name, KEPT, 1, force=False) is True
        assert not database.project_database_exists(db_name)
        assert database.project_database_exists(KEPT)
    found = [one for one in database.list_project_databases() if one["name"] == KEPT]
    assert [(one["marked"], one["half_made"]) for one in found] == [(True, False)]
    for _ in range(2):
        assert database.bring_project_database_back(KEPT, db_name, 1) is True
        assert not database.project_database_exists(KEPT)
    described = database.describe_project_database(db_name)
    assert described is not None
    assert described["tables"] == ["b"]
    assert database.set_project_database_aside(db_name, KEPT, 1, force=False)
    assert database.drop_kept_database(KEPT, 1, force=False) is True
    assert database.drop_kept_database(KEPT, 1, force=False) is False
    assert database.set_project_database_aside(db_name, KEPT, 1, force=False) is False
    assert database.bring_project_database_back(KEPT, db_name, 1) is False
    assert everything(database) <= {"deleted"}


def test_nothing_is_brought_back_over_another(database: contract.Database, name: str) -> None:
    """Neither another project's nor somebody's: both stay what they are."""
    db_name = database.create_project_database(name, "CREATE TABLE first (id BIGINT)", 1)
    database.set_project_database_aside(db_name, KEPT, 1, force=False)
    assert database.create_project_database(name, "CREATE TABLE second (id BIGINT)", 2) == db_name
    with pytest.raises(contract.DatabaseExists):
        database.bring_project_database_back(KEPT, db_name, 1)
    described = database.describe_project_database(db_name)
    assert described is not None
    assert described["tables"] == ["second"]
    assert database.project_database_exists(KEPT)
    assert database.drop_kept_database(KEPT, 1, force=False)
    assert database.project_database_exists(db_name)


def test_protected_names_are_never_renamed(database: contract.Database) -> None:
    """Nor is anything given the name of one, or dropped as if it had been kept."""
    for protected, spell in itertools.product(PROTECTED, SPELLINGS):
        spelling = spell(protected)
        attempts: tuple[Callable[[], bool], ...] = (
            lambda: database.set_project_database_aside(spelling, KEPT, 1, force=True),  # noqa: B023
            lambda: database.bring_project_database_back(KEPT, spelling, 1),  # noqa: B023
            lambda: database.set_project_database_aside("a_db", spelling, 1, force=True),  # noqa: B023
            lambda: database.bring_project_database_back(spelling, "a_db", 1),  # noqa: B023
            lambda: database.drop_kept_database(spelling, 1, force=True),  # noqa: B023
        )
        for attempt in attempts:
            with pytest.raises(Refused) as caught:
                attempt()
            assert caught.value.hard
    assert everything(database) == set()


def test_only_its_own_kept_names_are_a_projects(database: contract.Database, name: str) -> None:
    """A malformed one, or another project's, is refused for good: nothing is renamed or dropped."""
    db_name = database.create_project_database(name, "", 1)
    before = everything(database)
    for kept in NOT_KEPT:
        attempts: tuple[Callable[[], bool], ...] = (
            lambda: database.set_project_database_aside(db_name, kept, 1, force=True),  # noqa: B023
            lambda: database.bring_project_database_back(kept, db_name, 1),  # noqa: B023
            lambda: database.drop_kept_database(kept, 1, force=True),  # noqa: B023
        )
        for attempt in attempts:
            with pytest.raises(Refused) as caught:
                attempt()
            assert caught.value.hard
    for malformed in MALFORMED:
        with pytest.raises(Refused):
            database.set_project_database_aside(malformed, KEPT, 1, force=True)
        with pytest.raises(Refused):
            database.bring_project_database_back(KEPT, malformed, 1)
    with pytest.raises(Refused):
        database.drop_project_database(KEPT, 1, force=True)
    assert everything(database) == before


def test_setting_aside_what_is_in_use(database: contract.Database, name: str) -> None:
    """A soft refusal, quickly; forced, others are cut off. Bringing back has no force."""
    db_name = database.create_project_database(name, "CREATE TABLE a (id BIGINT)", 1)
    with inside(database, db_name):
        started = time.monotonic()
        with pytest.raises(Refused, match="in use") as caught:
            database.set_project_database_aside(db_name, KEPT, 1, force=False)
        assert (caught.value.hard, caught.value.in_use) == (False, True)
        assert database.set_project_database_aside(db_name, KEPT, 1, force=True) is True
        assert time.monotonic() - started < 2
    place = f"deleted/{KEPT}" if database.BACKEND == "sqlite" else KEPT
    with inside(database, place):
        with pytest.raises(Refused, match="in use") as caught:
            database.bring_project_database_back(KEPT, db_name, 1)
        assert caught.value.in_use
    assert database.bring_project_database_back(KEPT, db_name, 1)
    assert database.drop_project_database(db_name, 1, force=False)


def test_postgres_setting_aside_what_is_not_the_projects(
    postgres_database: contract.Database, server: postgres.Server, name: str
) -> None:
    """Another project's, another role's, a superuser's inside, or without the right to rename."""
    database = postgres_database
    db_name, role = database.create_project_database(name, "", 1), get_settings().db_user

    def refusal(project_id: int = 1) -> Refused:
        kept = KEPT.replace("~1~", f"~{project_id}~")
        with pytest.raises(Refused) as caught:
            database.set_project_database_aside(db_name, kept, project_id, force=True)
        return caught.value

    assert refusal(2).hard
    with closing(server.connect(db_name)):
        assert refusal().in_use
    with closing(server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(f"ALTER ROLE {role} NOCREATEDB")
        assert refusal().hard
        cursor.execute(f"ALTER ROLE {role} CREATEDB")
        cursor.execute(f"ALTER DATABASE {db_name} OWNER TO postgres")
        assert refusal().hard
        cursor.execute(f"ALTER DATABASE {db_name} OWNER TO {role}")
        assert database.set_project_database_aside(db_name, KEPT, 1, force=True)
        cursor.execute(f'COMMENT ON DATABASE "{KEPT}" IS NULL')
    attempts: tuple[Callable[[], bool], ...] = (
        lambda: database.bring_project_database_back(KEPT, db_name, 1),
        lambda: database.drop_kept_database(KEPT, 1, force=True),
        lambda: database.set_project_database_aside(db_name, KEPT, 1, force=True),
    )
    for attempt in attempts:
        with pytest.raises(Refused) as caught:
            attempt()
        assert caught.value.hard
    assert database.project_database_exists(KEPT)
    # Other tests' projects on this server have the same number.
    with closing(server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(f'DROP DATABASE "{KEPT}"')


def test_postgres_itself_refuses_to_rename_the_master(
    postgres_database: contract.Database,
) -> None:
    """Connected to it, as the service is whenever it renames."""
    master = get_settings().db_name
    with closing(raw(master)) as conn, conn.cursor() as cursor:
        rename = sql.SQL("ALTER DATABASE {} RENAME TO gone").format(sql.Identifier(master))
        with pytest.raises(psycopg2.Error, match="current database cannot be renamed"):
            cursor.execute(rename)


def test_sqlite_side_files_move_along(sqlite_database: contract.Database) -> None:
    """What is still in a WAL file belongs to the database; a move that broke off goes on."""
    db_name = sqlite_database.create_project_database("shop", "CREATE TABLE a (id BIGINT)", 1)
    path = get_settings().project_databases / f"{db_name}.sqlite3"
    kept = path.parent / "deleted" / f"{KEPT}.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("INSERT INTO a VALUES (1)")
        assert sqlite_database.set_project_database_aside(db_name, KEPT, 1, force=True)
        assert {entry.name for entry in kept.parent.iterdir()} == {
            f"{KEPT}.sqlite3{suffix}" for suffix in ("", "-wal", "-shm")
        }
    path.hardlink_to(kept)
    assert sqlite_database.set_project_database_aside(db_name, KEPT, 1, force=False)
    assert not path.exists()
    path.hardlink_to(kept)
    assert sqlite_database.bring_project_database_back(KEPT, db_name, 1)
    assert list(kept.parent.iterdir()) == []
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT id FROM a").fetchall() == [(1,)]


@pytest.mark.parametrize("link", ["folder", "file", "master"])
def test_sqlite_what_is_kept_stays_in_its_folder(
    sqlite_database: contract.Database, tmp_path: Path, link: str
) -> None:
    """A link in the place of the folder, or of a file in it, leads nowhere."""
    db_name = sqlite_database.create_project_database("shop", "", 1)
    folder, outside = get_settings().project_databases / "deleted", tmp_path / "outside"
    outside.mkdir()
    (outside / f"{KEPT}.sqlite3").write_bytes(b"precious")
    if link == "folder":
        folder.symlink_to(outside, target_is_directory=True)
    else:
        folder.mkdir()
        target = get_settings().db_path if link == "master" else outside / f"{KEPT}.sqlite3"
        (folder / f"{KEPT}.sqlite3").symlink_to(target)
    attempts: tuple[Callable[[], bool], ...] = (
        lambda: sqlite_database.set_project_database_aside(db_name, KEPT, 1, force=True),
        lambda: sqlite_database.bring_project_database_back(KEPT, "other_db", 1),
        lambda: sqlite_database.drop_kept_database(KEPT, 1, force=True),
    )
    for attempt in attempts:
        with pytest.raises(Refused) as caught:
            attempt()
        assert caught.value.hard
    assert (outside / f"{KEPT}.sqlite3").read_bytes() == b"precious"
    assert sqlite_database.project_database_exists(db_name)
    sqlite_database.ping()
