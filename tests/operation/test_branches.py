"""Production runs `main`, development another branch, in a folder and on a database of its own."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PRODUCTION, fresh_master
from tests.operation.conftest import git
from tests.service import PASSWORD, environment, sign_up
from tests.sql import Sql
from tests.test_commands import Started, add_environment, databases_in, reason_line

DEV = ("./start-backend-dev.sh",)


def dev_tree(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/dev-tree."""
    return subprocess.run(
        ["scripts/dev-tree", *arguments],
        cwd=folder,
        env=environment({}),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_second_instance_runs_beside_main(checkout: Path) -> None:
    """On port 8001 from `main` two instances would run the same folder, and change it together."""
    service = Started(checkout, {}, DEV)
    service.settings = {"HOST": "127.0.0.81"}
    said = service.end()
    reason_line(said, "8001", "another branch than main", "scripts/dev-tree", "ALLOW_ANY_BRANCH=1")
    assert databases_in(checkout) == []


@pytest.mark.parametrize(
    ("branch", "settings"),
    [("main", {"ALLOW_ANY_BRANCH": "1"}), ("feature/x", {})],
)
def test_a_second_instance_starts_where_it_may(
    checkout: Path, branch: str, settings: dict[str, str]
) -> None:
    """When overridden, and from any other branch."""
    git(checkout, "checkout", "--quiet", "-B", branch)
    service = Started(checkout, {}, DEV)
    service.settings = {"HOST": "127.0.0.82", **settings}
    service.url = "http://127.0.0.82:8001"
    with service:
        assert service.health()["commit"] == git(checkout, "rev-parse", "HEAD")


def test_uvicorn_alone_asks_for_no_branch(checkout: Path) -> None:
    """The newcomer's `uvicorn app:app --port 8001` works on `main`, with which a clone begins."""
    service = Started(checkout, {}, ["uvicorn", "app:app", "--host", "127.0.0.83", "--port=8001"])
    service.settings, service.url = {}, "http://127.0.0.83:8001"
    with service:
        assert service.health()["status"] == "ok"


def test_a_development_tree_has_all_of_its_own(checkout: Path) -> None:
    """One command makes it; production's settings and data stay where they are."""
    production = {".env": "PORT=8002\nDB_PATH=production.db\n", ".env.postgres": "DB_HOST=db\n"}
    for name, text in production.items():
        (checkout / name).write_text(text, "utf-8")
    made = dev_tree(checkout)
    assert made.returncode == 0, made.stderr
    folder = checkout.with_name("clawd-development")
    assert made.stdout == f"cd {folder} && ./start-backend-dev.sh\n"
    assert git(folder, "branch", "--show-current") == "development"
    assert not (folder / ".env.postgres").exists()
    assert (folder / ".env").stat().st_mode & 0o077 == 0
    assert git(checkout, "status", "--porcelain") == git(folder, "status", "--porcelain") == ""
    (folder / ".env").write_text((folder / ".env").read_text("utf-8") + "LOG_FORMAT=text\n")
    again = dev_tree(checkout)
    assert (again.returncode, again.stdout) == (0, made.stdout)
    assert "LOG_FORMAT=text" in (folder / ".env").read_text("utf-8")
    add_environment(folder)
    service = Started(folder, {}, ["./start-backend.sh"])
    service.settings, service.url = {"HOST": "127.0.0.84"}, "http://127.0.0.84:8001"
    with service:
        sign_up(service).project("shop")
    assert databases_in(checkout) == []
    assert databases_in(folder) == ["clawdbot_adapter_dev.db", "shop_db.sqlite3"]
    assert {name: (checkout / name).read_text("utf-8") for name in production} == production


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["main"], "main is production's branch"),
        (["--force"], "usage"),
        (["a", "b"], "usage"),
        (["a..b"], "no name for a branch: a..b"),
    ],
)
def test_a_development_tree_is_refused(checkout: Path, arguments: list[str], reason: str) -> None:
    """With the reason, and without a trace."""
    refused = dev_tree(checkout, *arguments)
    assert refused.returncode != 0
    assert refused.stderr.startswith("scripts/dev-tree: ")
    assert reason in refused.stderr
    assert [path.name for path in checkout.parent.iterdir()] == [checkout.name]


def test_a_development_tree_takes_a_branch_that_there_is(checkout: Path) -> None:
    """A colleague's branch, as `git fetch` has brought it; outside of a checkout nothing."""
    origin = checkout.with_name("origin")
    shutil.copytree(checkout, origin, symlinks=True)
    git(origin, "checkout", "--quiet", "-b", "feature/x")
    git(checkout, "remote", "add", "origin", str(origin))
    git(checkout, "fetch", "--quiet")
    assert dev_tree(checkout, "feature/x").returncode == 0
    folder = checkout.with_name("clawd-feature-x")
    assert git(folder, "rev-parse", "--abbrev-ref", "@{upstream}") == "origin/feature/x"
    shutil.rmtree(origin / ".git")
    assert "no git checkout" in dev_tree(origin).stderr


def test_development_keeps_away_from_productions_database(
    checkout: Path, backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A branch with a newer schema would keep production from ever starting again."""
    settings = fresh_master(backend, request, tmp_path)
    development = {**settings, "APP_ENV": "development"}
    production = {**PRODUCTION, **settings}
    with Started(checkout, development) as service:
        ada = sign_up(service)
    with Started(checkout, production):
        pass
    (checkout / "schema" / "9999_of_a_branch.sql").write_text("CREATE TABLE of_a_branch (id INT);")
    said = Started(checkout, development).end()
    reason_line(said, "production has marked it as its own", "ALLOW_PROD_DB=1")
    (checkout / "schema" / "9999_of_a_branch.sql").unlink()
    with Started(checkout, {**development, "ALLOW_PROD_DB": "1"}) as service:
        login = {"email": ada.user["email"], "password": PASSWORD}
        assert ada.http.post(f"{service.url}/auth/login", json=login).status_code == 200
    assert Sql(settings).value("SELECT count(*) FROM environment") == 1
