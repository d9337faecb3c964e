"""The commands' help, and the documents that show them."""

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from server.cli.__main__ import COMMANDS
from tests.cli.conftest import Cli
from tests.service import PASSWORD, ROOT, Api, Service, environment, sign_up
from tests.test_docs import section

SECTIONS = ("Doctor", "Users", "Statistics", "The schema", "Data for development")


Names = tuple[str, ...]


def commands() -> dict[Names, str]:
    """What every command says of itself, by its name with the group that it is in."""
    found: dict[Names, str] = {}
    for name, command in COMMANDS.items():
        module = import_module(f"server.cli.{command.module}")
        if not hasattr(module, "app"):
            found[name,] = inspect.getdoc(module.run) or ""
            continue
        callback = module.app.registered_callback
        if callback is not None:
            found[name,] = inspect.getdoc(callback.callback) or ""
        for one in module.app.registered_commands:
            found[name, one.name or one.callback.__name__] = inspect.getdoc(one.callback) or ""
    return found


def test_the_list_of_commands_is_quick() -> None:
    """It took two seconds while every command's modules were imported for it."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "server.cli", "--help"],
        cwd=ROOT,
        env=environment({}),
        capture_output=True,
        text=True,
        check=True,
    )
    for name, command in COMMANDS.items():
        assert f" {name} " in done.stdout
        assert command.summary.split()[0] in done.stdout
    heavy = {"pydantic", "fastapi", "psycopg2", "database", "server.settings"}
    imported = set(re.findall(r"\|\s+([\w.]+)$", done.stderr, re.MULTILINE))
    assert "typer" in imported
    assert imported & heavy == set()


def test_every_command_says_how_it_ends() -> None:
    """With its exit codes, and with an example that is a command of this name.

    The list's line is the first that the command's own help says.
    """
    said = commands()
    groups = {name for name, *rest in said if rest} - {"backup"}
    assert groups == {"user", "migrate", "dev"}
    for name, text in said.items():
        if len(name) == 1:
            first = COMMANDS[name[0]].summary.rstrip(".")
            assert text.replace("\n", " ").startswith(first), name
        if name[0] in groups and len(name) == 1:
            continue
        examples = re.findall(r"^ {4}.*\./clawd (.+)$", text, re.MULTILINE)
        assert any(tuple(example.split()[: len(name)]) == name for example in examples), text
        if name != ("init-postgres",):
            assert "Exit codes: 0" in text, name


def test_a_command_that_is_none(cli: Cli) -> None:
    """Each name has one meaning, and others have none."""
    assert cli.run({}, "--help").code == 0
    assert cli.run({}, "nonsense").code == 2
    for name in COMMANDS:
        assert "Usage: ./clawd " + name in cli.run({}, name, "--help").out


def test_the_password_can_be_typed(service: Service) -> None:
    """Twice, and unseen."""
    email = "Typed.By.Hand@example.com"
    terminal, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "server.cli", "user", "create", email],
        cwd=ROOT,
        env=environment(service.settings),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        seen = b""
        for question in (b"Password: ", b"Repeat for confirmation: "):
            while not seen.endswith(question):
                seen += os.read(terminal, 1000)
            os.write(terminal, f"{PASSWORD}\n".encode())
        while b"Made account" not in seen:
            seen += os.read(terminal, 1000)
        assert process.wait(10) == 0
    os.close(terminal)
    assert PASSWORD.encode() not in seen
    body = {"email": email, "password": PASSWORD}
    assert Api(service).post("/auth/login", body).status_code == 200


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the commands need, with a development instance's folder beside it."""
    tree = tmp_path / "clawd-backend"
    (tree / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "clawd", tree)
    # The environment is there: what makes it is tested with the other commands.
    (tree / "scripts" / "venv").write_text("#!/bin/sh\n")
    (tree / "scripts" / "venv").chmod(0o755)
    (tree / "venv").symlink_to(Path(sys.executable).parent.parent)
    for name in ("server", "schema", "database_adapter.py", "database.py", "database_postgres.py"):
        (tree / name).symlink_to(ROOT / name)
    development = tmp_path / "clawd-backend-development"
    development.mkdir()
    (development / "start-backend-dev.sh").write_text("")
    (tree / "password.txt").write_text(f"{PASSWORD}\n")
    return tree


@pytest.fixture
def documented(service: Service) -> dict[str, str]:
    """The service's settings, and the account that the document names."""
    sign_up(service, email="bob@example.com")
    return {name: value for name, value in service.settings.items() if name != "PORT"}


def test_the_documents_commands_work(
    cli: Cli, checkout: Path, documented: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/operations.md shows them as they are run; the doctor may have something to say."""
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    shown = "".join(section(text, name) for name in SECTIONS)
    first, *others = [
        line
        for block in re.findall(r"```bash\n(.*?)```", shown, re.DOTALL)
        for line in block.splitlines()
    ]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", first],
        cwd=checkout,
        env=environment(documented),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode in {0, 1, 2}, done.stderr) == (True, "")
    assert "ok        database" in done.stdout
    monkeypatch.chdir(checkout)
    used = {"doctor"}
    for line in others:
        program, *words = shlex.split(line)
        ended = cli.run(documented, *words)
        assert program == "./clawd"
        assert ended.code in ({0, 1, 2} if words[0] == "doctor" else {0}), f"{line}: {ended}"
        used.add(words[0])
    assert used == {"doctor", "user", "stats", "migrate", "dev"}
    assert PASSWORD not in cli.everything
