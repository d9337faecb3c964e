"""The exit codes 0 to 5, and one line that says why."""

import os
import resource
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from server.migration.report import Exit
from tests.migration.moving import Move
from tests.migration.test_again import project_of
from tests.service import ROOT, environment, free_port

# What can't be reached, or is no source: the settings that say so, and what the result says.
UNREACHABLE = {
    "no server": ({"DB_PORT": "0"}, "onnection refused"),
    "wrong password": ({"DB_PASSWORD": "wrong"}, "password authentication failed"),
    "no such database": ({"DB_NAME": "nowhere"}, 'database "nowhere" does not exist'),
    "no PostgreSQL named": ({"DB_HOST": "", "DB_PORT": ""}, "no PostgreSQL is named"),
    "a bad setting": ({"DB_PORT": "many"}, "DB_PORT"),
}


def test_good_and_different(move: Move) -> None:
    """0 when both sides hold the same, 1 when they differ."""
    assert move.run().code == 0
    move.ask("UPDATE audit_log SET detail = ''")
    outcome = move.run("--validate-only")
    assert (outcome.code, outcome.report["result"]) == (1, "The two sides differ.")
    assert move.run().code == 4
    with move.source() as conn:
        conn.execute("UPDATE audit_log SET at = 'once'")
    assert move.run().code == 3


@pytest.mark.parametrize("what", list(UNREACHABLE))
def test_what_can_not_be_reached(move: Move, what: str) -> None:
    """2, in one line that says what is wrong, never with a password in it."""
    settings, said = UNREACHABLE[what]
    if settings.get("DB_PORT") == "0":
        settings = {"DB_PORT": str(free_port())}
    outcome = move.run(**settings)
    assert outcome.code == 2
    assert said in outcome.report["result"]
    assert "\n" not in outcome.report["result"]
    assert move.settings["DB_PASSWORD"] not in str(outcome.report)


def test_what_is_no_source(move: Move) -> None:
    """A file that isn't there, isn't SQLite's, isn't a master's, or is cut off: 2, and why."""
    whole = move.path.read_bytes()
    move.path.unlink()
    assert_refused(move, "isn't there; DB_PATH names the source")
    assert not move.path.exists(), "none may be made"
    move.path.write_bytes(b"")
    assert_refused(move, "is no master database of this service")
    move.path.write_bytes(b"no database at all" * 999)
    assert_refused(move, "file is not a database")
    move.path.unlink()
    with closing(sqlite3.connect(move.path)) as conn:
        conn.execute("CREATE TABLE projects (id INTEGER)")
    assert_refused(move, "is no master database of this service")
    move.path.write_bytes(whole[: len(whole) // 2])
    assert_refused(move, "malformed")
    move.path.write_bytes(whole)
    assert move.call().code == 0


def assert_refused(move: Move, said: str) -> None:
    """Exit 2 with these words, and nothing written."""
    outcome = move.call()
    assert outcome.code == 2, outcome.report
    assert said in outcome.report["result"]
    assert move.tables() == set()


def test_a_damaged_file(move: Move) -> None:
    """Pages that can't be read are a decision of a person: 3, with the database's name."""
    name = project_of(move)
    path = move.file(name)
    content = bytearray(path.read_bytes())
    content[4096:8192] = os.urandom(4096)
    path.write_bytes(content)
    outcome = move.call()
    assert outcome.code == 3, outcome.report
    assert outcome.report["findings"][0]["database"] == name
    assert "damaged" in outcome.report["findings"][0]["problem"]
    assert move.tables() == set()


def test_a_full_disk(move: Move) -> None:
    """Where the backup has no room: 2, the reason, and nothing written."""
    with move.source() as conn:
        conn.execute("UPDATE messages SET content = hex(zeroblob(3000000)) WHERE id = 11")
    done = subprocess.run(
        move.command(),
        cwd=ROOT,
        env=environment(move.settings),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert move.path.name in done.stdout
    assert "Traceback" not in done.stderr
    assert move.tables() == set()


USAGE = {
    ("--dry-run", "--validate-only"): "exclude each other",
    ("--assume-timezone", "../Mars"): "../Mars is no time zone",
}


def test_usage(move: Move) -> None:
    """2 for what the command can't mean, without a look at either side."""
    for options, said in USAGE.items():
        outcome = move.run(*options)
        assert outcome.code == 2
        assert said in outcome.report["result"]
    done = subprocess.run(
        move.command("--nul=drop"), cwd=ROOT, env=environment({}), capture_output=True, check=False
    )
    assert done.returncode == 2, done
    assert not move.backups.exists()


def test_the_codes_are_written_down() -> None:
    """Scripts rely on them: the help and the document list what the code has."""
    text = Path(ROOT, "docs", "migration.md").read_text("utf-8")
    assert [code.value for code in Exit] == [0, 1, 2, 3, 4, 5]
    for code in Exit:
        assert f"| {code.value} |" in text, code
