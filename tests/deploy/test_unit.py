"""The systemd unit: systemd's own checks, and what it says against what the service needs."""

import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from server.settings import SECRETS
from tests.deploy.test_image import without_rights
from tests.service import ROOT, environment
from tests.test_commands import prepared

__all__ = ["prepared"]

UNIT = ROOT / "deploy" / "clawd-backend.service"
# systemd's own words: below 2 of 10 a service is "OK", the best of them.
MOST_EXPOSED = 2.0


def analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """systemd-analyze, which needs no running systemd for this."""
    program = shutil.which("systemd-analyze")
    assert program, "this test needs systemd-analyze: apt install systemd"
    return subprocess.run(
        [program, *arguments], env=environment({}), capture_output=True, text=True, check=False
    )


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, for this folder."""
    text = UNIT.read_text("utf-8")
    assert "/opt/clawd-backend/start-backend.sh" in text
    file = tmp_path / UNIT.name
    file.write_text(text.replace("/opt/clawd-backend", str(ROOT)), "utf-8")
    return file


def directives() -> dict[str, list[str]]:
    """What [Service] says; a directive may come several times."""
    parser = ConfigParser(strict=False, interpolation=None)
    parser.read_string(UNIT.read_text("utf-8"))
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text("utf-8").partition("[Service]")[2].splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    assert {name.lower() for name in found} >= set(parser["Service"])
    return found


def variables() -> dict[str, str]:
    """The environment that it gives."""
    return dict(pair.split("=", 1) for line in directives()["Environment"] for pair in line.split())


def test_systemd_understands_it(unit: Path) -> None:
    """Not a word of complaint: what systemd doesn't know it ignores, hardening included."""
    done = analyze("verify", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_an_attacker_inside_would_find_little(unit: Path) -> None:
    """By systemd's own count."""
    done = analyze("security", "--offline=true", "--no-pager", unit)
    assert float(done.stdout.rsplit(": ", 1)[1].split()[0]) <= MOST_EXPOSED


def test_the_secrets_are_credentials() -> None:
    """Each that is loaded has its setting, which reads that file."""
    loaded = [value.partition(":")[0] for value in directives()["LoadCredential"]]
    assert set(loaded) <= set(SECRETS)
    given = {name: value for name, value in variables().items() if name.endswith("_FILE")}
    assert given == {f"{name.upper()}_FILE": f"%d/{name}" for name in loaded}


def test_it_ends_in_order_and_starts_again() -> None:
    """SIGTERM to the service itself; killed only after the grace, five seconds and some more."""
    found = directives()
    assert found["RestartSec"] == ["3"]
    assert found["Restart"] == ["always"]
    assert (found["KillMode"], found["KillSignal"]) == (["mixed"], ["SIGTERM"])
    assert int(found["TimeoutStopSec"][0]) >= int(variables()["SHUTDOWN_GRACE"]) + 15


def test_who_may_not_write_installs_nothing(prepared: Path, tmp_path: Path) -> None:
    """Where venv/ isn't what the lock asks for, the service says who has to mend it.

    It once began to, and ended with a complaint about a file of pip's.
    """
    tree = shutil.copytree(prepared, tmp_path / "tree", symlinks=True)
    (tree / "requirements.lock").write_text("toy==1.0\n", "utf-8")
    for path in (tree, tree / "venv"):
        path.chmod(0o555)
    done = subprocess.run(
        [*without_rights(), "./start-backend.sh"],
        cwd=tree,
        env=environment({"PIP_NO_INDEX": "1"}),
        capture_output=True,
        text=True,
        check=False,
    )
    for path in (tree, tree / "venv"):
        path.chmod(0o755)
    assert done.returncode == 1
    assert done.stderr.startswith("scripts/venv: venv/ is not what requirements.lock asks for")
    assert "run scripts/venv requirements.lock as the folder's owner" in done.stderr
    assert not (tree / "venv" / ".wheels").exists()
