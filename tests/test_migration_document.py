"""Follows docs/migration.md as an operator does: rehearsal, switch, proof, the way back."""

import re
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import httpx

from tests import postgres
from tests.service import PASSWORD, ROOT, Api, environment, sign_up
from tests.test_commands import Started, prepared, tree

__all__ = ["prepared", "tree"]

DOCUMENT = (ROOT / "docs" / "migration.md").read_text("utf-8")
# One after the other, with the exit codes that the text tells.
STORY = (
    (". venv/bin/activate", 0),
    ("POSTGRES_ADMIN_URL=postgresql://postgres:secret@localhost ./clawd init-postgres", 0),
    ("python3 -c", 0),
    ("python3 migrate_to_postgres.py --dry-run", 0),
    ("python3 migrate_to_postgres.py", 5),
    ("python3 migrate_to_postgres.py", 0),
    ("python3 migrate_to_postgres.py --validate-only", 0),
    ("python3 migrate_to_postgres.py --to sqlite", 0),
    ("python3 migrate_to_postgres.py --merge", 0),
)


def commands() -> list[str]:
    """The commands of the document's blocks, in their order."""
    blocks = re.findall(r"^ *```\n(.*?)^ *```", DOCUMENT, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.strip().splitlines()]


def test_the_story_is_the_documents() -> None:
    """The test below runs what the document says, no more and no less."""
    told = commands()
    assert len(told) == len(STORY)
    for command, (begin, _) in zip(told, STORY, strict=True):
        assert command.startswith(begin)
    rows = re.findall(r"^\| (\d) \| ", DOCUMENT, re.MULTILINE)
    assert rows == ["0", "1", "2", "3", "4", "5"]


class Operator:
    """Somebody at a shell in the folder."""

    def __init__(self, tree: Path, server: postgres.Server) -> None:
        self.tree = tree
        url = f"postgresql://postgres:{server.password}@{server.host}:{server.port}"
        self.replaced = {"postgresql://postgres:secret@localhost": url}

    def run(self, command: str, code: int) -> str:
        """Run a command of the document; what it said."""
        for old, new in self.replaced.items():
            command = command.replace(old, new)
        done = subprocess.run(
            ["bash", "-c", f". venv/bin/activate; {command}"],
            cwd=self.tree,
            env=environment({}),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == code, (command, done.stdout, done.stderr)
        return done.stdout + done.stderr


def talk(service: Started, api: Api, text: str) -> None:
    """A project with a session and a turn in it."""
    session = api.session(api.project()["id"])
    assert api.chat(session["id"], text).status_code == 200


def count(api: Api) -> int:
    """How many projects the user has."""
    response = api.get("/projects")
    assert response.status_code == 200, response.text
    return len(response.json()["items"])


def test_an_operator_moves(tree: Path, postgres_server: postgres.Server) -> None:
    """Every command of the document works as it stands there, and ends as the text says."""
    told = iter(zip(commands(), (code for _, code in STORY), strict=True))
    operator = Operator(tree, postgres_server)
    sqlite = {"USE_POSTGRES": "false", "AUTH_RATE_LIMIT": "off"}
    with Started(tree, sqlite) as service:
        api = sign_up(service)
        talk(service, api, "before")
        operator.run(*next(told))
        operator.run(*next(told))  # the roles and the master
        operator.run(*next(told))  # test_connection
        assert "nothing was written" in operator.run(*next(told))
        command, code = next(told)  # while the service goes on
        said = rehearse(operator, service, api, command, code)
        assert "users, first at id 1" in said
        talk(service, api, "after the rehearsal")
        api.project()
    assert "Both sides hold the same" in operator.run(*next(told))
    assert "Both sides hold the same" in operator.run(*next(told))
    with Started(tree, {"AUTH_RATE_LIMIT": "off"}) as service:
        health = httpx.get(service.url + "/health").json()
        assert health["backend"] == "postgresql"
        moved = Api(service, api.token)
        assert count(moved) == 3
        talk(service, moved, "on PostgreSQL")
        again = {"email": api.user["email"], "password": PASSWORD}
        assert httpx.post(service.url + "/auth/login", json=again).status_code == 200
    old = tree / "old"
    old.mkdir()
    for path in [*tree.glob("clawdbot_adapter.db*"), tree / "project_databases"]:
        path.rename(old / path.name)
    operator.run(*next(told))  # the way back
    with Started(tree, sqlite) as service:
        back = Api(service, api.token)
        assert count(back) == 4
        talk(service, back, "on SQLite again")
    operator.run(*next(told))  # home into PostgreSQL, which is in use
    with Started(tree, {"AUTH_RATE_LIMIT": "off"}) as service:
        assert count(Api(service, api.token)) == 5
    assert next(told, None) is None


def rehearse(operator: Operator, service: Started, api: Api, command: str, code: int) -> str:
    """Run the copy while somebody writes, as on a service that goes on."""
    number = 0
    with subprocess.Popen(
        ["bash", "-c", f". venv/bin/activate; {command}"],
        cwd=operator.tree,
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        while process.poll() is None:
            number += 1
            assert api.patch("/auth/me", {"name": f"name {number}"}).status_code == 200
        said = process.stdout.read() if process.stdout else ""
    assert process.returncode == code, said
    with closing(sqlite3.connect(operator.tree / "clawdbot_adapter.db")) as conn:
        assert conn.execute("SELECT name FROM users").fetchone() == (f"name {number}",)
    return said
