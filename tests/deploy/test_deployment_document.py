"""docs/deployment.md, followed as an operator does, as far as that needs no machine of its own.

Its blocks are run word for word. What stands for something that belongs to the machine is told
here: places and names are others, and some programs don't run, each for a reason.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgres
from tests.conftest import GATEWAY_TOKEN
from tests.deploy.checkouts import Origin
from tests.deploy.test_unit import variables
from tests.gateway import GatewayStub
from tests.service import ROOT, environment, free_port
from tests.test_commands import prepared
from tests.test_docs import section

__all__ = ["prepared"]

TEXT = (ROOT / "docs" / "deployment.md").read_text("utf-8")
# What isn't run, why, and what holds it instead.
NOT_RUN = {
    "apt": "needs root and the network",
    "useradd": "would make a user of this machine",
    "systemctl": "needs systemd; tests/deploy/test_unit.py has its checks of the unit",
    "certbot": "needs the network, and a name that leads here",
    "nginx": "wants certbot's files; tests/deploy/test_proxies.py runs it with others",
    "visudo": "reads this machine's own files",
    "docker": "no engine runs here; tests/deploy/test_image.py acts it out",
    "curl https://clawd.example.com/auth/me": "a name of nobody; test_proxies.py asks by TLS",
    "scripts/redeploy.sh": "tests/deploy/test_redeploy.py",
}
PRELUDE = """
sudo() { if [ "$1" = -u ]; then shift 2; fi; "$@"; }
psql() { "$PSQL" -X -q -v ON_ERROR_STOP=1 "$ADMIN_URL" "$@" >/dev/null; }
systemctl() { if [ "$1" = enable ]; then begin; fi; }
begin() { env $UNIT ./start-backend.sh >"$HOME/service.log" 2>&1 & echo $! >"$HOME/pid"; }
apt() { :; }
useradd() { :; }
certbot() { :; }
nginx() { :; }
visudo() { :; }
docker() { :; }
"""


def blocks(title: str) -> list[str]:
    """The commands of a section."""
    return re.findall(r"^```bash\n(.*?)^```$", section(TEXT, title), re.MULTILINE | re.DOTALL)


def words(block: str) -> set[str]:
    """The programs that a block runs."""
    text = re.sub(r"<<'END'\n.*?^END$", "", block, flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"\n|\| ", text)
    return {
        re.sub(r"^(sudo )?(-u \w+ )?", "", part.strip()).split(" ")[0] for part in parts if part
    }


class Machine:
    """A folder that stands for a server."""

    def __init__(self, folder: Path, settings: dict[str, str], replaced: dict[str, str]) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        (self.home / "openclaw_token").write_text(GATEWAY_TOKEN, "utf-8")
        self.settings = {**settings, "HOME": str(self.home)}
        self.replaced = replaced

    def run(self, block: str, cwd: Path) -> str:
        """Run a block to its end; what it prints."""
        for old, new in self.replaced.items():
            block = block.replace(old, new)
        with (self.home / "output").open("w+b") as output:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", PRELUDE + block],
                cwd=cwd,
                env=environment(self.settings),
                # A file: the service that a block starts goes on, and would hold a pipe.
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=100,
                check=False,
            )
            output.seek(0)
            said = output.read().decode()
        assert done.returncode == 0, f"{block}\n{said}"
        return said

    def end(self) -> None:
        """End the service."""
        if (self.home / "pid").exists():
            os.kill(int((self.home / "pid").read_text("utf-8")), signal.SIGTERM)


@pytest.fixture
def machine(
    prepared: Path, postgres_server: postgres.Server, gateway: GatewayStub, tmp_path: Path
) -> Iterator[Machine]:
    """Nothing is on it yet but PostgreSQL, a gateway, and where to clone from."""
    origin = Origin(tmp_path / "origin", prepared)
    port = str(free_port())
    for place in ("etc/systemd/system", "etc/caddy", "etc/nginx/conf.d", "etc/sudoers.d"):
        (tmp_path / place).mkdir(parents=True)
    server = f"{postgres_server.host}:{postgres_server.port}"
    settings = {
        "PORT": port,
        # The server is not this test's alone.
        "DB_HOST": postgres_server.host,
        "DB_PORT": str(postgres_server.port),
        "DB_NAME": "dreampilot_document",
        "DB_USER": "clawd_document",
        "PG_BIN_DIR": str(postgres_server.bin_dir),
        "OPENCLAW_URL": gateway.url,
        "PSQL": str(postgres_server.bin_dir / "psql"),
        "ADMIN_URL": f"postgresql://postgres:{postgres_server.password}@{server}/postgres",
        "UNIT": " ".join(
            f"{name}={value.replace('%d', str(tmp_path / 'etc/clawd-backend'))}"
            for name, value in variables().items()
        ),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    replaced = {
        "https://git.example.com/clawd-backend.git": str(origin.folder),
        "/opt/clawd-backend": str(tmp_path / "opt"),
        "/var/lib/clawd-backend": str(tmp_path / "var"),
        "/etc/": f"{tmp_path}/etc/",
        "-o clawd -g clawd ": "",
        "-g clawd ": "",
        "http://127.0.0.1:8002": f"http://127.0.0.1:{port}",
        "curl https://clawd.example.com/auth/me": ":",
        "sudo -u clawd scripts/venv": f"cp -a {prepared}/venv venv; scripts/venv",
        # 1: warnings, of backups that there can't be yet.
        "./clawd doctor": "./clawd doctor || test $? = 1",
    }
    running = Machine(tmp_path, settings, replaced)
    yield running
    running.end()


def test_every_command_is_run_or_has_a_reason() -> None:
    """A program that is new in the document comes to be seen here."""
    run = {"cd", "cp", "curl", "echo", "install", "openssl", "sed", "tee", "git", "psql", "chmod"}
    run |= {"scripts/venv", "./clawd", "caddy", "sudo"}
    titles = ("From an empty server", "Docker", "A proxy with TLS", "Updates")
    found = {word for title in titles for block in blocks(title) for word in words(block)}
    assert found - run == {reason for reason in NOT_RUN if not reason.startswith("curl")}


def test_from_an_empty_server(machine: Machine) -> None:
    """To a service that is ready, with its secrets in files, and a proxy's file that is valid."""
    packages, secrets, settings, start, proxy = blocks("From an empty server")
    tree = machine.folder / "opt"
    machine.run(packages, machine.folder)
    machine.run(secrets, tree)
    machine.run(settings, tree)
    kept = [tree / ".env", tree / ".env.postgres"]
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    kept = list((machine.folder / "etc/clawd-backend").iterdir())
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o640}
    password = (machine.folder / "etc/clawd-backend/db_password").read_text("utf-8").strip()
    assert not any(password in path.read_text("utf-8") for path in tree.glob(".env*"))
    said = machine.run(start, tree)
    assert '{"status":"ok"}' in said
    assert "ok        role " in said
    assert "ok        permissions " in said
    assert "problem" not in said
    machine.run(proxy, tree)
    file = machine.folder / "etc/caddy/Caddyfile"
    assert file.read_text("utf-8") == (ROOT / "deploy/Caddyfile").read_text("utf-8")


def test_the_other_blocks(machine: Machine) -> None:
    """nginx's file goes where it should, Docker's secrets are files that only their owner finds."""
    tree = machine.folder / "opt"
    shutil.copytree(ROOT / "deploy", tree / "deploy")
    (nginx,) = blocks("A proxy with TLS")
    machine.run(nginx, tree)
    assert (machine.folder / "etc/nginx/conf.d/clawd-backend.conf").exists()
    secrets, _ = blocks("Docker")
    machine.run(secrets, tree)
    folder = tree / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len({path.read_text("utf-8") for path in folder.iterdir()}) == 3
    assert all(path.stat().st_mode & 0o004 for path in folder.iterdir())
    assert (tree / ".env").read_text("utf-8").startswith("OPENCLAW_URL=http://")
    redeploy, sudoers = blocks("Updates")
    assert redeploy == "scripts/redeploy.sh\n"
    machine.run(sudoers.replace("sudo -u clawd scripts/redeploy.sh", ""), tree)
    rule = machine.folder / "etc/sudoers.d/clawd-backend"
    assert rule.stat().st_mode & 0o777 == 0o440
    assert rule.read_text("utf-8").endswith("NOPASSWD: /usr/bin/systemctl restart clawd-backend\n")
    script = (ROOT / "scripts/redeploy.sh").read_text("utf-8")
    assert 'systemctl restart clawd-backend"' in script
