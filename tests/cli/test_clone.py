"""`./clawd dev clone`: production's data for development, without what opens production."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

import database
from server.auth.guard import hash_token
from server.cloning import columns
from server.migration.master import empty_master
from tests.cli.conftest import Cli, Outcome
from tests.conftest import GATEWAY_TOKEN
from tests.gateway import GatewayStub
from tests.images.samples import png, png_url
from tests.service import Api, Json, Service, new_name, sign_up
from tests.sql import Sql

PASSWORD = "one for trying out"
MASTER, PROJECTS = "clawdbot_adapter_dev.db", "project_databases_dev"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder of a development instance."""
    folder = tmp_path / "a tree"
    folder.mkdir()
    (folder / "start-backend-dev.sh").write_text("")
    return folder


@pytest.fixture
def production(tmp_path: Path) -> dict[str, str]:
    """The settings of an SQLite production that nobody has used."""
    folder = tmp_path / "production"
    folder.mkdir()
    settings = {"USE_POSTGRES": "false", "DB_PATH": str(folder / "master.db")}
    os.close(os.open(folder / "master.db", os.O_CREAT))
    database.migrate_file(folder / "master.db")
    return settings


def clone(cli: Cli, settings: dict[str, str], tree: Path, *options: str) -> Outcome:
    """The command, which must end well."""
    done = cli.run(settings, "dev", "clone", str(tree), *options, "--json")
    assert done.code == 0, done.out + done.said
    return done


def content(tree: Path) -> bytes:
    """Every byte of every file there, but for the memory that those who read a WAL file share."""
    files = (path for path in sorted(tree.rglob("*")) if path.is_file())
    return b"".join(path.read_bytes() for path in files if not path.name.endswith("-shm"))


def serving(tree: Path, gateway: GatewayStub) -> Service:
    """The service on the clone, as start-backend-dev.sh starts it."""
    settings = {
        "USE_POSTGRES": "false",
        "DB_PATH": str(tree / MASTER),
        "PROJECT_DB_DIR": str(tree / PROJECTS),
        "OPENCLAW_URL": gateway.url,
        "OPENCLAW_TOKEN": GATEWAY_TOKEN,
        "AUTH_RATE_LIMIT": "off",
    }
    return Service(settings, tree.parent)


def used(service: Service) -> tuple[Api, Json, Json]:
    """Somebody who uses everything, with a project and a session in it."""
    name = new_name()
    api = sign_up(service, email=f"{name}@secret.example", name=f"Secret {name}")
    project = api.project(project_type="ecommerce")
    session = api.session(project["id"], title="kept title")
    key = {"Idempotency-Key": f"key-{name}"}
    body = {"session_id": session["id"], "message": "kept words", "images": [png_url()]}
    assert api.post("/chat", body, headers=key).status_code == 200
    sql = Sql(service.settings)
    sql.insert(
        "audit_log", user_id=api.user["id"], action="a", target="b", outcome="c", detail=f"d{name}"
    )
    sql.rows(
        "INSERT INTO environment (name, marked_at) VALUES ('production', %s) "
        "ON CONFLICT DO NOTHING",
        datetime.now(UTC),
    )
    sql.rows(
        "INSERT INTO imported_sessions (session_id, user_id, source, source_id, starred, metadata,"
        " imported_at) VALUES (%s, %s, 'chatgpt', 'x', %s, %s, %s)",
        *(session["id"], api.user["id"], True, f"meta-{name}", datetime.now(UTC)),
    )
    sql.rows(
        "INSERT INTO imported_records VALUES (%s, 'llmcouncil', 'profile', 'x', %s, %s)",
        *(api.user["id"], f"profile-{name}", datetime.now(UTC)),
    )
    return api, project, session


@pytest.fixture
def unmarked(service: Service) -> Iterator[None]:
    """The service's database is no production's for the tests that come."""
    yield
    Sql(service.settings).rows("DELETE FROM environment")


@pytest.mark.usefixtures("unmarked")
def test_a_clone_works_and_opens_nothing(
    cli: Cli, service: Service, tree: Path, gateway: GatewayStub
) -> None:
    """No page of it holds a secret, not even a freed one; and development runs on it."""
    api, project, session = used(service)
    sql, user = Sql(service.settings), api.user
    stored = sql.value("SELECT password_hash FROM users WHERE id = %s", user["id"])
    before = {table: sql.count(table) for table in columns.COPIED}
    made = clone(cli, service.settings, tree, "--password", PASSWORD).json
    assert {table: sql.count(table) for table in columns.COPIED} == before == made["rows"]
    there = content(tree)
    assert b"kept words" in there
    assert b"kept title" in there
    name = user["email"].partition("@")[0]
    secrets = [stored, stored[-30:], hash_token(str(api.token)), session["session_key"]]
    for secret in [*secrets, str(api.token), name, PASSWORD, "secret.example"]:
        assert secret.encode() not in there, secret
    assert sorted(path.name for path in tree.iterdir()) == [
        MASTER,
        PROJECTS,
        "start-backend-dev.sh",
    ]
    assert (tree / MASTER).stat().st_mode & 0o077 == 0
    with serving(tree, gateway) as development:
        credentials = {"email": f"user{user['id']}@example.invalid", "password": PASSWORD}
        answer = Api(development).post("/auth/login", credentials)
        assert answer.status_code == 200, answer.text
        clone_api = Api(development, answer.json()["access_token"])
        assert clone_api.get("/auth/me").json()["name"] == f"User {user['id']}"
        assert clone_api.get("/projects").json() == api.get("/projects").json()
        tables = clone_api.get(f"/projects/{project['id']}/database").json()["tables"]
        assert tables == ["customers", "order_items", "orders", "products"]
        messages = clone_api.messages(session["id"])
        assert messages == api.messages(session["id"])
        (image,) = messages[0]["images"]
        assert clone_api.get(f"/images/{image['id']}").content == png()
        assert clone_api.chat(session["id"], "and on").status_code == 200
        assert clone_api.delete(f"/projects/{project['id']}").status_code == 200
        assert [line for line in development.log_lines() if line["level"] != "INFO"] == []
    check = api.get("/auth/me")
    assert check.status_code == 200


def test_every_column_is_decided_on() -> None:
    """A new step of schema/ must say whether its columns may leave production."""
    with closing(empty_master()) as conn:
        tables = {
            table: {row[1] for row in conn.execute(f"PRAGMA table_info({table})")}
            for (table,) in conn.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'sqlite_sequence'"
            )
        }
    assert set(tables) | {"schema_migrations"} == {*columns.COPIED, *columns.LEFT_OUT}
    for table, plain in columns.COPIED.items():
        decided = [*plain, *columns.REPLACED.get(table, {})]
        decided += columns.LEFT_OUT_COLUMNS.get(table, ())
        assert sorted(decided) == sorted(tables[table]), table


@pytest.mark.usefixtures("unmarked")
def test_projects_come_as_they_are_only_when_asked(cli: Cli, service: Service, tree: Path) -> None:
    """They hold users' data: without the option a clone has the tables of their types."""
    api = sign_up(service)
    project = api.project(project_type="ecommerce")
    inside = Sql({**service.settings, "DB_NAME": project["db_name"]})
    if not inside.postgres:
        inside = Sql(
            {**service.settings, "DB_PATH": str(inside.folder / f"{project['db_name']}.sqlite3")}
        )
    inside.insert("customers", email="buyer@secret.example", name="Buyer")
    file = tree / PROJECTS / f"{project['db_name']}.sqlite3"
    for options, rows in (((), 0), (("--replace", "--with-projects"), 1)):
        clone(cli, service.settings, tree, *options)
        with closing(sqlite3.connect(file)) as conn:
            assert conn.execute("SELECT count(*) FROM customers").fetchone() == (rows,)
            assert conn.execute("PRAGMA application_id").fetchone() == (database.APPLICATION_ID,)
        assert (b"buyer@secret.example" in content(tree)) is bool(rows)
        assert file.stat().st_mode & 0o077 == 0


def test_a_database_that_is_missing_is_made_empty(
    cli: Cli, production: dict[str, str], tree: Path
) -> None:
    """And said, with an exit code of its own."""
    sql = Sql(production)
    user = sql.insert("users", email="a@b.cc", password_hash="!")
    for name in ("shop_db", "../../evil"):
        sql.insert("projects", user_id=user, name="shop", db_name=name)
    done = cli.run(production, "dev", "clone", str(tree), "--with-projects", "--json")
    assert (done.code, done.json["exit"], done.json["databases"]) == (1, 1, 1)
    assert done.json["notes"] == [
        "shop_db: is empty: it isn't there",
        "../../evil: that is no name of a project's database",
    ]
    assert [path.name for path in (tree / PROJECTS).iterdir()] == ["shop_db.sqlite3"]


def test_nothing_is_overwritten_unasked(cli: Cli, production: dict[str, str], tree: Path) -> None:
    """A development instance may hold somebody's work; with --replace all of it goes."""
    clone(cli, production, tree)
    old = tree / PROJECTS / "old_db.sqlite3"
    old.write_bytes(b"somebody's work")
    (tree / PROJECTS / "notes.txt").write_text("no database")
    Sql(production).insert("users", email="a@b.cc", password_hash="!")
    before = content(tree)
    done = cli.run(production, "dev", "clone", str(tree))
    assert (done.code, "--replace" in done.said, content(tree)) == (3, True, before)
    (tree / MASTER).unlink()
    assert cli.run(production, "dev", "clone", str(tree)).code == 3
    assert clone(cli, production, tree, "--replace").json["rows"]["users"] == 1
    assert [path.name for path in (tree / PROJECTS).iterdir()] == ["notes.txt"]


def test_production_is_never_replaced(cli: Cli, production: dict[str, str], tree: Path) -> None:
    """Not by its path, nor through links of either kind, nor where another one's mark is."""
    master = Path(production["DB_PATH"])
    before = master.read_bytes()
    places: list[tuple[str, str]] = [
        ("DB_PATH", str(master)),
        ("PROJECT_DB_DIR", str(master.parent)),
    ]
    (tree / "link.db").symlink_to(master)
    (tree / "hard.db").hardlink_to(master)
    (tree / "folder").symlink_to(master.parent)
    places += [("DB_PATH", "link.db"), ("DB_PATH", "hard.db"), ("PROJECT_DB_DIR", "folder")]
    more = {**production, "PROJECT_DB_DIR": str(master.parent)}
    for name, place in places:
        (tree / ".env").write_text(f"{name}={place}\n")
        done = cli.run(more, "dev", "clone", str(tree), "--replace")
        assert (done.code, "which is to be cloned" in done.said) == (2, True), done
    (tree / ".env").write_text("USE_POSTGRES=true\n")
    assert cli.run(production, "dev", "clone", str(tree), "--replace").code == 2
    (tree / ".env").unlink()
    clone(cli, production, tree)
    with closing(sqlite3.connect(tree / MASTER)) as conn, conn:
        conn.execute("INSERT INTO environment VALUES ('production', '2026-11-21 00:00:00+00:00')")
    done = cli.run(production, "dev", "clone", str(tree), "--replace")
    assert (done.code, "production's own" in done.said) == (2, True)
    assert master.read_bytes() == before


def test_what_can_not_be_cloned(cli: Cli, production: dict[str, str], tree: Path) -> None:
    """Each with one line; nothing is left in the tree, and nobody waits for a copy in vain."""
    missing = cli.run({**production, "DB_PATH": str(tree / "none.db")}, "dev", "clone", str(tree))
    assert (missing.code, "there is no database" in missing.said) == (2, True)
    nowhere = cli.run(production, "dev", "clone", str(tree / "nowhere"))
    assert (nowhere.code, "scripts/dev-tree" in nowhere.said) == (2, True)
    short = cli.run(production, "dev", "clone", str(tree), "--password", "short")
    assert (short.code, "password: " in short.said) == (2, True)
    Sql(production).rows("DELETE FROM schema_migrations WHERE name = '0010_disabled_users'")
    older = cli.run(production, "dev", "clone", str(tree))
    assert (older.code, "lacks 0010_disabled_users" in older.said) == (2, True)
    assert [path.name for path in tree.iterdir()] == ["start-backend-dev.sh"]


def test_a_clone_in_use_stays(cli: Cli, production: dict[str, str], tree: Path) -> None:
    """SQLite would go on writing to the file that is gone."""
    clone(cli, production, tree)
    with closing(sqlite3.connect(tree / MASTER, isolation_level=None)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        done = cli.run(production, "dev", "clone", str(tree), "--replace")
    assert (done.code, "stop the service first" in done.said) == (2, True)
