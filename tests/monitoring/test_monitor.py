"""scripts/monitor.sh, with things that are really down."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import postgres
from tests.faults.proxy import Proxy
from tests.monitoring.backed_up import back_up, verify
from tests.service import Service, environment, free_port


def monitor(tree: Path, settings: Mapping[str, str], *arguments: str) -> tuple[int, list[str]]:
    """Run it as cron does, with these settings; its exit status and its lines."""
    done = subprocess.run(
        [tree / "scripts" / "monitor.sh", *arguments],
        cwd="/",
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == "" or done.returncode == 2, done.stderr
    return done.returncode, done.stdout.splitlines()


def test_it_says_nothing_when_all_is_well(
    tree: Path, monitored: Service, backups: Path, backend: str
) -> None:
    """cron mails whatever is printed; and it says what is old, full or bad."""
    back_up(backups, backend, hours=25)
    settings = monitored.settings
    assert monitor(tree, settings, monitored.url) == (0, [])
    verify(backups, "a.tar.gz", problem="messages differ")
    strict = ("--backup-hours", "24", "--disk-percent", "101")
    code, lines = monitor(tree, settings, *strict, monitored.url)
    *disks, old, bad = lines
    assert code == 1
    assert len(disks) == (2 if backend == "sqlite" else 1)
    assert all(line.startswith("disk: ") and "% free under" in line for line in disks)
    assert old == "backup: the newest is 25 hours old; ./clawd backup makes one"
    assert bad == "backup: a.tar.gz is not as it should be: messages differ"


def test_nobody_serves(tree: Path, tmp_path: Path) -> None:
    """One line for the service, not one for each of its parts; and one for the missing backup."""
    port = free_port()
    settings = {"USE_POSTGRES": "false", "DB_PATH": str(tmp_path / "m.db")}
    settings |= {"BACKUP_DIR": str(tmp_path / "b"), "PORT": str(port)}
    code, lines = monitor(tree, settings, f"http://127.0.0.1:{port}")
    assert code == 1
    assert lines == [
        f"live: http://127.0.0.1:{port} does not answer: [Errno 111] Connection refused",
        f"backup: there is none in {tmp_path / 'b'}; ./clawd backup makes one",
    ]
    assert (
        monitor(tree, settings, "--backup-hours", "0", f"http://127.0.0.1:{port}")[1] == lines[:1]
    )


def test_the_database_and_the_gateway_are_down(
    tree: Path, postgres_server: postgres.Server, tmp_path: Path
) -> None:
    """Each has its line, also where it hangs rather than refuses."""
    with Proxy(postgres_server.port) as proxy:
        settings = {
            **postgres.create_master(postgres_server),
            "DB_PORT": str(proxy.port),
            "BACKUP_DIR": str(tmp_path / "b"),
            "OPENCLAW_URL": f"http://127.0.0.1:{free_port()}",
        }
        back_up(tmp_path / "b", "postgresql", hours=1)
        with Service(settings, tmp_path) as service:
            with proxy.silent():
                code, lines = monitor(tree, settings, service.url)
            assert code == 1
            assert [line.partition(":")[0] for line in lines] == ["db", "gateway"]
            assert lines[1] == "gateway: The AI gateway can't be reached."
            service.kill()


@pytest.mark.parametrize("arguments", [["--no-such"], ["127.0.0.1:8002"]])
def test_a_mistake_is_no_outage(tree: Path, arguments: list[str]) -> None:
    """2: nobody should be woken by a typing error in the crontab's own line for nothing."""
    assert monitor(tree, {}, *arguments)[0] == 2


def test_bad_settings_are_a_line(tree: Path) -> None:
    """The service would not start with them."""
    code, lines = monitor(tree, {"DB_PORT": "x"}, f"http://127.0.0.1:{free_port()}")
    assert code == 1
    assert lines[1].startswith("settings: DB_PORT: ")


def test_no_environment_is_a_line(tree: Path, tmp_path: Path) -> None:
    """A half-made update is an outage to come."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(tree / "scripts" / "monitor.sh", tmp_path / "scripts")
    line = "venv: there is none; scripts/venv requirements.lock makes it"
    assert monitor(tmp_path, {}) == (1, [line])
