"""`./clawd doctor` finds each fault that is really there, and nothing where there is none."""

import hashlib
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from psycopg2 import sql

import database_adapter
from server.doctor import clock, database, files, gateway
from server.doctor import settings as of_settings
from server.doctor.examination import Check, run
from server.doctor.finding import Finding, well
from server.settings import Settings, get_settings
from tests import postgres
from tests.cli.conftest import Cli
from tests.conftest import GATEWAY_TOKEN, with_settings, without_settings
from tests.faults.sqlite_files import small_disk
from tests.gateway import GatewayStub
from tests.monitoring.backed_up import back_up, clear, verify
from tests.service import Json, free_port
from tests.sql import Sql

Environment = dict[str, str]
# What depends on the machine that the tests run on.
MACHINE = {"user", "disk"}


class Doctor:
    """The command, on settings with which all is well unless a test says otherwise."""

    def __init__(self, cli: Cli, settings: Environment) -> None:
        self.cli = cli
        self.settings = settings

    def find(self, **settings: str) -> dict[str, Json]:
        """What each check found."""
        done = self.cli.run({**self.settings, **settings}, "doctor", "--json")
        rows = done.rows
        worst = {row["status"] for row in rows}
        assert done.code == (2 if "problem" in worst else 1 if "warning" in worst else 0)
        for row in rows:
            assert bool(row["cure"]) is (row["status"] != "ok"), row
        assert done.said == ""
        return {row["check"]: row for row in rows}

    def finds(self, check: str, status: str, words: str, cure: str, **settings: str) -> None:
        """Assert that this check finds this, and what mends it."""
        found = self.find(**settings)[check]
        assert (found["status"], words in found["detail"]) == (status, True), found
        assert cure in found["cure"], found


def guarded(server: postgres.Server, cli: Cli) -> Environment:
    """A master on PostgreSQL as the recipe makes it."""
    mark = secrets.token_hex(4)
    settings = {
        "USE_POSTGRES": "true",
        "DB_HOST": server.host,
        "DB_PORT": str(server.port),
        "DB_NAME": f"well_{mark}",
        "DB_USER": f"well_{mark}",
        "DB_PASSWORD": secrets.token_hex(16),
    }
    url = f"postgresql://{server.superuser}:{server.password}@{server.host}:{server.port}"
    done = cli.run({**settings, "POSTGRES_ADMIN_URL": url}, "init-postgres")
    assert done.code == 0, done.said
    return settings


def make_schema(settings: Environment) -> None:
    """As the service does at its start."""
    with_settings(settings)
    try:
        database_adapter.init_schema()
    finally:
        without_settings()


@pytest.fixture
def surroundings(tmp_path: Path, gateway: GatewayStub) -> Environment:
    """A gateway and a folder of backups with which nothing is wrong."""
    backups = tmp_path / "backups"
    for backend in ("sqlite", "postgresql"):
        verify(backups, back_up(backups, backend).name)
    return {
        "OPENCLAW_URL": gateway.url,
        "OPENCLAW_TOKEN": GATEWAY_TOKEN,
        "BACKUP_DIR": str(backups),
    }


@pytest.fixture
def on_sqlite(cli: Cli, tmp_path: Path, surroundings: Environment) -> Doctor:
    """A master in a file."""
    settings = {"USE_POSTGRES": "false", "DB_PATH": str(tmp_path / "data" / "master.db")}
    (tmp_path / "data").mkdir()
    make_schema(settings)
    return Doctor(cli, settings | surroundings)


@pytest.fixture
def on_postgres(
    cli: Cli, postgres_server: postgres.Server, surroundings: Environment
) -> Iterator[Doctor]:
    """A master on PostgreSQL; no secret may have been printed at the end."""
    settings = guarded(postgres_server, cli)
    yield Doctor(cli, settings | surroundings)
    assert settings["DB_PASSWORD"] not in cli.everything
    assert GATEWAY_TOKEN not in cli.everything


@pytest.fixture
def doctor(backend: str, request: pytest.FixtureRequest) -> Doctor:
    """Either."""
    name = "on_sqlite" if backend == "sqlite" else "on_postgres"
    found: Doctor = request.getfixturevalue(name)
    return found


def statuses(found: dict[str, Json]) -> dict[str, str]:
    """How the checks end that no machine has a say in."""
    return {name: row["status"] for name, row in found.items() if name not in MACHINE}


def test_all_is_well(doctor: Doctor, backend: str, cli: Cli) -> None:
    """A doctor who always finds something isn't listened to."""
    found = doctor.find()
    assert set(statuses(found).values()) == {"ok"}, found
    there = {"role", "connections", "database clock"}
    if backend == "sqlite":
        there = {"file system", "database file"}
    assert there <= set(found)
    text = cli.run(doctor.settings, "doctor").out
    assert "ok        database        " in text


def test_a_look_changes_nothing(on_sqlite: Doctor) -> None:
    """Operators run it on a production that is in trouble."""
    folder = Path(on_sqlite.settings["DB_PATH"]).parent
    Sql(on_sqlite.settings).make_database("lost_db")

    def state() -> dict[Path, str]:
        return {
            path: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file() and path.stat().st_size
        }

    before = state()
    assert on_sqlite.find()["projects"]["status"] == "problem"
    # Readers of a WAL file make the memory that they share; whoever closes it last removes it.
    assert {p: d for p, d in state().items() if not p.name.endswith("-shm")} == before


@pytest.mark.parametrize(
    ("settings", "words", "cure"),
    [
        ({"DB_PORT": "8002", "USE_POSTGRES": "true"}, "8002 is an HTTP port", "DB_PORT in the env"),
        ({"DB_POOL_MAX": "many", "PORT": "0"}, "DB_POOL_MAX: ", "PORT in the environment"),
        ({"APP_ENV": "production", "OPENCLAW_URL": ""}, "OPENCLAW_URL: production needs", ""),
        (
            {"APP_ENV": "production", "OPENCLAW_TOKEN": "changeme"},
            "OPENCLAW_TOKEN: is a published example",
            "OPENCLAW_TOKEN in the environment",
        ),
    ],
)
def test_settings_that_can_not_be(
    on_sqlite: Doctor, settings: Environment, words: str, cure: str
) -> None:
    """The doctor comes although nothing starts: names each setting, and where it stands."""
    found = on_sqlite.find(**settings)
    assert words in found["settings"]["detail"]
    assert (found["settings"]["status"], cure in found["settings"]["cure"]) == ("problem", True)
    assert set(found) == {"settings", "user", "permissions"}


def test_well_known_secrets_in_development(on_sqlite: Doctor) -> None:
    """There the service starts with them."""
    words = "OPENCLAW_TOKEN, METRICS_TOKEN: "
    more = {"OPENCLAW_TOKEN": "changeme", "METRICS_TOKEN": "your_token_goes_here"}
    on_sqlite.finds("passwords", "warning", words, "openssl rand -hex 32", **more)
    # On SQLite nobody asks for it.
    assert on_sqlite.find(DB_PASSWORD="postgres")["passwords"]["status"] == "ok"


def test_a_well_known_password_of_postgres(on_postgres: Doctor) -> None:
    """Also where it is the right one."""
    on_postgres.finds("passwords", "warning", "DB_PASSWORD: ", "rand", DB_PASSWORD="postgres")


def test_root_is_told() -> None:
    """Which the tests may be or not."""
    assert of_settings.user(1000).status == "ok"
    found = of_settings.user(0)
    assert (found.status, "sudo -u clawd" in found.cure) == ("warning", True)


def test_secrets_for_everybodys_eyes() -> None:
    """`cp .env.example .env` leaves them so; a closed folder above hides them, too."""
    with TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        secret = folder / ".env of mine"
        secret.write_text("DB_PASSWORD=x\n")
        secret.chmod(0o640)
        assert files.permissions([secret]).status == "ok"
        for mode in (0o644, 0o602):
            secret.chmod(mode)
            found = files.permissions([secret, folder / "missing"])
            assert (found.status, found.cure) == ("problem", f"chmod o= '{secret}'")
        folder.chmod(0o700)
        assert files.permissions([secret]).status == "ok"


def test_the_files_that_hold_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of settings, and those that they, or the environment, name."""
    for name in ("a", "b", ".env.postgres"):
        (tmp_path / name).write_text("")
    (tmp_path / ".env").write_text("OPENCLAW_TOKEN_FILE=a\n")
    monkeypatch.setenv("DB_PASSWORD_FILE", str(tmp_path / "b"))
    monkeypatch.setenv("METRICS_TOKEN_FILE", "missing")
    found = of_settings.secret_files([tmp_path / ".env", tmp_path / ".env.postgres"])
    assert {path.name for path in found} == {".env", ".env.postgres", "a", "b"}


def test_a_database_file_for_everybodys_eyes(on_sqlite: Doctor) -> None:
    """It holds the hashes of all passwords; a copy with cp is readable."""
    with TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        path = Path(name, "master.db")
        make_schema({"USE_POSTGRES": "false", "DB_PATH": str(path)})
        path.chmod(0o644)
        on_sqlite.finds("database file", "problem", str(path), "chmod o= ", DB_PATH=str(path))


MOUNTS = """\
22 27 0:21 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /srv rw shared:1 - nfs4 server:/srv rw
31 30 0:31 / /srv/local\\040disk rw - xfs /dev/vdb rw
32 22 0:32 / /mnt rw - ext4 /dev/vdc rw
33 22 0:33 / /mnt rw master:2 - fuse.sshfs me@there:/ rw
34 22 0:34 / /home/cifs rw - cifs //server/share rw
35 22 0:35 / /vm rw - 9p host rw
36 22 0:36 / /ntfs rw - fuseblk /dev/vdd rw
"""


@pytest.mark.parametrize(
    ("folder", "kind", "status"),
    [
        ("/var/lib", "ext4", "ok"),
        ("/srv", "nfs4", "problem"),
        ("/srv/clawd", "nfs4", "problem"),
        ("/srvice", "ext4", "ok"),
        ("/srv/local disk/clawd", "xfs", "ok"),
        ("/mnt/clawd", "fuse.sshfs", "problem"),
        ("/home/cifs/clawd", "cifs", "problem"),
        ("/vm", "9p", "problem"),
        ("/ntfs/clawd", "fuseblk", "ok"),
    ],
)
def test_sqlite_on_a_network_file_system(folder: str, kind: str, status: str) -> None:
    """Of the mounts on the way the innermost counts, of two on one place the later."""
    assert files.mounted_as(Path(folder), MOUNTS) == kind
    for place in ({"db_path": f"{folder}/m.db"}, {"db_path": "/x", "project_db_dir": folder}):
        found = files.file_system(Settings(**place), MOUNTS)  # type: ignore[arg-type]
        assert (found.status, kind in found.detail) == (status, True)
    assert files.mounted_as(Path("/"), "") == "unknown"


def test_a_disk_that_is_nearly_full(on_sqlite: Doctor, tmp_path: Path) -> None:
    """Two steps: little room, and hardly any; wherever the service writes."""
    with small_disk(tmp_path / "disk", "20m") as small:
        place = small.disk.root / "backups"
        for leave, status in ((1_500_000, "warning"), (100_000, "problem")):
            small.disk.fill(leave=leave)
            words = f"% free under {place}"
            on_sqlite.finds("disk", status, words, "du -xsh", BACKUP_DIR=str(place))
            small.disk.clear()
        path = str(small.disk.root / "project_databases")
        small.disk.fill()
        on_sqlite.finds("disk", "problem", path, "du -xsh", PROJECT_DB_DIR=path)
        small.disk.clear()


def test_backups(doctor: Doctor, backend: str) -> None:
    """None, old, never verified, verified long ago, verified and found bad."""
    folder = Path(doctor.settings["BACKUP_DIR"])
    clear(folder)
    found = doctor.find()
    for check in ("backup", "verified"):
        assert found[check]["status"] == "warning"
        assert found[check]["cure"].startswith("./clawd backup")
    old = back_up(folder, backend, hours=30).name
    # One of another database is none of this one's.
    back_up(folder, "postgresql" if backend == "sqlite" else "sqlite")
    verify(folder, old, minutes=40 * 24 * 60)
    found = doctor.find()
    assert "the newest backup is 30 hours old" in found["backup"]["detail"]
    assert "40 days ago" in found["verified"]["detail"]
    back_up(folder, backend)
    verify(folder, old, problem="a table differs")
    found = doctor.find()
    assert (found["backup"]["status"], found["verified"]["status"]) == ("ok", "problem")
    assert "a table differs" in found["verified"]["detail"]


def test_gateways(on_sqlite: Doctor) -> None:
    """One that is away, one that doesn't know our token, none."""
    away = f"http://127.0.0.1:{free_port()}"
    on_sqlite.finds("gateway", "problem", f"{away}: ", "docs/openclaw.md", OPENCLAW_URL=away)
    wrong = {"OPENCLAW_TOKEN": "another-token"}
    on_sqlite.finds("gateway", "problem", "refuses OPENCLAW_TOKEN", "set OPENCLAW_TOKEN", **wrong)
    found = on_sqlite.find(OPENCLAW_TOKEN="")
    assert found["gateway safety"]["status"] == "warning"
    found = on_sqlite.find(OPENCLAW_URL="")
    assert (found["gateway"]["status"], "echo" in found["gateway"]["detail"]) == ("ok", True)


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://gateway.example", "warning"),
        ("http://192.168.1.7:18789", "warning"),
        ("http://localhost.example.com", "warning"),
        ("https://gateway.example", "ok"),
        ("http://127.0.0.2:18789", "ok"),
        ("http://[::1]:18789", "ok"),
        ("http://localhost:18789", "ok"),
    ],
)
def test_plain_http_to_elsewhere(url: str, status: str) -> None:
    """The token goes with each request."""
    found = gateway.safety(Settings(openclaw_url=url, openclaw_token="token"))  # type: ignore[arg-type]
    assert (found.status, "plain HTTP" in found.detail) == (status, status == "warning")


def shifted(hours: float) -> Callable[[], datetime]:
    """A clock that is wrong."""
    return lambda: datetime.now(UTC) + timedelta(hours=hours)


@pytest.mark.parametrize("hours", [-1, 1, 0])
def test_clocks(on_postgres: Doctor, hours: int) -> None:
    """Against PostgreSQL's and the gateway's, either way."""
    with_settings(on_postgres.settings)
    try:
        now = shifted(hours)
        for found in (clock.against_database(now), clock.against_gateway(get_settings(), now)):
            assert found.status == ("warning" if hours else "ok"), found
            # Seconds pass, and the gateway's clock has no fractions.
            told = re.search(r"(\d+\.\d) s", found.detail)
            assert not hours or (told and abs(float(told[1]) - 3600) < 60), found
            assert ("ahead of ours" in found.detail) is (hours < 0) or not hours
    finally:
        without_settings()


def change(doctor: Doctor, server: postgres.Server | None, statement: str) -> None:
    """SQL on the master, as a superuser on PostgreSQL."""
    if server is None:
        Sql(doctor.settings).rows(statement)
        return
    with closing(server.connect(doctor.settings["DB_NAME"])) as conn, conn.cursor() as cursor:
        cursor.execute(f"SET search_path = {doctor.settings['DB_USER']}, public")
        cursor.execute(statement)


STEP = "0005_sessions_deleting"


def test_schemas(doctor: Doctor, backend: str, request: pytest.FixtureRequest) -> None:
    """Edited, behind, ahead."""
    server = request.getfixturevalue("postgres_server") if backend == "postgresql" else None
    for statement, status, words, cure in [
        (
            f"UPDATE schema_migrations SET checksum = 'x' WHERE name = '{STEP}'",
            "problem",
            f"{STEP}.sql was edited",
            "restore the file",
        ),
        (
            f"DELETE FROM schema_migrations WHERE name = '{STEP}'",
            "warning",
            f"behind this code by {STEP}",
            "./clawd init-postgres",
        ),
        (
            "INSERT INTO schema_migrations VALUES ('9999_next', '', '')",
            "problem",
            "9999_next",
            "update the service; ./clawd migrate status",
        ),
    ]:
        change(doctor, server, statement)
        doctor.finds("schema", status, words, cure)


def test_no_database_yet(on_sqlite: Doctor, tmp_path: Path) -> None:
    """A file that isn't there is made by the service, not by the doctor, nor its folder."""
    missing = str(tmp_path / "nowhere" / "m.db")
    on_sqlite.finds("database", "warning", missing, "start the service", DB_PATH=missing)
    assert not (tmp_path / "nowhere").exists()
    # With its projects still there it got lost.
    Sql(on_sqlite.settings).make_database("shop_db")
    Path(on_sqlite.settings["DB_PATH"]).rename(tmp_path / "elsewhere")
    on_sqlite.finds("database", "problem", "there are projects' databases", "./clawd restore")


def test_somebody_elses_database(doctor: Doctor, backend: str, tmp_path: Path) -> None:
    """Its tables are none of ours: the service would put its own among them."""
    if backend == "sqlite":
        other = {"DB_PATH": str(tmp_path / "project_databases" / "other.sqlite3")}
        Sql({"USE_POSTGRES": "false", "DB_PATH": str(tmp_path / "x")}).make_database("other")
    else:
        other = {"DB_NAME": "other_" + doctor.settings["DB_NAME"]}
        Sql(doctor.settings).make_database(other["DB_NAME"])
        table = "CREATE TABLE theirs (id int)"
        Sql(doctor.settings | other).rows(table)
    name = next(iter(other))
    doctor.finds("database", "problem", "no master of this service", f"set {name} to", **other)


def test_a_file_that_is_no_database(on_sqlite: Doctor, tmp_path: Path) -> None:
    """Or a broken one."""
    (tmp_path / "m.db").write_bytes(b"x" * 5000)
    path = str(tmp_path / "m.db")
    on_sqlite.finds("database", "problem", "not a database", "./clawd backup list", DB_PATH=path)


def test_a_postgres_that_is_not_there(on_postgres: Doctor) -> None:
    """What needs it is said not to have been looked at, the rest is."""
    found = on_postgres.find(DB_PORT=str(free_port()))
    assert "refused" in found["database"]["detail"]
    assert "pg_isready -h" in found["database"]["cure"]
    for name in ("schema", "projects", "role", "connections", "database clock"):
        assert found[name]["detail"] == "not looked at: it needs the database"
    assert found["gateway"]["status"] == "ok"
    hopeless = {
        "DB_PASSWORD": ("not-the-password", "\\password"),
        "DB_NAME": ("nothing_here", "createdb"),
        "DB_USER": ("nobody_there", ""),
    }
    for name, (value, cure) in hopeless.items():
        on_postgres.finds("database", "problem", "PostgreSQL at", cure, **{name: value})


def test_everything_is_down(on_postgres: Doctor, tmp_path: Path) -> None:
    """Each part on its own: one that fails takes no other along."""
    (tmp_path / "no folder").write_text("")
    found = on_postgres.find(
        DB_PORT=str(free_port()),
        OPENCLAW_URL=f"http://127.0.0.1:{free_port()}",
        BACKUP_DIR=str(tmp_path / "no folder"),
    )
    said = {"database": "refused", "gateway": "can't be reached", "backup": "Not a directory"}
    for name, words in said.items():
        assert (found[name]["status"], words in found[name]["detail"]) == ("problem", True), found
    assert found["passwords"]["status"] == "ok"


def test_a_postgres_that_hangs(cli: Cli, surroundings: Environment) -> None:
    """Between connecting and an answer; no setting of libpq or of the server ends that."""
    with postgres.Server(postgres.find_binaries()[-1]) as server:
        settings = guarded(server, cli)
        server.signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            found = Doctor(cli, settings | surroundings).find()
            assert time.monotonic() - started < 15
        finally:
            server.signal(signal.SIGCONT)
            server.kill()
    assert found["database"]["status"] == "problem"
    assert found["gateway"]["status"] == "ok"


def test_a_check_that_hangs_or_fails_is_one_of_many() -> None:
    """A dead network disk hangs whoever asks it, for ever; a defect of ours shows no secret."""

    def sleep() -> Finding:
        time.sleep(5)
        return well("too late")

    def fail() -> Finding:
        raise RuntimeError("the password is sesame")

    checks = [
        Check("late", sleep),
        Check("broken", fail),
        Check("well", lambda: well("fine")),
    ]
    started = time.monotonic()
    found = run(checks, seconds=0.2)
    assert time.monotonic() - started < 2
    assert {name: one.status for name, one in found.items()} == {
        "late": "problem",
        "broken": "problem",
        "well": "ok",
    }
    assert found["broken"].detail == "the check itself failed: RuntimeError"


def test_roles(on_postgres: Doctor, postgres_server: postgres.Server) -> None:
    """It tries to drop the master; what refuses it shows what a defect could do."""
    name, role = on_postgres.settings["DB_NAME"], on_postgres.settings["DB_USER"]
    cure = "./clawd init-postgres"
    assert "refused, it isn't the role's" in on_postgres.find()["role"]["detail"]
    with closing(postgres_server.connect()) as conn, conn.cursor() as cursor:

        def alter(statement: str) -> None:
            cursor.execute(
                sql.SQL(statement).format(sql.Identifier(name), role=sql.Identifier(role))
            )

        alter("ALTER ROLE {role} CREATEROLE")
        on_postgres.finds("role", "warning", "may make roles", cure)
        alter("ALTER DATABASE {} OWNER TO {role}")
        on_postgres.finds("role", "problem", "only since a connection", cure)
        alter("ALTER DATABASE {} IS_TEMPLATE true")
        on_postgres.finds("role", "warning", "marked as a template", cure)
        alter("ALTER ROLE {role} SUPERUSER")
        on_postgres.finds("role", "problem", "is a superuser", cure)
        allowed = {"ALLOW_SUPERUSER": "true"}
        on_postgres.finds("role", "warning", "is a superuser", cure, **allowed)
        alter("ALTER ROLE {role} NOSUPERUSER")
    assert Sql(on_postgres.settings).count("users") == 0, "the master is still there"


def test_connections(on_postgres: Doctor) -> None:
    """Of all processes that PM2 starts; PostgreSQL of the tests takes 200 less three."""
    one = {"DB_POOL_MAX": "150"}
    assert on_postgres.find(**one)["connections"]["status"] == "ok"
    Sql(on_postgres.settings).rows(
        "INSERT INTO environment (name, marked_at) VALUES ('production', now())"
    )
    words = "DB_POOL_MAX 150 x 2 processes, of 197 places"
    on_postgres.finds("connections", "warning", words, "set DB_POOL_MAX=96", **one)


def test_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ecosystem.config.json has it for production; one where it can't be told."""
    apps = tmp_path / "apps.json"
    production = Settings(app_env="production", openclaw_url="http://127.0.0.1:9")
    for text, number in [
        ('{"apps": [{"name": "other"}, {"name": "clawd-backend", "instances": 3}]}', 3),
        ('{"apps": [{"name": "clawd-backend"}]}', 1),
        ('{"apps": [{"name": "clawd-backend", "instances": "max"}]}', 1),
        ("{", 1),
    ]:
        apps.write_text(text)
        assert database.count_processes(production, apps) == number
    assert database.count_processes(production, tmp_path / "missing") == 1
    assert database.count_processes(production) == 2


def test_orphans(doctor: Doctor, backend: str, request: pytest.FixtureRequest) -> None:
    """A database without its row, and a row without its database, each with what mends it."""
    with_settings(doctor.settings)
    try:
        with database_adapter.get_db() as conn, conn.cursor() as cursor:
            cursor.execute(
                "INSERT INTO users (email, password_hash) VALUES ('a@b.cc', '!') RETURNING id"
            )
            user = cursor.fetchone()["id"]
            cursor.execute(
                "INSERT INTO projects (user_id, name, db_name) VALUES (%s, %s, %s)",
                (user, "missing", "missing_db"),
            )
        orphan = f"orphan-{secrets.token_hex(4)}"
        database_adapter.create_project_database(orphan, "", 999)
    finally:
        without_settings()
    doctor.finds("projects", "problem", "missing_db: its project", "put it back")
    found = doctor.find()["projects"]
    assert f"{orphan.replace('-', '_')}_db: it is ours and no project names it" in found["detail"]
    assert "put its row back" in found["cure"]
    if backend == "postgresql":
        Sql(doctor.settings).drop_database(f"{orphan.replace('-', '_')}_db")
