"""`scripts/import_chats` as people run it, and docs/import.md with it."""

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import database_adapter
from server.auth.queries import create_user
from tests.conftest import fresh_master, with_settings, without_settings
from tests.importing.exports import SAMPLES, chat, node, saved
from tests.service import ROOT, Api, Service, environment
from tests.test_docs import assert_shown, read


def settings_of(service: Service) -> dict[str, str]:
    """The service's settings, for a process beside it."""
    return {name: value for name, value in service.settings.items() if name != "PORT"}


def run(service: Service, folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the module as the script does, in a folder of the user's."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "server.importing", *map(str, arguments)],
        cwd=folder,
        env={**environment(settings_of(service)), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def copied(folder: Path) -> Path:
    """What the script needs, with an export in it."""
    tree = folder / "a tree"
    (tree / "scripts").mkdir(parents=True)
    for name in ("server", "schema", "database_adapter.py", "database.py", "database_postgres.py"):
        (tree / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "scripts" / "import_chats", tree / "scripts")
    # The environment is there: what makes it is tested with the other commands.
    (tree / "scripts" / "venv").write_text("#!/bin/sh\n")
    (tree / "scripts" / "venv").chmod(0o755)
    (tree / "venv").symlink_to(Path(sys.executable).parent.parent)
    shutil.copy(SAMPLES / "openwebui.json", tree / "export.json")
    return tree


def sign_up_ada(settings: dict[str, str]) -> None:
    """Make the tables, and the user that the document names."""
    with_settings(settings)
    try:
        database_adapter.init_schema()
        with database_adapter.get_db() as conn:
            create_user(conn, "ada@example.com", None, "", datetime.now(UTC))
    finally:
        without_settings()


def test_the_document_is_true(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Its commands, word for word, from the repository's root, print what it shows.

    From elsewhere too: names of files are the user's then, and a `json.py` in a folder of
    downloads is no module of ours.
    """
    tree, downloads = copied(tmp_path), tmp_path / "downloads"
    downloads.mkdir()
    (downloads / "json.py").write_text("raise SystemExit('somebody else is in')")
    shutil.copy(SAMPLES / "openwebui.json", downloads / "mine.json")
    settings = fresh_master(backend, request, tmp_path)
    sign_up_ada(settings)

    def bash(text: str, folder: Path) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=folder,
            env=environment(settings),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    printed: list[tuple[int, str]] = []
    for kind, text in re.findall(r"```(bash|text)\n(.*?)```", read("docs/import.md"), re.DOTALL):
        if kind == "bash":
            printed.append(bash(text, tree))
        else:
            assert_shown(text, printed[-1][1])
    assert [status for status, _ in printed] == [1, 1, 0]
    assert printed[0][1].splitlines()[-1].startswith("It would be: 2 added")
    again = "'../a tree/scripts/import_chats' --email ADA@example.com --project shop mine.json"
    assert bash(again, downloads) == printed[-1]


def test_exit_status_and_json(api: Api, service: Service, tmp_path: Path) -> None:
    """0 when all is in, 1 when something differs, 2 when a file or a name is wrong."""
    name = f"x{api.user['id']}"
    path = saved(tmp_path, [chat(node("a", None))])
    where = ("--email", api.user["email"], "--project", name, "--json", path.name)
    done = run(service, tmp_path, *where)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{api.user['email']} has no project {name}" in done.stderr
    done = run(service, tmp_path, "--email", "no@example.com", *where[2:])
    assert (done.returncode, done.stdout) == (2, "")
    assert "nobody has the address no@example.com" in done.stderr
    done = run(service, tmp_path, *where, "--create-project")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["added"], report["messages"], report["status"]) == (1, 1, 0)
    saved(tmp_path, [chat(node("a", None, text="other"))])
    done = run(service, tmp_path, *where)
    assert (done.returncode, json.loads(done.stdout)["changed"]) == (1, 1)
    path.write_text('[{"id": "c2", "mapping": {}}, {"id"')
    done = run(service, tmp_path, *where)
    assert done.returncode == 2
    assert json.loads(done.stdout)["added"] == 1
    assert json.loads(done.stdout)["broken"][path.name].startswith("broken after")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """A wrong DB_PATH once made an empty database, and said that nobody had signed up."""
    path = tmp_path / "master.db"
    (tmp_path / "file").write_text("[]")
    for name, said in (("file", f"there is no database at {path}"), ("none", "does not exist")):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "server.importing", "--email", "a@b.c"),
                *("--project", "p", str(tmp_path / name)),
            ],
            cwd=ROOT,
            env={**environment({"USE_POSTGRES": "false", "DB_PATH": str(path)}), "COLUMNS": "400"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert said in done.stderr
    assert not path.exists()
