"""Every command that the documents name, run as they name it, and what each start says."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import MappingProxyType

import httpx
import psycopg2
import pytest

from server.settings import Settings
from tests import postgres
from tests.service import ROOT, Api, Json, Service, environment, free_port, sign_up

SERVER = ("python", "-m", "server")
SCRIPT = ("./start-backend.sh",)
UVICORN = ("uvicorn", "app:app", "--port", "0")
PRODUCTION = {"APP_ENV": "production", "OPENCLAW_URL": "http://127.0.0.1:9"}
SECRET = "a-password-of-nobody-else"


def copy_tree(folder: Path) -> Path:
    """The repository's files without their history, as a fresh clone has them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def add_environment(folder: Path) -> None:
    """A `venv/` as somebody makes it by hand, which scripts/venv takes as up to date.

    It finds the packages of the environment that the tests run in, so nothing is installed.
    """
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    packages = venv.glob("lib/python*/site-packages")
    (next(packages) / "tests.pth").write_text(sysconfig.get_path("purelib"), "utf-8")
    (venv / ".installed").mkdir()
    shutil.copy(folder / "requirements.lock", venv / ".installed" / "requirements.lock")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with an environment, for copying."""
    folder = copy_tree(tmp_path_factory.mktemp("prepared") / "tree")
    add_environment(folder)
    return folder


@pytest.fixture
def tree(prepared: Path, tmp_path: Path) -> Path:
    """A copy whose files and databases are this test's."""
    folder = tmp_path / "clawd backend"  # a space in the path must do no harm
    return shutil.copytree(prepared, folder, symlinks=True)


class Started(Service):
    """The service as a command starts it in a folder."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str], command: Sequence[str] = SERVER
    ) -> None:
        super().__init__(settings, folder.parent)
        self.folder = folder
        self.command = command
        self.log_path = folder.parent / f"{free_port()}.log"

    def start(self) -> None:
        """Start it, with the Python of these tests first in PATH."""
        variables = environment(self.settings)
        variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def end(self, seconds: float = 10) -> str:
        """Wait until it has ended with a failure; everything it said."""
        self.start()
        assert self.process is not None
        try:
            assert self.process.wait(seconds) != 0
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end within {seconds} s:\n{self.log}") from None
        return self.log

    def health(self) -> Json:
        """What /health says."""
        body: Json = httpx.get(self.url + "/health").json()
        return body


def run(folder: Path, command: Sequence[str], settings: Mapping[str, str]) -> str:
    """What a command prints that must succeed."""
    variables = environment(settings)
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def databases_in(folder: Path) -> list[str]:
    """The SQLite files anywhere below the folder."""
    return [path.name for path in folder.rglob("*") if re.search(r"\.(db|sqlite3)", path.name)]


def reason_line(said: str, *words: str) -> str:
    """The one line that names every word."""
    lines = [line for line in said.splitlines() if all(word in line for word in words)]
    assert len(lines) == 1, f"one line with {words} expected:\n{said}"
    return lines[0]


def test_start_backend_needs_nothing_exported(tree: Path) -> None:
    """The newcomer's command says which database and why, and serves; here only PORT is set."""
    service = Started(tree, {}, SCRIPT)
    service.settings = {"PORT": str(service.port)}
    with service:
        first = service.log.splitlines()[0]
        assert first == f"Database: sqlite ({tree}/clawdbot_adapter.db), because " + (
            "nothing names a PostgreSQL."
        )
        assert service.health()["gateway"]["kind"] == "echo"
    assert databases_in(tree) == ["clawdbot_adapter.db"]


def test_start_backend_listens_on_8002_of_loopback_by_default(tree: Path) -> None:
    """The defaults that every document names; another address so that 8002 may be taken."""
    assert Settings.model_fields["host"].default == "127.0.0.1"
    service = Started(tree, {}, SCRIPT)
    service.settings, service.url = {"HOST": "127.0.0.77"}, "http://127.0.0.77:8002"
    with service:
        assert service.health()["status"] == "ok"


def test_start_backend_runs_from_anywhere(tree: Path, tmp_path: Path) -> None:
    """PM2, systemd and people start it from other folders."""
    service = Started(tree, {}, [str(tree / "start-backend.sh")])
    service.folder = tmp_path
    with service:
        pass
    assert databases_in(tmp_path) == ["clawdbot_adapter.db"]


def test_start_backend_makes_the_environment_first(tmp_path: Path) -> None:
    """On a fresh clone it says what it makes; without a network it ends with the reason."""
    tree = copy_tree(tmp_path / "clone")
    settings = {"PIP_NO_INDEX": "1", "PIP_RETRIES": "0", "HOME": str(tmp_path)}
    said = Started(tree, settings, SCRIPT).end(90)
    assert "Making venv/ with Python 3" in said
    assert "Installing requirements.lock" in said
    assert "cannot fetch what requirements.lock asks for" in said


def wheel(shelf: Path, version: str, metadata: str = "", more: str = "toy.txt") -> Path:
    """A wheel of a package `toy`, which holds one more file."""
    folder = f"toy-{version}.dist-info"
    files = {
        "toy.py": f"VERSION = {version!r}\n",
        more: "",
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: toy\nVersion: {version}\n{metadata}",
        f"{folder}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{folder}/RECORD"] = "".join(f"{name},,\n" for name in files)
    shelf.mkdir(exist_ok=True)
    path = shelf / f"toy-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


# How a source says to build itself: what runs leaves a mark.
BACKEND = """
import pathlib, shutil
def build_wheel(folder, settings=None, metadata=None):
    pathlib.Path({mark!r}).touch()
    return shutil.copy({wheel!r}, folder).rpartition("/")[2]
"""


def source(shelf: Path, built: Path, mark: Path) -> Path:
    """The source of a wheel, in the wheel's place."""
    name = built.name.partition("-py3")[0]
    folder = shelf.parent / "source" / name
    folder.mkdir(parents=True)
    system = '[build-system]\nrequires = []\nbuild-backend = "build"\nbackend-path = ["."]\n'
    (folder / "pyproject.toml").write_text(system, "utf-8")
    moved = str(built.rename(folder.parent / built.name))
    (folder / "build.py").write_text(BACKEND.format(mark=str(mark), wheel=moved), "utf-8")
    return Path(shutil.make_archive(str(shelf / name), "gztar", folder.parent, name))


def lock(tree: Path, path: Path) -> None:
    """Let the service need exactly this file of a toy."""
    version = path.name.removesuffix(".tar.gz").split("-")[1]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    text = f"toy=={version} --hash=sha256:{digest}\n"
    (tree / "requirements.lock").write_text(text, "utf-8")


def install(
    tree: Path, shelf: Path, settings: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """Run scripts/venv, with the shelf for an index."""
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shelf), "PIP_CONFIG_FILE": os.devnull}
    variables = environment({**pip, "HOME": str(tree.parent), **settings})
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
    return subprocess.run(
        ["scripts/venv", "requirements.lock"],
        cwd=tree,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )


def toy(tree: Path) -> str:
    """The version of the toy that is installed."""
    command = ["venv/bin/python", "-c", "import toy; print(toy.VERSION)"]
    return run(tree, command, {}).strip()


def test_only_what_the_lock_knows_is_installed(tree: Path, tmp_path: Path) -> None:
    """A file that was exchanged, or that no hash speaks for, leaves the old environment whole."""
    shelf = tmp_path / "shelf"
    first, second = wheel(shelf, "1.0"), wheel(shelf, "2.0")
    lock(tree, first)
    assert install(tree, shelf).returncode == 0
    known = (tree / "requirements.lock").read_text("utf-8")
    lock(tree, second)
    wheel(shelf, "2.0", more="evil.txt")
    exchanged = install(tree, shelf)
    (tree / "requirements.lock").write_text("toy==2.0\n", "utf-8")
    unknown = install(tree, shelf)
    lock(tree, wheel(shelf, "2.0", "Requires-Dist: packaging\n"))
    incomplete = install(tree, shelf)
    for refused, reason in (
        (exchanged, "DO NOT MATCH THE HASHES"),
        (unknown, "Hashes are required"),
        (incomplete, "packaging"),
    ):
        assert refused.returncode != 0
        assert reason in refused.stderr
        assert "scripts/venv: cannot fetch what requirements.lock asks for." in refused.stderr
    assert toy(tree) == "1.0"
    (tree / "requirements.lock").write_text(known, "utf-8")
    again = install(tree, shelf)
    assert (again.returncode, again.stderr) == (0, "")
    lock(tree, wheel(shelf, "2.0"))
    assert install(tree, shelf).returncode == 0
    assert toy(tree) == "2.0"


def test_what_was_asked_for_once_is_kept_up_to_date(tree: Path, tmp_path: Path) -> None:
    """An update once left OpenTelemetry's packages behind, which fit no other version's."""
    shelf = tmp_path / "shelf"
    lock(tree, wheel(shelf, "1.0"))
    (tree / "requirements.lock").rename(tree / "requirements-otel.lock")
    (tree / "requirements.lock").write_text("", "utf-8")
    (tree / "venv" / ".installed" / "requirements-otel.lock").write_text("of old", "utf-8")
    done = install(tree, shelf)
    assert (done.returncode, toy(tree)) == (0, "1.0"), done.stderr


def test_nothing_is_built_unless_somebody_says_so(tree: Path, tmp_path: Path) -> None:
    """A source runs code of its own while it is built, with tools that no lock names."""
    shelf, mark = tmp_path / "shelf", tmp_path / "built"
    lock(tree, source(shelf, wheel(shelf, "3.0"), mark))
    refused = install(tree, shelf)
    assert refused.returncode != 0
    assert "no wheel for this Python: PIP_ONLY_BINARY= builds it" in refused.stderr
    assert not mark.exists()
    built = install(tree, shelf, {"PIP_ONLY_BINARY": ""})
    assert built.returncode == 0, built.stderr
    assert mark.exists()
    assert toy(tree) == "3.0"


def test_an_environment_that_is_half_made_is_made_anew(tree: Path, tmp_path: Path) -> None:
    """What broke off while it was unpacked once passed for whole."""
    shelf = tmp_path / "shelf"
    lock(tree, wheel(shelf, "1.0", more="../../../outside"))
    broken = install(tree, shelf)
    assert broken.returncode != 0
    assert "scripts/venv: cannot install requirements.lock" in broken.stderr
    (tree / "venv" / "left-over").touch()
    lock(tree, wheel(shelf, "1.0"))
    mended = install(tree, shelf)
    assert mended.returncode == 0, mended.stderr
    assert "Making venv/ with Python 3" in mended.stderr
    assert not (tree / "venv" / "left-over").exists()
    assert toy(tree) == "1.0"


def test_locks_are_made_from_the_ranges(tree: Path, tmp_path: Path) -> None:
    """What a lock holds stays until somebody asks for newer ones, and scripts/venv takes it."""
    shelf = tmp_path / "shelf"
    (tree / "venv" / "bin" / "uv").symlink_to(Path(sys.executable).with_name("uv"))
    (tree / "requirements.txt").write_text("toy>=1,<2\n", "utf-8")
    for name in ("requirements-otel.txt", "requirements-dev.txt"):
        (tree / name).write_text("-r requirements.txt\n", "utf-8")
    for name in ("requirements.lock", "requirements-otel.lock", "requirements-dev.lock"):
        (tree / name).unlink()
    offline = {"UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(shelf)}
    for version in ("1.0", "2.0"):
        wheel(shelf, version)
    run(tree, ["scripts/lock"], offline)
    wheel(shelf, "1.1")
    run(tree, ["scripts/lock"], offline)
    assert "\ntoy==1.0 " in (tree / "requirements.lock").read_text("utf-8")
    run(tree, ["scripts/lock", "--upgrade"], offline)
    assert "\ntoy==1.1 " in (tree / "requirements-dev.lock").read_text("utf-8")
    assert install(tree, shelf).returncode == 0
    assert toy(tree) == "1.1"


class Advisories(BaseHTTPRequestHandler):
    """What is known about versions, in OSV's words: toy 1.0 has a hole."""

    def do_POST(self) -> None:
        """Answer one question."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        package = {"name": asked["package"]["name"], "ecosystem": "PyPI"}
        hole = {"id": "PYSEC-2026-1", "summary": "a hole", "affected": [{"package": package}]}
        body = json.dumps({"vulns": [hole]} if asked["version"] == "1.0" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.mark.parametrize(
    ("locked", "reason"),
    [
        ("toy==1.1", ""),
        ("toy==1.0", "PYSEC-2026-1"),
        ("toy @ https://example.com/toy-1.1-py3-none-any.whl", "URL requirements"),
    ],
)
def test_audit_fails_unless_everything_is_known_to_be_well(
    tree: Path, locked: str, reason: str
) -> None:
    """What could not be looked up once passed: nothing had been audited, and the status was 0."""
    for name in ("requirements.lock", "requirements-dev.lock"):
        (tree / name).write_text(f"{locked} --hash=sha256:{64 * '0'}\n", "utf-8")
        shutil.copy(tree / name, tree / "venv" / ".installed")
    with ThreadingHTTPServer(("127.0.0.1", 0), Advisories) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        done = subprocess.run(
            ["scripts/audit", "--vulnerability-service", "osv", "--osv-url", url],
            cwd=tree,
            env=environment({"HOME": str(tree.parent)}),
            capture_output=True,
            text=True,
            check=False,
        )
        server.shutdown()
    assert (done.returncode == 0) == (reason == ""), done.stderr
    assert reason in done.stdout + done.stderr


def test_start_backend_refuses_options_it_does_not_know(tree: Path) -> None:
    """`./start-backend.sh --port 9000` once served on 8002 without a word."""
    assert (
        "unrecognized arguments: --port 9000"
        in Started(tree, {}, [*SCRIPT, "--port", "9000"]).end()
    )


def test_start_backend_dev_stands_beside_production(tree: Path) -> None:
    """Port 8001, databases of its own, whatever production's files in the same folder say."""
    (tree / ".env.postgres").write_text("DB_HOST=127.0.0.1\nDB_PORT=1\nDB_PASSWORD=x\n", "utf-8")
    (tree / ".env").write_text("APP_ENV=production\nPORT=8002\nDB_PATH=production.db\n", "utf-8")
    service = Started(tree, {}, ["./start-backend-dev.sh"])
    service.settings, service.url = {"HOST": "127.0.0.78"}, "http://127.0.0.78:8001"
    with service:
        sign_up(service).project("shop")
    assert databases_in(tree) == ["clawdbot_adapter_dev.db", "shop_db.sqlite3"]
    assert (tree / "project_databases_dev" / "shop_db.sqlite3").exists()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"USE_POSTGRES": "true"}, "postgresql (admin@127.0.0.1:1/dreampilot_dev)"),
        ({"USE_POSTGRES": "true", "DB_NAME": "mine"}, "postgresql (admin@127.0.0.1:1/mine)"),
        ({"DB_HOST": "127.0.0.2"}, "postgresql (admin@127.0.0.2:1/dreampilot_dev)"),
        ({"DB_PATH": "mine.db"}, "/mine.db)"),
    ],
)
def test_start_backend_dev_keeps_what_the_environment_says(
    tree: Path, settings: dict[str, str], expected: str
) -> None:
    """Never production's database by its name, also where a file gives it as a URL."""
    (tree / ".env.postgres").write_text("DATABASE_URL=postgresql://admin:x@127.0.0.1:1/dreampilot")
    service = Started(tree, {**settings, "DB_PORT": "1"}, ["./start-backend-dev.sh"])
    service.start()
    service.wait_until_up(path="/health/live")
    service.stop()
    assert expected in service.log.splitlines()[0]


def test_start_backend_dev_reloads(tree: Path) -> None:
    """An edit is served without a hand on the terminal."""
    with Started(tree, {}, ["./start-backend-dev.sh"]) as service:
        version = tree / "server" / "version.py"
        version.write_text(version.read_text("utf-8").replace('VERSION = "', 'VERSION = "9'))
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            try:
                if service.health()["version"].startswith("9"):
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError(service.log)


def test_uvicorn_runs_the_app_without_any_script(tree: Path) -> None:
    """`uvicorn app:app --port N` reads the same files."""
    service = Started(tree, {})
    service.command = ["uvicorn", "app:app", "--port", str(service.port)]
    service.settings = {}
    (tree / ".env").write_text("DB_PATH=other.db\n", "utf-8")
    with service:
        assert service.health()["backend"] == "sqlite"
    assert databases_in(tree) == ["other.db"]


CONNECT = "from database_postgres import test_connection; import json; " + (
    "print(json.dumps(test_connection(), indent=2))"
)
INFO = "from database_adapter import get_database_info; import json; " + (
    "print(json.dumps(get_database_info(), indent=2))"
)


def test_connection_is_tested_from_the_command_line(
    tree: Path, postgres_server: postgres.Server
) -> None:
    """The documented command, with nothing but .env.postgres; it reports and never raises."""
    master = postgres.create_master(postgres_server)
    lines = [f"{name}={value}" for name, value in master.items()]
    (tree / ".env.postgres").write_text("\n".join(lines), "utf-8")
    found = json.loads(run(tree, ["python3", "-c", CONNECT], {}))
    assert found["status"] == "ok"
    assert found["version"].startswith("PostgreSQL ")
    assert (found["host"], found["port"], found["database"]) == (
        master["DB_HOST"],
        int(master["DB_PORT"]),
        master["DB_NAME"],
    )
    for wrong in ({"DB_PASSWORD": "wrong"}, {"DB_PORT": "1"}, {"DB_PORT": "none"}):
        failed = json.loads(run(tree, ["python3", "-c", CONNECT], wrong))
        assert failed["status"] == "error"
        assert failed["reason"]


def test_database_info_is_told_on_the_command_line(tree: Path) -> None:
    """Which database, why and where, on both; never the password."""
    told = json.loads(run(tree, ["python3", "-c", INFO], {}))
    assert told["backend"] == "sqlite"
    assert told["path"] == str(tree / "clawdbot_adapter.db")
    (tree / ".env.postgres").write_text(f"DB_HOST=db.example\nDB_PASSWORD={SECRET}\n", "utf-8")
    said = run(tree, ["python3", "-c", INFO], {})
    assert SECRET not in said
    told = json.loads(said)
    assert (told["backend"], told["host"]) == ("postgresql", "db.example")
    assert told["reason"] == ".env.postgres exists"
    assert databases_in(tree) == []


def test_pm2_file_fits_the_scripts() -> None:
    """PM2 starts both instances from any checkout and never kills one that is still saving."""
    text = (ROOT / "ecosystem.config.json").read_text("utf-8")
    apps = {app["name"]: app for app in json.loads(text)["apps"]}
    assert list(apps) == ["clawd-backend", "clawd-backend-dev"]
    for app in apps.values():
        script = ROOT / app["script"]
        assert os.access(script, os.X_OK)
        assert script.read_text("utf-8").startswith("#!/usr/bin/env bash\n")
        assert app["interpreter"] == "bash"
        grace = app["env"].get("SHUTDOWN_GRACE", Settings.model_fields["shutdown_grace"].default)
        # uvicorn waits 5 seconds longer, and what is then saved may take 10.
        assert app["kill_timeout"] > 1000 * (float(grace) + 15)
        assert app["autorestart"]
        assert app["restart_delay"] > 0
    env = {name: (app["env"]["PORT"], app["env"]["APP_ENV"]) for name, app in apps.items()}
    assert env["clawd-backend"] == ("8002", "production")
    assert env["clawd-backend-dev"] == ("8001", "development")
    assert not re.search(r'"/|~|PASSWORD|TOKEN|SECRET', text)


@pytest.fixture
def own_server() -> Iterator[postgres.Server]:
    """A PostgreSQL of this test's own, to be stopped and started."""
    with postgres.Server(postgres.find_binaries()[-1]) as server:
        yield server


def test_waits_for_a_postgres_that_is_away(tree: Path, own_server: postgres.Server) -> None:
    """After a power cut the service is often there first; it once began an empty SQLite file."""
    master = postgres.create_master(own_server)
    own_server.stop()
    service = Started(tree, master, SCRIPT)
    service.start()
    try:
        service.wait_until_up(path="/health/live")
        answer = httpx.get(service.url + "/health")
        assert answer.status_code == 503
        assert answer.json()["status"] == "error"
        assert answer.json()["backend"] == "postgresql"
        assert answer.json()["database"]["reason"] == "the database is unavailable"
        refused = httpx.post(service.url + "/auth/login", json={"email": "a@b.de", "password": "x"})
        assert refused.status_code == 503
        time.sleep(2)
        own_server.start()
        service.wait_until_up(5)
        assert sign_up(service).project()["id"] == 1
    finally:
        service.stop()
    assert databases_in(tree) == []


@pytest.mark.parametrize(
    ("command", "wrong", "words"),
    [
        (SCRIPT, {"DB_PASSWORD": "wrong"}, ("password authentication failed", "DB_PASSWORD")),
        (UVICORN, {"DB_PASSWORD": "wrong"}, ("password authentication failed", "DB_PASSWORD")),
        (SCRIPT, {"DB_NAME": "nowhere"}, ('database \\"nowhere\\" does not exist', "createdb")),
        (SCRIPT, {"DB_USER": "nobody"}, ("password authentication failed", "DB_USER")),
        (SCRIPT, {"DB_SSLMODE": "require"}, ("does not support SSL", "DB_SSLMODE")),
    ],
)
def test_ends_when_postgres_will_never_work(
    tree: Path,
    postgres_server: postgres.Server,
    command: tuple[str, ...],
    wrong: dict[str, str],
    words: tuple[str, ...],
) -> None:
    """One line names host, port, database, reason and cure; no fall-back to SQLite."""
    settings = {**postgres.create_master(postgres_server), **wrong}
    said = Started(tree, settings, command).end()
    place = f"{settings['DB_HOST']}:{settings['DB_PORT']}, database {settings['DB_NAME']}"
    reason_line(said, place, "to mend it", *words)
    assert "Traceback" not in said
    assert databases_in(tree) == []


def test_ends_when_postgres_comes_and_refuses(tree: Path, own_server: postgres.Server) -> None:
    """A wrong password that shows only once the server is there ends the process too."""
    master = {**postgres.create_master(own_server), "DB_PASSWORD": "wrong"}
    own_server.stop()
    service = Started(tree, master)
    service.start()
    service.wait_until_up(path="/health/live")
    own_server.start()
    assert service.process is not None
    assert service.process.wait(10) != 0
    reason_line(service.log, "password authentication failed", "to mend it")


@pytest.mark.parametrize("later", [False, True])
def test_ends_when_the_role_may_not_make_tables(
    tree: Path, own_server: postgres.Server, later: bool
) -> None:
    """It once stayed up and answered 503 for ever when the server came after the service."""
    master = postgres.create_master(own_server)
    with closing(own_server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {master['DB_NAME']} OWNER TO postgres")
    service = Started(tree, master)
    if later:
        own_server.stop()
        service.start()
        service.wait_until_up(path="/health/live")
        own_server.start()
        assert service.process is not None
        assert service.process.wait(10) != 0
    else:
        service.end()
    place = f"{master['DB_HOST']}:{master['DB_PORT']}, database {master['DB_NAME']}"
    reason_line(service.log, place, "permission denied for schema public", "docs/deployment.md")


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({"PORT": "http"}, "PORT"),
        ({"USE_POSTGRES": "perhaps"}, "USE_POSTGRES"),
        ({"USE_POSTGRES": "true", "DB_PORT": "8002"}, "DB_PORT"),
        ({"USE_POSTGRES": "true", "DB_PORT": "8001"}, "DB_PORT"),
        ({"DATABASE_URL": "mysql://host/name"}, "DATABASE_URL"),
        ({"DB_PASSWORD_FILE": "missing"}, "DB_PASSWORD_FILE"),
        ({"CORS_ORIGINS": "*"}, "CORS_ORIGINS"),
        ({"APP_ENV": "production"}, "OPENCLAW_URL"),
        ({**PRODUCTION, "USE_POSTGRES": "true", "DB_PASSWORD": "changeme"}, "DB_PASSWORD"),
        ({**PRODUCTION, "OPENCLAW_TOKEN": "secret"}, "OPENCLAW_TOKEN"),
    ],
)
def test_bad_setting_is_named_in_one_line(
    tree: Path, settings: dict[str, str], variable: str
) -> None:
    """One line, the same for the script and for uvicorn alone; a secret's value isn't in it."""
    service = Started(tree, {}, SERVER if variable == "DB_PORT" else UVICORN)
    service.settings = settings
    said = service.end()
    assert said.startswith(f"clawd-backend can't start: {variable}: ")
    assert said.count("\n") == 1
    assert "changeme" not in said
    assert databases_in(tree) == []


@pytest.fixture
def checkout(tree: Path) -> Path:
    """The copy as a git checkout of a feature branch."""
    name = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    for arguments in (
        ["init", "--quiet", "--initial-branch=feature/x"],
        [*name, "commit", "--quiet", "--allow-empty", "--message=first"],
    ):
        run(tree, ["git", *arguments], {})
    return tree


def test_production_runs_from_main(checkout: Path, prepared: Path) -> None:
    """`git checkout feature/x` in production's folder once went live at the next restart."""
    settings = {**PRODUCTION, "HOST": "127.0.0.79", "PORT": "8002"}
    said = Started(checkout, settings, SCRIPT).end()
    reason_line(said, "only from branch main", "feature/x", "ALLOW_ANY_BRANCH=1")
    assert databases_in(checkout) == []
    run(checkout, ["git", "worktree", "add", "-q", "../worktree", "-b", "fix/y"], {})
    worktree = checkout.parent / "worktree"
    shutil.copytree(prepared, worktree, symlinks=True, dirs_exist_ok=True)
    reason_line(Started(worktree, settings, SCRIPT).end(), "only from branch main", "fix/y")


@pytest.mark.parametrize(
    ("branch", "settings"),
    [
        ("main", {}),
        ("feature/x", {"ALLOW_ANY_BRANCH": "1"}),
        ("feature/x", {"PORT": "8003"}),
        ("feature/x", {"APP_ENV": "development"}),
    ],
)
def test_production_starts_where_it_may(
    checkout: Path, branch: str, settings: dict[str, str]
) -> None:
    """From main, when overridden, on another port, and in development."""
    run(checkout, ["git", "checkout", "-q", "-B", branch], {})
    settings = {**PRODUCTION, "HOST": "127.0.0.80", "PORT": "8002", **settings}
    service = Started(checkout, settings)
    service.url = f"http://127.0.0.80:{settings['PORT']}"
    with service:
        head = run(checkout, ["git", "rev-parse", "HEAD"], {}).strip()
        assert service.health()["commit"] == head


def test_two_instances_start_at_once_on_a_fresh_database(
    tree: Path, backend: str, request: pytest.FixtureRequest
) -> None:
    """Each step of the schema is applied once, and both work."""
    settings = {"USE_POSTGRES": "false"}
    if backend == "postgresql":
        settings = postgres.create_master(request.getfixturevalue("postgres_server"))
    services = [Started(tree, settings) for _ in range(4)]
    with ExitStack() as stack:
        for service in services:
            service.start()
            stack.callback(service.stop)
        for service in services:
            service.wait_until_up()
        ada = sign_up(services[0])
        project = ada.project()
        for service in services[1:]:
            assert Api(service, ada.token).get("/projects").json()["items"] == [project]


def test_graceful_end(tree: Path) -> None:
    """PM2 sends SIGINT, systemd SIGTERM: the answer that runs is finished, the process ends."""
    with Started(tree, {}, SCRIPT) as service:
        ada = sign_up(service)
        session = ada.session()
        with ada.stream(session["id"], "word " * 20) as response:
            lines = response.iter_lines()
            next(lines)
            assert service.process is not None
            service.process.terminate()
            rest = list(lines)
        assert "event: done" in rest
        service.process.wait(10)
        assert '"stopped"' in service.log


def test_a_taken_port_is_named(tree: Path) -> None:
    """The line to look for when another process has the port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = Started(tree, {"PORT": str(port)}, SCRIPT).end()
    reason_line(said, str(port), "address already in use")


def sql_blocks() -> list[str]:
    """The statements that docs/deployment.md gives."""
    text = (ROOT / "docs" / "deployment.md").read_text("utf-8")
    return re.findall(r"```sql\n(.*?)```", text, re.DOTALL)


def follow(server: postgres.Server, script: str) -> None:
    """Run statements as psql does: each by itself, `\\connect` changes the database."""
    conn = server.connect()
    try:
        for line in filter(None, script.replace("'...'", f"'{SECRET}'").splitlines()):
            if line.startswith("\\connect "):
                conn.close()
                conn = server.connect(line.split()[1])
            else:
                with conn.cursor() as cursor:
                    cursor.execute(line)
    finally:
        conn.close()


def test_documented_roles_work(tree: Path, own_server: postgres.Server) -> None:
    """Both set-ups of docs/deployment.md serve; neither role can drop the master.

    What the text says of the tables is what the command has done: doing it changes no right.
    """
    recommended, simple = sql_blocks()
    before, _, after = recommended.partition("-- then the files of schema/")
    follow(own_server, before)
    where = {"DB_HOST": own_server.host, "DB_PORT": str(own_server.port), "DB_PASSWORD": SECRET}
    init_postgres(own_server, {**where, "DB_USER": "clawd"})
    rights = table_rights(own_server)
    own = "\\connect dreampilot\nSET ROLE clawd_owner;\nSET search_path = clawd;\n"
    follow(own_server, own + after.partition("\n")[2])
    assert table_rights(own_server) == rights
    use_it(tree, {**where, "DB_USER": "clawd"})
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="must be owner"):
        drop(own_server, "clawd", "dreampilot")
    with closing(own_server.connect("dreampilot")) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT DISTINCT schemaname FROM pg_tables WHERE tableowner = 'clawd'")
        assert cursor.fetchall() == []
    follow(own_server, simple.replace("dreampilot", "simple"))
    use_it(tree, {**where, "DB_USER": "admin", "DB_NAME": "simple"})
    with pytest.raises(psycopg2.errors.WrongObjectType, match="cannot drop a template"):
        drop(own_server, "admin", "simple")


def init_postgres(server: postgres.Server, settings: dict[str, str]) -> None:
    url = f"postgresql://{server.superuser}:{server.password}@{server.host}:{server.port}"
    command = [sys.executable, "-m", "server.cli", "init-postgres"]
    whole = environment({"USE_POSTGRES": "true", **settings, "POSTGRES_ADMIN_URL": url})
    subprocess.run(command, cwd=ROOT, env=whole, check=True, timeout=60)


def table_rights(server: postgres.Server) -> set[tuple[str, str]]:
    """What the documented role may do with which table."""
    with closing(server.connect("dreampilot")) as conn, conn.cursor() as cursor:
        cursor.execute(
            "SELECT table_name, privilege_type FROM information_schema.table_privileges "
            "WHERE grantee = 'clawd'"
        )
        found = set(cursor.fetchall())
    assert ("users", "SELECT") in found
    assert ("users", "DELETE") not in found
    return found


def use_it(tree: Path, settings: dict[str, str]) -> None:
    """Make and delete a project."""
    with Started(tree, settings) as service:
        ada = sign_up(service)
        project = ada.project("shop", project_type="ecommerce")
        found = ada.get(f"/projects/{project['id']}/database").json()
        assert "orders" in found["tables"]
        gone = ada.delete(f"/projects/{project['id']}").json()
        assert gone["cleanup"]["database_dropped"]


def drop(server: postgres.Server, role: str, database: str) -> None:
    """Try, from another database, to drop the master."""
    with closing(
        psycopg2.connect(
            host=server.host, port=server.port, user=role, password=SECRET, dbname="postgres"
        )
    ) as conn:
        conn.autocommit = True
        with conn.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {database} WITH (FORCE)")
