"""kill -9 again and again, at any moment, while users write: nothing acknowledged is lost."""

import os
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.chat.following import wait_until
from tests.faults.sqlite_files import settings_of
from tests.service import Api, Json, Service, sign_up
from tests.sql import Sql

# CONTRIBUTING.md says how to do a hundred.
ROUNDS = int(os.environ.get("ROUNDS", "15"))
# What a client may see while the processes die: its answer, or that it should come again.
PASSING = {200, 201, 404, 409, 503}
Reply = tuple[int, Json]


@dataclass
class Writers:
    """Users who number all that they write, and note what was acknowledged."""

    services: tuple[Service, Service]
    token: str | None
    project: int
    end: threading.Event = field(default_factory=threading.Event)
    statuses: Counter[int] = field(default_factory=Counter)
    sessions: list[str] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    made: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.clients = [
            httpx.Client(
                base_url=service.url,
                headers={"Authorization": f"Bearer {self.token}"},
                timeout=20,
                verify=False,
                limits=httpx.Limits(max_keepalive_connections=0),
            )
            for service in self.services
        ]

    def send(self, method: str, path: str, body: Json | None = None, key: str = "") -> Reply:
        """Ask either process once; its status, 0 when it died, and its answer."""
        client = random.choice(self.clients)
        time.sleep(0.01)  # else the users take the processor from the processes that start
        headers = {"Idempotency-Key": key} if key else {}
        try:
            answer = client.request(method, path, json=body, headers=headers)
        except httpx.TransportError:
            return 0, {}
        self.statuses[answer.status_code] += 1
        assert answer.status_code in PASSING, answer.text
        return answer.status_code, answer.json()

    def ask(self, method: str, path: str, body: Json | None = None) -> Json | None:
        """The same, for an answer that says that it was done."""
        status, answer = self.send(method, path, body)
        return answer if status in (200, 201) else None

    def write_sessions(self, number: int) -> None:
        """One after the other."""
        for title in (f"session {number} {n}" for n in count()):
            if self.end.is_set():
                return
            if self.ask("POST", f"/projects/{self.project}/sessions", {"title": title}):
                self.sessions.append(title)

    def say(self, number: int) -> None:
        """Turns in a session, each with a key and, when no answer came, sent again with it."""
        session = None
        while session is None:
            session = self.ask("POST", f"/projects/{self.project}/sessions", {})
        for text in (f"turn {number} {n}" for n in count()):
            body, status = {"session_id": session["id"], "message": text}, 0
            while status in (0, 409):  # it died, or the one that died still seems to answer
                if self.end.is_set():
                    return
                status, _ = self.send("POST", "/chat", body, text.replace(" ", "-"))
            if status == 200:
                self.turns.append(text)

    def make_projects(self, number: int) -> None:
        """Projects that come and, every second one, go."""
        for n in count():
            if self.end.is_set():
                return
            name = f"p{number}-{n}"
            body = {"name": name, "project_type": "ecommerce"}
            made = self.ask("POST", "/projects", body)
            if made is not None and n % 2:
                self.made.add(name)
            elif made is not None and self.ask("DELETE", f"/projects/{made['id']}"):
                self.gone.add(name)

    def work(self) -> list[Callable[[], None]]:
        """All of them."""
        kinds = (self.write_sessions, self.say, self.make_projects)
        return [lambda kind=kind, n=n: kind(n) for kind in kinds for n in range(2)]  # type: ignore[misc]


@pytest.mark.timeout(60 + 5 * ROUNDS)
def test_kill_after_kill(tmp_path: Path) -> None:
    """Two processes on one file, killed together or one of them: all that was acknowledged is
    there once, projects and files are the same, no answer streams for ever, the file is sound.
    """
    settings = settings_of(tmp_path)
    one, two = Service(settings, tmp_path), Service(settings, tmp_path)
    with one, two:
        api = sign_up(one)
        writers = Writers((one, two), api.token, api.project("kept")["id"])
        with ThreadPoolExecutor(6) as pool:
            working = [pool.submit(work) for work in writers.work()]
            try:
                for number in range(ROUNDS):
                    time.sleep(random.uniform(0, 0.4))
                    # With both dead nobody holds the WAL's index: the next one must rebuild it.
                    killed = (one, two) if number % 2 else (random.choice((one, two)),)
                    for service in killed:
                        service.kill()
                    for service in killed:
                        service.start()
                    for service in killed:
                        service.wait_until_up()
            finally:
                writers.end.set()
            for done in working:
                done.result()
        print(writers.statuses, len(writers.sessions), len(writers.turns), len(writers.made))
        check(Sql(settings), api, writers)
    for service in (one, two):
        assert "Traceback" not in service.log


def check(sql: Sql, api: Api, writers: Writers) -> None:
    """What must hold, whatever was killed when."""

    def texts(statement: str) -> list[str]:
        return [row["text"] for row in sql.rows(statement)]

    titles = texts("SELECT title AS text FROM sessions WHERE title <> ''")
    assert set(writers.sessions) <= set(titles)
    assert len(titles) == len(set(titles))
    said = texts("SELECT content AS text FROM messages WHERE role = 'user'")
    assert set(writers.turns) <= set(said)
    assert len(said) == len(set(said)), "a key is for one turn, also of a process that died"
    answered = texts(
        "SELECT content AS text FROM messages WHERE role = 'assistant' AND status = 'complete'"
    )
    heard = {text.partition("You said: ")[2] for text in answered}
    assert set(writers.turns) <= heard
    streaming = "SELECT count(*) FROM messages WHERE status = 'streaming'"
    wait_until(lambda: sql.value(streaming) == 0, 20, "an end of all answers")
    names = set(texts("SELECT name AS text FROM projects"))
    assert writers.made <= names
    assert not writers.gone & names
    wait_until(lambda: not left(sql), 10, "an end of what was left half made")
    files = {f"{name}_db" for name in texts("SELECT replace(name, '-', '_') AS text FROM projects")}
    assert sql.databases() == files
    with closing(sqlite3.connect(sql.settings["DB_PATH"])) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert file.execute("PRAGMA foreign_key_check").fetchall() == []
    for database in sql.folder.glob("*.sqlite3"):
        with closing(sqlite3.connect(database)) as file:
            assert file.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    assert api.get("/health").status_code == 200


def left(sql: Sql) -> int:
    """Projects between two states."""
    return int(sql.value("SELECT count(*) FROM projects WHERE status <> 'active'"))
