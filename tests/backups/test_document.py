"""docs/operations.md's section on backups: its commands are run, its exit codes are the code's."""

import re
import subprocess
import sys

import pytest

from server.backups import archive
from tests import postgres
from tests.backups.place import Place, holds
from tests.service import ROOT, environment
from tests.test_docs import section

TEXT = section((ROOT / "docs" / "operations.md").read_text("utf-8"), "Backups")
BLOCKS = re.findall(r"^```(?:bash)?\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FILE = r"clawd-(?:sqlite|postgresql)-\w+\.tar\.gz"


def run(command: str, place: Place) -> "subprocess.CompletedProcess[str]":
    """Run it word for word, but for the program's path, the backup and the superuser."""
    url = place.settings.get("URL", "")
    command = re.sub(FILE, place.names[-1], command) if place.folder.exists() else command
    command = command.replace("postgresql://postgres:secret@localhost", url)
    command = command.replace("cd /opt/clawd-backend", "true").removeprefix("0 3 * * * ")
    return subprocess.run(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            command.replace("./clawd", f"{sys.executable} -m server.cli"),
        ],
        cwd=ROOT,
        env=environment(place.settings),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_commands_work(place: Place, backend: str, request: pytest.FixtureRequest) -> None:
    """Each as it stands there; in cron they are silent, unless something is wrong."""
    make, cron, restore, restore_as_superuser = BLOCKS
    if backend == "postgresql":
        server: postgres.Server = request.getfixturevalue("postgres_server")
        url = f"postgresql://postgres:{server.password}@{server.host}:{server.port}"
        place = Place({**place.settings, "URL": url})
        restore = restore_as_superuser
    done = run(make, place)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 databases" in done.stdout
    assert f"{place.names[-1]}" in done.stdout
    assert "came out equal" in done.stdout
    done = run(cron, place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run(restore, place)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Restored 3 databases" in done.stdout
    assert place.holds() == holds(archive.read_manifest(place.folder / place.names[-1]))


def test_what_is_wrong_is_said(place: Place) -> None:
    """On stderr, which cron mails."""
    cron = BLOCKS[1]
    place.sql.drop_database(place.sql.value("SELECT db_name FROM projects WHERE id = 1"))
    done = run(cron, place)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Not in it: " in done.stderr


@pytest.mark.parametrize(
    ("command", "column"), [("backup", 2), ("backup verify", 3), ("restore", 4)]
)
def test_the_exit_codes_are_those_of_the_help(command: str, column: int) -> None:
    """The table of the document and the help of the command say one thing."""
    words = [sys.executable, "-m", "server.cli", *command.split(), "--help"]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=environment({"COLUMNS": "200"}),
        capture_output=True,
        text=True,
        check=True,
    )
    said = " ".join(done.stdout.split())
    for line in re.findall(r"^\| \d .*$", TEXT, re.MULTILINE):
        cells = [cell.strip() for cell in line.split("|")]
        assert f"{cells[1]} {cells[column]}" in said, line
