"""What /metrics says is what has happened."""

import re
import socket
import time
from pathlib import Path

from server.storage import contract
from server.version import VERSION
from tests import postgres
from tests.faults.proxy import Proxy
from tests.monitoring.backed_up import back_up, clear, verify
from tests.monitoring.scraping import Scrape, ask, scrape
from tests.service import ROOT, Api, Service, new_name
from tests.sql import Sql

REQUESTS = "clawd_http_requests_total"
SECONDS = "clawd_http_request_duration_seconds"
FIRST = "clawd_gateway_first_token_seconds"


def test_requests_are_counted_by_their_routes(monitored: Service, user: Api) -> None:
    """Never by their paths: each new one would be a series that Prometheus keeps for ever."""
    project = user.project()
    before = scrape(monitored)
    for _ in range(3):
        assert user.get(f"/projects/{project['id']}").status_code == 200
    assert user.get("/projects/987654321").status_code == 404
    for path in ("/of-nobody-1", "/of-nobody-2"):
        assert user.http.get(path).status_code == 404
    assert user.http.request("PROPFIND", "/of-nobody-3").status_code == 404
    after = scrape(monitored)

    def grown(**labels: object) -> float:
        return after.total(REQUESTS, **labels) - before.total(REQUESTS, **labels)

    route = "/projects/{project_id}"
    assert grown(method="GET", route=route, status=200) == 3
    assert grown(method="GET", route=route, status=404) == 1
    assert grown(method="GET", route="unmatched", status=404) == 2
    assert grown(method="OTHER", route="unmatched", status=404) == 1
    # Two scrapes were answered meanwhile, too.
    assert grown() == 7
    count = after.total(f"{SECONDS}_count", route=route) - before.total(
        f"{SECONDS}_count", route=route
    )
    assert count == 4
    assert not re.search(r"of-nobody|987654321|PROPFIND", after.text)


def test_what_is_no_request_is_counted_apart(monitored: Service) -> None:
    """It never reaches the application, and an attack with such is to be seen as well."""
    before = scrape(monitored).total("clawd_http_refused_total", status=400)
    with socket.create_connection(("127.0.0.1", monitored.port)) as conn:
        conn.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert conn.recv(100).startswith(b"HTTP/1.1 400")
    assert scrape(monitored).total("clawd_http_refused_total", status=400) == before + 1


def test_a_stream_counts_until_it_begins(monitored: Service, user: Api) -> None:
    """Streams of minutes in the latency would hide every slow request; the agent's is apart."""
    session = user.session()["id"]
    before = scrape(monitored)
    started = time.monotonic()
    text = "[[gateway:answer tokens=5 first=0.4 delay=0.2]]"
    with user.stream(session, text) as response:
        lines = response.iter_lines()
        assert next(lines) == "event: start"
        during = scrape(monitored)
        assert during.total("clawd_generations_running") == 1
        assert during.total("clawd_http_at_work", kind="streams") == 1
        queue = user.get("/health/queue").json()
        assert queue == {"status": "ok", "running": 1, "waiting": 1, "here": 1, "workers": 1}
        assert list(lines)
    lasted = time.monotonic() - started
    after = scrape(monitored)

    def grown(name: str, **labels: object) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    assert grown(f"{SECONDS}_count", route="/chat") == 1
    # It was counted when it had begun: with all that came later this would be over a second.
    assert during.total(f"{SECONDS}_count", route="/chat") == after.total(
        f"{SECONDS}_count", route="/chat"
    )
    assert grown(f"{SECONDS}_sum", route="/chat") < lasted - 1
    assert grown(f"{FIRST}_count", stream="true") == 1
    assert 0.4 <= grown(f"{FIRST}_sum", stream="true") < lasted - 0.6
    assert grown("clawd_generations_total", outcome="complete") == 1
    assert after.total("clawd_generations_running") == 0
    assert user.get("/health/queue").json()["running"] == 0
    assert after.total("clawd_http_at_work", kind="streams") == 0


def test_the_gateways_failures_are_counted_by_their_code(monitored: Service, user: Api) -> None:
    """An answer that was never given has no first token."""
    session = user.session()["id"]
    before = scrape(monitored)
    assert user.chat(session, "[[gateway:refuse unauthorized]]").status_code == 502
    after = scrape(monitored)
    name = "clawd_gateway_errors_total"
    assert after.total(name, code="gateway_auth") == before.total(name, code="gateway_auth") + 1
    name = "clawd_generations_total"
    assert after.total(name, outcome="failed") == before.total(name, outcome="failed") + 1
    assert after.total(f"{FIRST}_count") == before.total(f"{FIRST}_count")


def test_the_guards_refusals_are_counted(monitored: Service, user: Api) -> None:
    """Somebody tries to delete what is protected: an alert, not a line that nobody reads."""
    project = user.project()["id"]
    Sql(monitored.settings).update("projects", project, db_name=f"{new_name()}_db")
    name = "clawd_audit_records_total"
    refused = {"action": "project.delete", "outcome": "refused"}
    before = scrape(monitored)
    # It is there before there was one: an alert on its increase misses the first otherwise.
    assert len(before.values(name, **refused)) == 1
    assert user.delete(f"/projects/{project}").status_code == 400
    assert scrape(monitored).total(name, **refused) == before.total(name, **refused) + 1


def test_the_pool_and_the_databases(monitored: Service, user: Api, backend: str) -> None:
    """Their numbers as they are; sizes are those of the whole instance."""
    user.project()
    found = scrape(monitored)
    assert found.values("clawd_database_up") == [1]
    assert 0 < found.total("clawd_database_ping_seconds") < 2
    assert found.values("clawd_database_pool_max") == [20 if backend == "postgresql" else 21]
    assert found.total("clawd_database_pool_size") >= 1
    assert found.values("clawd_database_pool_waiting") == [0]
    assert found.total("clawd_database_size_bytes", database="master") >= 4096
    assert len(found.values("clawd_database_size_bytes", database="projects")) == 1
    assert len(found.values("clawd_project_databases")) == 1
    for folder in ("data", "backups") if backend == "sqlite" else ("backups",):
        size = found.total("clawd_disk_size_bytes", folder=folder)
        assert 0 < found.total("clawd_disk_free_bytes", folder=folder) <= size
    build = next(s for s in found.samples if s.name == "clawd_build_info")
    assert (build.labels["version"], build.labels["backend"]) == (VERSION, backend)
    assert found.total("process_resident_memory_bytes") > 10_000_000


def test_the_sizes_of_the_databases(database: contract.Database) -> None:
    """All that is ours, and nothing else that is on the server."""
    before = database.database_sizes()
    assert before["master"] >= 4096
    assert (before["projects"], before["number"]) == (0, 0)
    for number in (1, 2):
        database.create_project_database(new_name(), "CREATE TABLE things (id BIGINT)", number)
    after = database.database_sizes()
    assert after["number"] == 2
    assert after["projects"] >= 8192


def test_the_newest_backup(monitored: Service, backups: Path, backend: str) -> None:
    """Its age, and what came of the last verification; without any there is no number."""
    names = {"clawd_backup_age_seconds", "clawd_backup_verified_ok"}
    assert not scrape(monitored).names & names
    newest = back_up(backups, backend, hours=1, content=b"x" * 100)
    back_up(backups, backend, hours=24)
    # One of the other database saves nobody's data.
    back_up(backups, "sqlite" if backend == "postgresql" else "postgresql")
    verify(backups, newest.name, minutes=5, problem="cut")
    found = scrape(monitored)
    assert 3600 <= found.total("clawd_backup_age_seconds") < 3660
    assert found.values("clawd_backup_size_bytes") == [100]
    assert 300 <= found.total("clawd_backup_verified_age_seconds") < 360
    assert found.values("clawd_backup_verified_ok") == [0]


def test_a_database_that_hangs_breaks_no_scrape(
    postgres_server: postgres.Server, tmp_path: Path
) -> None:
    """Just then somebody looks: it is said, within two seconds, and so is everything else."""
    with Proxy(postgres_server.port) as proxy:
        settings = {**postgres.create_master(postgres_server), "DB_PORT": str(proxy.port)}
        with Service(settings, tmp_path) as service:
            with proxy.silent():
                started = time.monotonic()
                found = scrape(service)
                assert time.monotonic() - started < 2
                assert found.values("clawd_database_up") == [0]
                assert "clawd_database_ping_seconds" not in found.names
                assert found.total(REQUESTS) >= 1
                queue = ask(service, "/health/queue")
                assert (queue.status_code, queue.json()["here"]) == (503, 0)
                assert queue.json()["status"] == "error"
            service.kill()


def test_a_service_with_too_much_to_do_still_tells(tmp_path: Path) -> None:
    """That is when the numbers are wanted."""
    settings = {"USE_POSTGRES": "false", "DB_PATH": str(tmp_path / "m.db"), "MAX_REQUESTS": "1"}
    with (
        Service(settings, tmp_path) as service,
        socket.create_connection(("127.0.0.1", service.port)) as held,
    ):
        head = b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        held.sendall(head + b"Content-Length: 10\r\n\r\n{")
        deadline = time.monotonic() + 5
        while ask(service, "/projects").json()["code"] != "overloaded":
            assert time.monotonic() < deadline
        found = scrape(service)
    assert found.values("clawd_http_at_work", kind="requests") == [1]
    assert found.values("clawd_http_at_work_limit", kind="requests") == [1]
    assert found.total(REQUESTS, status=503) >= 1


def test_every_number_is_documented(monitored: Service, user: Api, backups: Path) -> None:
    """docs/operations.md has a row for each of our own, and for nothing else."""
    document = (ROOT / "docs" / "operations.md").read_text("utf-8")
    rows = set(re.findall(r"^\| `(clawd_\w+)`", document, re.MULTILINE))
    found: Scrape = everything(monitored, user, backups)
    assert rows == {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in found.families
        if family.name.startswith("clawd_")
    }
    for family in found.families:
        assert family.documentation


def everything(service: Service, user: Api, backups: Path) -> Scrape:
    """A scrape in which no metric is missing for want of anything to say."""
    postgres = service.settings["USE_POSTGRES"] == "true"
    newest = back_up(backups, "postgresql" if postgres else "sqlite")
    verify(backups, newest.name)
    session = user.session()["id"]
    user.chat(session, "Hello")
    user.chat_events(session, "Hello")
    user.chat(session, "[[gateway:refuse unauthorized]]")
    with socket.create_connection(("127.0.0.1", service.port)) as conn:
        conn.sendall(b"GET / HTTP/1.1\r\n\r\n")
        conn.recv(100)
    found = scrape(service)
    clear(backups)
    return found
