"""docs/operations.md's runbook: each fault is made, shows as it says, and its commands help."""

import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import psycopg2
import pytest

from tests import postgres
from tests.chat.following import wait_until
from tests.faults.sqlite_files import settings_of, small_disk
from tests.service import ROOT, Api, Service, environment, sign_up
from tests.test_docs import section

TEXT = section((ROOT / "docs" / "operations.md").read_text("utf-8"), "Runbook")
# The first part, before the first symptom, is for all of them.
SYMPTOMS = {part.partition("\n")[0]: part for part in ("For all\n" + TEXT).split("\n### ")}
COVERED = {
    "For all",
    "Database locked",
    "Pool exhausted",
    "Port in use",
    "Migration failed",
    "Gateway down",
    "Disk full",
    "It is slow",
    "A project was deleted by mistake",
    "Somebody forgot the password",
}


def shown(symptom: str) -> list[str]:
    """The lines by which it shows."""
    blocks = re.findall(r"^```text\n(.*?)^```$", SYMPTOMS[symptom], re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def commands(symptom: str) -> list[str]:
    """Its commands."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", SYMPTOMS[symptom], re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def assert_shows(symptom: str, said: str) -> None:
    """Each line of the runbook stands in what the service said or answered."""
    for line in shown(symptom):
        pattern = ".*".join(re.escape(part) for part in line.split("..."))
        assert re.search(pattern, said), f"{line}\nis not in\n{said}"


def run(command: str, service: Service, code: int | None = 0) -> str:
    """Run a command word for word but for places and names; what it prints."""
    for old, new in {
        "http://127.0.0.1:8002": service.url,
        ":8002": f":{service.port}",
        "./clawd": f"{sys.executable} -m server.cli",
        "lsof clawdbot_adapter.db": f"lsof {service.settings.get('DB_PATH')}",
        "postgresql://postgres:secret@localhost/dreampilot": service.settings.get("ADMIN_URL", ""),
    }.items():
        command = command.replace(old, new)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=ROOT,
        env=environment(service.settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert code is None or done.returncode == code, (command, done.stdout, done.stderr)
    return done.stdout


def settings_on(folder: Path, **more: str) -> dict[str, str]:
    """SQLite there, a short patience, no gateway."""
    return {
        "USE_POSTGRES": "false",
        "DB_PATH": str(folder / "master.db"),
        "BACKUP_DIR": str(folder / "backups"),
        "DB_POOL_WAIT": "0.5",
        "OPENCLAW_URL": "http://127.0.0.1:9",
        **more,
    }


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, in use for several of the symptoms."""
    folder = tmp_path_factory.mktemp("runbook")
    with Service(settings_on(folder), folder) as running:
        yield running


def answer(response: httpx.Response, service: Service) -> str:
    """The body, and what the log says of the request."""
    name = response.json()["request_id"]
    wait_until(lambda: any(name in line and '"ms"' in line for line in service.log.splitlines()))
    lines = [line for line in service.log.splitlines() if name in line]
    return "\n".join([response.text, *lines])


def test_every_symptom_is_made_here() -> None:
    """One that is added to the runbook needs its test."""
    assert set(SYMPTOMS) == COVERED


def test_database_locked(service: Service) -> None:
    """By another program; `lsof` names it, and the log-in shows both states."""
    (first_look, log_in) = (commands("Database locked")[0], commands("For all")[1])
    api = sign_up(service)
    with closing(sqlite3.connect(service.settings["DB_PATH"], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        response = api.http.post("/projects", json={"name": "shop"})
        assert_shows("Database locked", answer(response, service))
        assert f" {os.getpid()} " in run(first_look, service)
        assert '"status":503' in run(log_in, service)
    assert '"status":401' in run(log_in, service)


def test_pool_exhausted(postgres_server: postgres.Server, tmp_path: Path) -> None:
    """By a lock that somebody holds; the query names who it is."""
    (numbers, query) = commands("Pool exhausted")
    master = postgres.create_master(postgres_server)
    one = {"DB_POOL_MIN": "1", "DB_POOL_MAX": "1", "DB_POOL_WAIT": "0.5"}
    server = f"{postgres_server.host}:{postgres_server.port}"
    url = f"postgresql://postgres:{postgres_server.password}@{server}/{master['DB_NAME']}"
    path = f"{postgres_server.bin_dir}{os.pathsep}{os.environ['PATH']}"
    settings = {**master, **one, "ADMIN_URL": url, "PATH": path}
    with Service(settings, tmp_path) as service:
        api = sign_up(service)
        headers = dict(api.http.headers)
        with closing(psycopg2.connect(url)) as other:
            with other.cursor() as cursor:
                cursor.execute("LOCK TABLE projects")
            blocked = threading.Thread(
                target=httpx.get, args=(service.url + "/projects",), kwargs={"headers": headers}
            )
            blocked.start()
            wait_until(lambda: '"in_use":1' in run(numbers, service))
            response = api.http.get("/auth/me")
            assert_shows("Pool exhausted", answer(response, service))
            assert f"{{{other.info.backend_pid}}}" in run(query, service)
            blocked.join()
        assert '"status":"ok"' in run(numbers, service)


def test_port_in_use(service: Service) -> None:
    """By the service itself, started a second time."""
    (who, health) = commands("Port in use")
    done = subprocess.run(
        [sys.executable, "-m", "server"],
        cwd=ROOT,
        env=environment(service.settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert_shows("Port in use", done.stderr.replace(f":{service.port}", ":8002"))
    assert service.process is not None
    assert f" {service.process.pid} " in run(who, service)
    assert '"commit":' in run(health, service)


def test_migration_failed(service: Service, tmp_path: Path) -> None:
    """A database that a newer version has changed."""
    (status,) = commands("Migration failed")
    assert "applied" in run(status, service)
    newer = Service(settings_on(tmp_path), tmp_path)
    with (
        closing(sqlite3.connect(service.settings["DB_PATH"])) as conn,
        closing(sqlite3.connect(tmp_path / "master.db")) as copy,
    ):
        conn.backup(copy)
        copy.execute("INSERT INTO schema_migrations VALUES ('9999_x', 'x', '2026-01-01')")
        copy.commit()
    newer.start()
    assert newer.process is not None
    assert newer.process.wait(20) != 0
    assert_shows("Migration failed", newer.log)
    assert "unknown   9999_x" in run(status, newer, code=2)


def test_gateway_down(service: Service) -> None:
    """Nobody listens where it should be."""
    (look,) = commands("Gateway down")
    api: Api = sign_up(service)
    session = api.session()["id"]
    response = api.http.post("/chat", json={"session_id": session, "message": "Hello?"})
    assert_shows("Gateway down", answer(response, service))
    assert '"reason":"The AI gateway can\'t be reached."' in run(look, service)
    assert run(commands("For all")[0], service, code=2).count("problem   gateway ") == 1


def test_disk_full(tmp_path: Path) -> None:
    """A disk of two megabytes; with room again, everything works without a restart."""
    (free, backups) = commands("Disk full")
    log_in = commands("For all")[1]
    with small_disk(tmp_path / "disk", "2m") as small:
        settings = settings_of(small.mount, AUTH_RATE_LIMIT="on", BACKUP_DIR=str(tmp_path))
        with Service(settings, tmp_path, small.within) as service:
            api = sign_up(service)
            path = f"/projects/{api.project()['id']}/sessions"
            small.disk.fill()
            wait_until(lambda: api.post(path, {"title": "x" * 200}).status_code == 507)
            assert_shows("Disk full", answer(api.http.post(path, json={}), service))
            assert '"status":507' in run(log_in, service)
            assert "Use%" in run(free, service)
            assert "No backups in" in run(backups, service)
            small.disk.clear()
            assert '"status":401' in run(log_in, service)


def test_slow(service: Service) -> None:
    """The numbers are there."""
    said = [run(command, service) for command in commands("It is slow")]
    assert '"latency_ms":' in said[0]
    assert '"running":' in said[1]
    for word in ("http_at_work", "database_pool_waiting", "generations_running"):
        assert f"clawd_{word}" in said[2]
    assert any(line["event"] == "request" and line["ms"] > 0 for line in service.log_lines())


def test_a_project_that_was_deleted(service: Service) -> None:
    """Its owner finds it, and has it back."""
    (deleted, restore) = commands("A project was deleted by mistake")
    api = sign_up(service)
    number = api.project()["id"]
    assert api.delete(f"/projects/{number}").status_code == 200
    mine = f"TOKEN={api.token}\n"
    assert f'"id":{number},' in run(mine + deleted, service)
    assert f'"id":{number},' in run(mine + restore.replace("/7/", f"/{number}/"), service)
    assert api.get(f"/projects/{number}").status_code == 200


def test_a_forgotten_password(service: Service) -> None:
    """The new one is shown, and the old tokens are void."""
    (reset,) = commands("Somebody forgot the password")
    api = sign_up(service, email="ada@example.com")
    said = run(reset, service)
    assert api.http.get("/auth/me").status_code == 401
    account = {"email": "ada@example.com"}
    passwords = [word for line in said.splitlines() for word in line.split() if len(word) > 11]
    answers = {
        api.http.post("/auth/login", json={**account, "password": word}).status_code
        for word in passwords
    }
    assert 200 in answers
