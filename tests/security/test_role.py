"""PostgreSQL itself keeps the master: the role that serves can't drop, truncate or empty it."""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest

from server.storage import migrate, roles
from tests import checkout, postgres
from tests.conftest import PRODUCTION
from tests.service import ROOT, Api, Service, environment, sign_up
from tests.sql import Sql

Settings = dict[str, str]
TABLES = ("users", "projects", "sessions", "messages")

# What a defect, or somebody who got hold of the role, might send. {0} is the master, {1} the role.
ATTACKS = """
DROP DATABASE {0}
DROP DATABASE {0} WITH (FORCE)
DROP DATABASE IF EXISTS {0} WITH (FORCE)
ALTER DATABASE {0} RENAME TO gone
ALTER DATABASE {0} OWNER TO {1}
ALTER DATABASE {0} IS_TEMPLATE false
ALTER DATABASE {0} ALLOW_CONNECTIONS false
ALTER DATABASE {0} CONNECTION LIMIT 0
CREATE DATABASE stolen TEMPLATE {0}
DROP SCHEMA {1} CASCADE
ALTER SCHEMA {1} RENAME TO gone
CREATE TABLE {1}.more (id int)
CREATE TABLE public.more (id int)
CREATE TEMPORARY TABLE users (id int)
DROP TABLE users
DROP TABLE users, projects, sessions, messages CASCADE
DROP TABLE schema_migrations
ALTER TABLE messages RENAME TO gone
ALTER TABLE messages DROP COLUMN content
ALTER TABLE messages DISABLE TRIGGER ALL
ALTER TABLE messages ENABLE ROW LEVEL SECURITY
DROP TRIGGER keep_rows ON messages
DROP TRIGGER keep_table ON messages
DROP FUNCTION refuse_to_empty() CASCADE
CREATE OR REPLACE FUNCTION refuse_to_empty() RETURNS trigger LANGUAGE sql AS 'SELECT NULL'
TRUNCATE users CASCADE
TRUNCATE messages
TRUNCATE users, projects, sessions, messages, audit_log CASCADE
DELETE FROM users
DELETE FROM users WHERE id = 1
DELETE FROM projects
DELETE FROM sessions
DELETE FROM messages
DELETE FROM messages WHERE true RETURNING id
WITH gone AS (DELETE FROM messages RETURNING id) SELECT count(*) FROM gone
MERGE INTO messages USING users ON messages.user_id = users.id WHEN MATCHED THEN DELETE
DO $$ BEGIN DELETE FROM messages; END $$
DO $$ BEGIN DELETE FROM sessions; DELETE FROM projects; END $$
DELETE FROM audit_log
UPDATE audit_log SET detail = ''
DELETE FROM project_types
DELETE FROM schema_migrations
UPDATE schema_migrations SET checksum = ''
INSERT INTO schema_migrations VALUES ('9999_future', '', '')
SET session_replication_role = replica
SET ROLE {1}_owner
SET SESSION AUTHORIZATION postgres
GRANT {1}_owner TO {1}
ALTER ROLE {1} SUPERUSER
ALTER ROLE {1} CREATEROLE
CREATE ROLE another SUPERUSER
REASSIGN OWNED BY {1}_owner TO {1}
DROP OWNED BY {1}_owner CASCADE
DROP ROLE {1}_owner
COPY messages FROM PROGRAM 'rm -rf /'
COPY messages TO '/tmp/stolen'
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'
SELECT lo_import('/etc/passwd')
DELETE FROM pg_database WHERE datname = '{0}'
UPDATE pg_class SET relname = 'gone' WHERE relname = 'messages'
CREATE EXTENSION adminpack
"""


def fresh_names(server: postgres.Server) -> Settings:
    """The settings that name a role and a master which don't exist yet."""
    mark = secrets.token_hex(4)
    return {
        "USE_POSTGRES": "true",
        "DB_HOST": server.host,
        "DB_PORT": str(server.port),
        "DB_NAME": f"guarded_{mark}",
        "DB_USER": f"serving_{mark}",
        "DB_PASSWORD": "it's a \\ 'secret' " + secrets.token_hex(8),
    }


def admin_url(server: postgres.Server) -> str:
    return f"postgresql://{server.superuser}:{server.password}@{server.host}:{server.port}"


def init(server: postgres.Server, settings: Settings, *arguments: str) -> str:
    """`./clawd init-postgres`; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", "init-postgres", *arguments],
        cwd=ROOT,
        env=environment({**settings, "POSTGRES_ADMIN_URL": admin_url(server)}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def init_by_psql(server: postgres.Server, settings: Settings) -> None:
    """The same through psql, as a superuser who has no password must do it."""
    done = subprocess.run(
        [server.bin_dir / "psql", "-X", "-q", admin_url(server) + "/postgres"],
        input=init(server, settings, "--sql"),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(params=["command", "psql"])
def guarded(request: pytest.FixtureRequest, postgres_server: postgres.Server) -> Settings:
    """A master made by the recipe, in either of its two ways."""
    settings = fresh_names(postgres_server)
    if request.param == "command":
        init(postgres_server, settings)
    else:
        init_by_psql(postgres_server, settings)
    return settings


def use(service: Service) -> Api:
    """What a user does; one project is deleted, one stays with a session and messages."""
    api = sign_up(service)
    gone, kept = api.project(), api.project()
    session = api.session(kept["id"])
    for text in ("one", "two"):
        assert api.chat(session["id"], text).status_code == 200
    api.chat(api.session(gone["id"])["id"], "three")
    assert api.delete(f"/projects/{gone['id']}").status_code == 200
    return api


@contextmanager
def refusal_of(attack: str) -> Iterator[None]:
    """Says which attack got through."""
    yield
    pytest.fail(f"PostgreSQL did it: {attack}")


@contextmanager
def failing(reason: str) -> Iterator[None]:
    """The test fails if the block comes to its end."""
    yield
    pytest.fail(reason)


def counts(server: postgres.Server, settings: Settings) -> list[int]:
    """How many rows each table has, seen by the superuser."""
    with closing(server.connect(settings["DB_NAME"])) as conn, conn.cursor() as cursor:
        cursor.execute(
            "SELECT nspname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE relname = 'users'"
        )
        schema = cursor.fetchall()[0][0]
        found = []
        for table in (*TABLES, "audit_log", "schema_migrations"):
            cursor.execute(f"SELECT count(*) FROM {schema}.{table}")
            found.append(cursor.fetchall()[0][0])
    return found


def test_nothing_that_the_role_may_send_harms_the_master(
    guarded: Settings, postgres_server: postgres.Server, tmp_path: Path
) -> None:
    """Each attack is an error of PostgreSQL's own, and the service works on as before.

    A recipe under which the role owned the tables left `DROP TABLE`, `TRUNCATE` and
    `DISABLE TRIGGER` open; one NUL byte in a name had made the service itself drop its master.
    """
    with Service(guarded | {"AUTH_RATE_LIMIT": "off"}, tmp_path) as service:
        api = use(service)
        before = counts(postgres_server, guarded)
        assert all(before)
        attacks = ATTACKS.format(guarded["DB_NAME"], guarded["DB_USER"]).strip().splitlines()
        assert len(attacks) > 50
        with closing(Sql(guarded)._connect()) as conn, conn.cursor() as cursor:
            for attack in attacks:
                with pytest.raises(psycopg2.Error), failing(f"PostgreSQL did: {attack}"):
                    cursor.execute(attack)
        assert counts(postgres_server, guarded) == before
        assert use(service).get("/projects").status_code == 200
        assert len(api.get("/projects").json()["items"]) == 1
        assert not [line for line in service.log_lines() if line["level"] != "INFO"]


def test_from_outside_of_the_master_it_stands_too(
    guarded: Settings, postgres_server: postgres.Server
) -> None:
    """Connected to another database, where the master isn't the one that is open."""
    sql = Sql(guarded)
    with closing(sql._connect("postgres")) as conn, conn.cursor() as cursor:
        for words in ("", " WITH (FORCE)"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="must be owner"):
                cursor.execute(f"DROP DATABASE {guarded['DB_NAME']}{words}")
    assert counts(postgres_server, guarded)[0] == 0


def test_run_again_it_changes_nothing(
    guarded: Settings, postgres_server: postgres.Server, tmp_path: Path
) -> None:
    """The command is also the one for updates; operators run it when in doubt."""
    with Service(guarded | {"AUTH_RATE_LIMIT": "off"}, tmp_path) as service:
        use(service)
        before = counts(postgres_server, guarded)
        init(postgres_server, guarded)
        init_by_psql(postgres_server, guarded)
        assert counts(postgres_server, guarded) == before
        use(service)


def test_new_steps_wait_for_the_owner(postgres_server: postgres.Server, tmp_path: Path) -> None:
    """After an update the role can't apply them: the start says which, and what to run."""
    settings = fresh_names(postgres_server)
    known = migrate.steps("postgresql")
    with closing(postgres_server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(roles.cluster_sql(settings["DB_USER"], settings["DB_PASSWORD"]))
        cursor.execute(roles.database_sql(settings["DB_NAME"]))
    with closing(postgres_server.connect(settings["DB_NAME"])) as conn:
        conn.autocommit = False
        with conn, conn.cursor() as cursor:
            cursor.execute(roles.master_sql(settings["DB_USER"], settings["DB_NAME"], known[:-1]))
    service = Service(settings, tmp_path)
    service.start()
    assert service.process is not None
    assert service.process.wait(20) != 0
    assert known[-1].name in service.log
    assert "./clawd init-postgres" in service.log
    init(postgres_server, settings)
    with service:
        use(service)


def test_a_master_that_the_role_owned_is_taken_from_it(
    postgres_server: postgres.Server, tmp_path: Path
) -> None:
    """The simple set-up, used for a while, becomes the safe one without losing a row."""
    settings = postgres.create_master(postgres_server)
    with Service(settings | {"AUTH_RATE_LIMIT": "off"}, tmp_path) as service:
        api = use(service)
        assert [line for line in service.log_lines() if "owns the master database" in line["event"]]
        before = counts(postgres_server, settings)
        init(postgres_server, settings)
        assert counts(postgres_server, settings) == before
        with closing(Sql(settings)._connect()) as conn, conn.cursor() as cursor:
            for attack in ("DROP TABLE messages", "TRUNCATE messages", "DELETE FROM users"):
                with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                    cursor.execute(attack)
        service.stop()
        service.log_path.unlink()
        service.start()
        service.wait_until_up()
        assert not [line for line in service.log_lines() if line["level"] != "INFO"]
        assert len(api.get("/projects").json()["items"]) == 1
        use(service)


def test_no_statement_empties_a_table(postgres_server: postgres.Server, tmp_path: Path) -> None:
    """Not even the owner's; what the service marks first may go, the last of all too."""
    settings = postgres.create_master(postgres_server)
    sql = Sql(settings)

    def refused(statement: str) -> None:
        before = [sql.count(table) for table in TABLES]
        with pytest.raises(psycopg2.errors.RestrictViolation):
            sql.rows(statement)
        assert [sql.count(table) for table in TABLES] == before

    with Service(settings | {"AUTH_RATE_LIMIT": "off"}, tmp_path) as service:
        sign_up(service)
        refused("DELETE FROM users")
        api = use(service)
        for table in TABLES[1:]:
            refused(f"DELETE FROM {table}")
        other = use(service)
        for table in TABLES[1:]:
            refused(f"DELETE FROM {table} WHERE id > 0")
        sql.rows("DELETE FROM projects WHERE user_id = %s", other.user["id"])
        for table in TABLES:
            refused(f"TRUNCATE {table} CASCADE")
        project = api.get("/projects").json()["items"][0]
        session = api.get(f"/projects/{project['id']}/sessions").json()["items"][0]
        assert api.delete(f"/sessions/{session['id']}").status_code == 204
        assert api.delete(f"/projects/{project['id']}").status_code == 200
        assert [sql.count(table) for table in TABLES[1:]] == [0, 0, 0]


@pytest.fixture
def superuser(postgres_server: postgres.Server) -> Iterator[Settings]:
    """The settings of a service that uses a superuser."""
    settings = postgres.create_master(postgres_server)
    with closing(postgres_server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(f"ALTER ROLE {settings['DB_USER']} SUPERUSER")
    yield settings
    postgres.drop_master(postgres_server, settings)


@pytest.mark.parametrize("allow", ["false", "true"])
def test_production_refuses_a_superuser(superuser: Settings, allow: str, tmp_path: Path) -> None:
    """PostgreSQL refuses it nothing, so the guard there would be none: ALLOW_SUPERUSER=true."""
    service = Service(superuser | PRODUCTION | {"ALLOW_SUPERUSER": allow}, tmp_path)
    if allow == "true":
        with service:
            assert "is a superuser" in service.log
        return
    service.start()
    assert service.process is not None
    assert service.process.wait(20) != 0
    assert "is a superuser" in service.log
    assert "ALLOW_SUPERUSER=true" in service.log


def test_development_warns_of_a_superuser(superuser: Settings, tmp_path: Path) -> None:
    """A newcomer's `postgres` role works, with a word about it."""
    with Service(superuser, tmp_path) as service:
        warnings = [line["event"] for line in service.log_lines() if line["level"] == "WARNING"]
    assert len(warnings) == 1
    assert "is a superuser" in warnings[0]
    assert "./clawd init-postgres" in warnings[0]


def test_the_command_refuses_to_weaken_a_superuser(
    superuser: Settings, postgres_server: postgres.Server
) -> None:
    """DB_USER=postgres by mistake would otherwise lock the administrator out."""
    with pytest.raises(AssertionError, match="is a superuser: set DB_USER"):
        init(postgres_server, superuser)
    with closing(postgres_server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (superuser["DB_USER"],))
        assert cursor.fetchone() == (True,)


def test_without_a_file_it_makes_one(postgres_server: postgres.Server, tmp_path: Path) -> None:
    """A newcomer has only the superuser's URL: the file gets a password that nobody knew."""
    root = checkout.copy(tmp_path)
    example = (ROOT / ".env.postgres.example").read_text("utf-8")
    mark = secrets.token_hex(4)
    (root / ".env.postgres.example").write_text(
        example.replace("DB_NAME=dreampilot", f"DB_NAME=new_{mark}").replace(
            "DB_USER=clawd", f"DB_USER=new_{mark}"
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", "init-postgres"],
        cwd=root,
        env=environment({"POSTGRES_ADMIN_URL": admin_url(postgres_server)}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    made = root / ".env.postgres"
    assert made.stat().st_mode & 0o777 == 0o600
    checked = subprocess.run(
        [sys.executable, "-c", "import database_postgres as d; print(d.test_connection())"],
        cwd=root,
        env=environment({}),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "'status': 'ok'" in checked.stdout
    password = made.read_text("utf-8").partition("DB_PASSWORD=")[2].splitlines()[0]
    assert len(password) == 64
    assert password not in done.stdout + done.stderr
