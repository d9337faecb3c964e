"""kill -9 at any moment, of the migration or of PostgreSQL: run again, it comes to the same end."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from server.migration import to_postgres
from server.migration.census import Options
from server.migration.report import Screen
from tests import postgres
from tests.migration.moving import Move
from tests.migration.sources import TIME, make_by_hand
from tests.migration.test_again import Writing, project_of
from tests.service import ROOT, Json, Service, environment

KILLS = int(os.environ.get("KILLS", "50"))
SERVER_KILLS = 5  # of these
# Starts migrations without starting Python each time; small chunks, so that there are many steps.
NURSERY = """
import json, os, sys
from pathlib import Path
from server.migration import rows, to_postgres
from server.migration.census import Options
from server.migration.report import Report, Screen
from server.settings import get_settings

rows.CHUNK, to_postgres.MANY_ROWS = 300, 10
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        os.environ.update(asked["settings"])
        request = to_postgres.Request(Path(asked["backups"]), Options(orphans="quarantine"))
        report = to_postgres.Run(request, Screen(quiet=True), Report("")).go()
        print(json.dumps(report.as_dict()), flush=True)
        os._exit(report.exit)
    print(child, flush=True)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """A process that starts migrations and says how they end."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            cwd=ROOT,
            env=environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def start(self, move: Move) -> int:
        """Begin a migration; its process."""
        assert self._process.stdin
        asked = {"settings": move.settings, "backups": str(move.backups)}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def wait(self) -> tuple[int, str]:
        """How it ended, and what it said."""
        said: list[str] = []
        while not (line := self._line()).startswith("ended"):
            assert self._process.poll() is None, said
            said.append(line)
        return int(line.split()[1]), "\n".join(said)

    def close(self) -> None:
        """End it."""
        with self._process:
            self._process.kill()


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    """A process of this test."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[postgres.Server]:
    """A server that this test may kill."""
    with postgres.Server(postgres.find_binaries()[-1]) as own:
        yield own


def grow(move: Move) -> None:
    """Rows for some chunks, and one that has to go into quarantine."""
    with move.source() as conn:
        conn.execute(
            "WITH RECURSIVE n (i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 1600) "
            "INSERT INTO messages (id, user_id, session_id, role, content, created_at) "
            f"SELECT i, 3, 6 + 3 * (i % 2), 'user', hex(i), '{TIME}' FROM n"
        )
        conn.execute("PRAGMA foreign_keys = OFF")
        conn.execute("UPDATE messages SET session_id = 77 WHERE id = 700")


def whole(move: Move, name: str) -> list[str]:
    """All that the target holds, but when it was made and by whom."""
    dumped = [*move.dump().splitlines(), *move.dump(name).splitlines()]
    role = move.settings["DB_USER"]
    # The steps of schema/ have the time at which they were made, and PostgreSQL's sequences may
    # leap forward when it is killed.
    step = re.compile(r"\d{4}_\w+\t|SELECT pg_catalog.setval")
    return sorted(line.replace(role, "role") for line in dumped if not step.match(line))


class Story:
    """One migration after the other, killed and taken up again."""

    def __init__(self, path: Path, server: postgres.Server, nursery: Nursery) -> None:
        self._path = path
        self._server = server
        self._nursery = nursery
        self._choose = random.Random(7215)
        self.kills = 0
        self.ends = 0
        self.resumed = 0
        self._begin()
        self.name = project_of(self.move)
        begun = time.monotonic()
        nursery.start(self.move)
        code, said = nursery.wait()
        assert code == 0, said
        self._seconds = time.monotonic() - begun
        self._wanted = whole(self.move, self.name)
        self._over()

    def _begin(self) -> None:
        settings = postgres.create_master(self._server)
        self.move = Move({**settings, "DB_PATH": str(self._path)}, self._server)

    def _over(self) -> None:
        postgres.drop_master(self._server, self.move.settings)
        self._begin()

    def step(self) -> None:
        """Run until it ends or is killed, at a moment as likely as any other."""
        child = self._nursery.start(self.move)
        time.sleep(self._choose.uniform(0, self._seconds))
        if self.kills % (KILLS // SERVER_KILLS or 1) == 0:
            self._server.kill()
        else:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        code, said = self._nursery.wait()
        self._server.start()
        if code == 0:
            self._check(said)
            self._over()
        else:
            # A server that is gone is one that can't be reached, not a defect.
            assert code in (-signal.SIGKILL, 2), said
            self.kills += 1

    def finish(self) -> None:
        """Bring the last one to its end."""
        self._nursery.start(self.move)
        code, said = self._nursery.wait()
        assert code == 0, said
        self._check(said)

    def _check(self, said: str) -> None:
        report: Json = json.loads(said.splitlines()[-1])
        self.ends += 1
        self.resumed += any("had not ended" in note for note in report["notes"])
        assert whole(self.move, self.name) == self._wanted
        rows = {(each["table"], each["row"]) for each in report["changes"]}
        assert rows == {("messages", "id 700")}, "what an earlier run has settled is told as well"
        half_made = "SELECT datname FROM pg_database WHERE datname LIKE 'clawd_creating%'"
        assert self.move.ask(half_made) == []


@pytest.mark.timeout(400)
def test_killed_at_any_moment(tmp_path: Path, server: postgres.Server, nursery: Nursery) -> None:
    """Run again, it goes on where it was, and the end is that of a run that nobody disturbed."""
    make_by_hand(tmp_path / "master.db", "killed")
    grow(Move({"DB_PATH": str(tmp_path / "master.db")}, server))
    story = Story(tmp_path / "master.db", server, nursery)
    while story.kills < KILLS:
        story.step()
    story.finish()
    assert story.resumed or KILLS < 10


def stop_at(line: str) -> Screen:
    """A screen whose run dies when it says the line."""

    def die() -> None:
        raise KeyboardInterrupt

    return Writing(line, die)


def test_the_service_waits_for_the_end(
    move: Move, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its indexes and foreign keys a master isn't one yet; the line says what to do."""
    monkeypatch.setattr(to_postgres, "MANY_ROWS", 0)
    with pytest.raises(KeyboardInterrupt):
        move.call(screen=stop_at("Making indexes and foreign keys"))
    service = Service(move.settings, tmp_path)
    service.start()
    assert service.process
    assert service.process.wait(20) != 0
    assert "has not come to its end; run python3 migrate_to_postgres.py again" in service.log
    assert move.call(validate_only=True).code == 1
    assert move.call().code == 0
    keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"
    assert move.ask(keys)[0][0] > 15
    with Service(move.settings, tmp_path):
        pass


def test_two_at_once(move: Move) -> None:
    """The second is refused, and the first goes on."""
    seconds = []

    def again() -> None:
        seconds.append(move.run())

    outcome = move.call(screen=Writing("Making indexes and foreign keys", again))
    assert outcome.code == 0
    assert [second.code for second in seconds] == [2]
    assert "another migration into this database is running" in seconds[0].report["result"]


def test_another_snapshot_where_the_options_are_others(move: Move) -> None:
    """What was settled otherwise can't be gone on with: the run begins anew."""
    with pytest.raises(KeyboardInterrupt):
        move.call(screen=stop_at("Comparing both sides"))
    with move.source() as conn:
        conn.execute("DELETE FROM audit_log")
    outcome = move.call(Options(nul="replace"))
    assert outcome.code == 0, outcome.report
    assert move.ask("SELECT id FROM audit_log") == []
