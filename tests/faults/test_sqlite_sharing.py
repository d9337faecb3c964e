"""Several processes write to one SQLite file, and one of them doesn't give it back."""

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.chat.following import wait_until
from tests.service import ROOT, Api, Service, environment, sign_up
from tests.sql import Sql

WRITERS = 20
SECONDS = 3.0


def settings_of(folder: Path, **more: str) -> dict[str, str]:
    """A service on a fresh file, with the echo."""
    path = str(folder / "master.db")
    return {"USE_POSTGRES": "false", "DB_PATH": path, "AUTH_RATE_LIMIT": "off", **more}


def test_two_services_with_twenty_writers_each(tmp_path: Path) -> None:
    """No 500, under 0.1 % of 503, every acknowledged write there exactly once, counts exact."""
    settings = settings_of(tmp_path)
    with Service(settings, tmp_path) as one, Service(settings, tmp_path) as two:
        api = sign_up(one)
        project = api.project()["id"]
        statuses: Counter[int] = Counter()
        acknowledged: list[str] = []
        end = time.monotonic() + SECONDS

        def write(service: Service, number: int) -> None:
            client, count = Api(service, api.token), 0
            while time.monotonic() < end:
                title = f"{service.port} {number} {count}"
                count += 1
                answer = client.post(f"/projects/{project}/sessions", {"title": title})
                statuses[answer.status_code] += 1
                if answer.status_code == 201:
                    acknowledged.append(title)
                    said = client.chat(answer.json()["id"], title)
                    statuses[said.status_code] += 1

        with ThreadPoolExecutor(2 * WRITERS) as pool:
            writers = [pool.submit(write, s, n) for s in (one, two) for n in range(WRITERS)]
            for writer in writers:
                writer.result()
        assert set(statuses) <= {200, 201, 503}
        assert statuses[503] < 0.001 * statuses.total(), statuses
        titles = [row["title"] for row in Sql(settings).rows("SELECT title FROM sessions")]
        assert sorted(titles) == sorted(acknowledged)
        deleted = Api(two, api.token).delete(f"/projects/{project}").json()["cleanup"]
        assert deleted["sessions"] == statuses[201]
        assert deleted["messages"] == 2 * statuses[200]


WRITE_WITHOUT_PAUSE = """
import json, time
import database
from server.storage.contract import Busy, execute

waits, refused = [], 0
database.ping()
print("ready", flush=True)
input()
end = time.monotonic() + 3
while time.monotonic() < end:
    asked = time.monotonic()
    try:
        with database.get_db() as conn:
            waits.append(time.monotonic() - asked)
            execute(conn, "INSERT INTO audit_log (action, target, outcome) VALUES ('', '', '')")
            time.sleep(0.03)
    except Busy:
        refused += 1
print(json.dumps({"writes": len(waits), "refused": refused, "longest": max(waits, default=9)}))
"""


def test_processes_take_turns(tmp_path: Path) -> None:
    """On a slow disk, too, nobody is kept out by a process that writes again and again.

    SQLite's lock isn't fair: with 30 ms for a commit one process had it for five seconds, and
    every eighth write of the other one was a 503.
    """
    settings = settings_of(tmp_path, DB_POOL_WAIT="2")
    with Service(settings, tmp_path):
        pass  # makes the tables
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE_WITHOUT_PAUSE],
            cwd=ROOT,
            env=environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [json.loads(process.communicate()[0]) for process in processes]
    assert [one["refused"] for one in said] == [0, 0]
    assert max(one["longest"] for one in said) < 1


@contextmanager
def locked(path: str, how: str) -> Iterator[None]:
    """Somebody else's transaction, which lasts."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as file:
        file.execute(f"BEGIN {how}")
        yield
        file.execute("ROLLBACK")


@pytest.mark.parametrize(("how", "patience"), [("IMMEDIATE", 5), ("EXCLUSIVE", 1)])
def test_a_foreign_lock(tmp_path: Path, how: str, patience: int) -> None:
    """Writes get 503 when the patience is over, however many there are; reads and /health go on.

    Twenty writers one after the other would wait for each other's patience: the sum of it all.
    """
    settings = settings_of(tmp_path, DB_POOL_WAIT=str(patience))
    with Service(settings, tmp_path) as service:
        api = sign_up(service)
        project = api.project()["id"]
        end = threading.Event()
        statuses: list[int] = []

        def ask(path: str) -> tuple[set[int], float]:
            client, answers = Api(service, api.token), []
            while not end.is_set():
                began = time.monotonic()
                answers.append((client.get(path).status_code, time.monotonic() - began))
                end.wait(0.05)
            return {status for status, _ in answers}, max(took for _, took in answers)

        def write(path: str) -> float:
            client, longest = Api(service, api.token), 0.0
            while not end.is_set():
                began = time.monotonic()
                answer = client.post(path, {})
                longest = max(longest, time.monotonic() - began)
                assert answer.status_code != 503 or answer.headers["retry-after"]
                statuses.append(answer.status_code)
                end.wait(0.05)
            return longest

        with ThreadPoolExecutor(WRITERS + 2) as pool:
            with locked(settings["DB_PATH"], how):
                path = f"/projects/{project}/sessions"
                writers = [pool.submit(write, path) for _ in range(WRITERS)]
                reader, health = pool.submit(ask, "/projects"), pool.submit(ask, "/health")
                time.sleep(patience + 1.5)
                assert set(statuses) == {503}
                end.set()
            # The one who was trying at that moment goes first; the others may be refused once more.
            wait_until(lambda: api.post(path, {}).status_code == 201, 1, "a write")
        # Half a second for those who got no thread at once, and as much for a busy machine.
        assert max(writer.result() for writer in writers) < patience + 1
        assert len(statuses) > 3 * WRITERS, "those that come later are refused at once"
        assert reader.result()[0] == health.result()[0] == {200}
        assert reader.result()[1] < patience + 1
        assert health.result()[1] < 2
