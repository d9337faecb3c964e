"""scripts/redeploy.sh with a real origin, good and broken commits, and a service that is used."""

import fcntl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.checkouts import NO_START, Load, Origin, Production, git
from tests.service import Api, Service, sign_up
from tests.test_commands import lock, prepared, wheel

__all__ = ["prepared"]

# What is wrong with a version, each in a way of its own.
NO_IMPORT = {"app.py": "import no_such_module\n"}
NEVER_READY = "\n\nready.__code__ = (lambda request, checks: 1 / 0).__code__\n"


@pytest.fixture(scope="module")
def origin(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Origin:
    """Where new versions come from."""
    return Origin(tmp_path_factory.mktemp("origin") / "clawd", prepared)


@pytest.fixture(scope="module")
def production(
    origin: Origin, prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Production]:
    """A clone that serves, on SQLite, with a space in its path."""
    folder = tmp_path_factory.mktemp("in production")
    settings = {"USE_POSTGRES": "false", "HOME": str(folder)}
    with Production(origin, folder / "the clone", prepared / "venv", settings) as running:
        yield running


@pytest.fixture
def user(production: Production) -> Api:
    """A new user of the service."""
    return sign_up(Service({"PORT": str(production.port)}, production.folder.parent))


def left_behind(production: Production) -> list[str]:
    """What the script keeps for its next run."""
    return sorted(path.name for path in (production.folder / ".git/clawd-redeploy").iterdir())


def test_a_new_version_comes_into_service(
    production: Production, origin: Origin, user: Api
) -> None:
    """With the data, and on the branch, also where none was checked out; then all is done.

    Killed between the switch and the reload, it is run again: what half a switch has left, a step
    of schema/ and the locks of a killed git among it, goes.
    """
    first, _ = production.head()
    git(production.folder, "checkout", "--quiet", "--detach")
    second = origin.publish("better", {"schema/0998_more.sql": "SELECT 1;\n"})
    production.redeploy_until((production.folder / "schema/0998_more.sql").exists)
    assert production.commit() == first
    for name in ("index", "HEAD", "refs/heads/main", "refs/remotes/origin/main"):
        (production.folder / f".git/{name}.lock").touch()
    with Load(production.url, user.token or "") as load:
        done = production.redeploy()
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "an earlier run was broken off; from the start again" in done.stdout
    assert "this changes the tables by schema/0998_more.sql" in done.stdout
    assert (production.commit(), production.head()) == (second, (second, "main"))
    assert load.answers[200] > 0
    assert user.get("/auth/me").json()["email"] == user.user["email"]
    assert list((production.folder / "backups").glob("clawd-sqlite-*.tar.gz"))
    again = production.redeploy()
    assert (again.returncode, again.stdout) == (0, f"redeploy: {second[:7]} serves already\n")
    assert left_behind(production) == ["lock"]


def test_a_version_that_cannot_be_imported_never_runs(
    production: Production, origin: Origin, user: Api
) -> None:
    """The one before serves on, without a gap."""
    before = production.head()
    bad = origin.publish("no import", NO_IMPORT)
    with Load(production.url, user.token or "") as load:
        done = production.redeploy()
    origin.withdraw()
    assert done.returncode == 1, done.stderr
    assert f"redeploy: {bad[:7]}: it can't be imported; back to {before[0][:7]}" in done.stderr
    assert f"redeploy: {before[0][:7]} serves again" in done.stderr
    assert (production.commit(), production.head()) == (before[0], before)
    assert set(load.answers) == {200}
    assert left_behind(production) == ["lock"]


def test_a_version_that_does_not_start_goes_back(
    production: Production, origin: Origin, user: Api, tmp_path: Path
) -> None:
    """With its packages, and without a network: those of the version before were kept."""
    before = production.head()
    shelf = tmp_path / "shelf"
    lock(origin.folder, wheel(shelf, "1.0"))
    bad = origin.publish("no start, and another lock", NO_START)
    index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shelf)}
    with Load(production.url, user.token or "") as load:
        done = production.redeploy(**index)
    origin.withdraw()
    assert done.returncode == 1, done.stderr
    assert f"redeploy: {bad[:7]}: it doesn't serve within 20 s; back" in done.stderr
    assert (production.commit(), production.head()) == (before[0], before)
    assert "no start" in production.log()
    assert not list(production.folder.glob("venv/lib/*/site-packages/toy*"))
    assert load.answers[200] > 0
    assert user.get("/auth/me").status_code == 200
    assert left_behind(production) == ["lock"]


def test_a_step_of_the_schema_goes_back_by_the_backup(
    production: Production, origin: Origin, user: Api
) -> None:
    """The version before can't start on the newer database: what helps is said, and it does."""
    before = production.head()
    step = {"schema/0999_more.sql": "SELECT 1;\n"}
    routes = origin.folder / "server/health/routes.py"
    routes.write_text(routes.read_text("utf-8") + NEVER_READY, "utf-8")
    bad = origin.publish("never ready, with a step", step)
    done = production.redeploy(HEALTH_SECONDS="5")
    origin.withdraw()
    assert done.returncode == 4, done.stderr
    assert f"changed for {bad[:7]}, so {before[0][:7]} can't start on it" in done.stderr
    assert production.head() == before
    stop, restore, start = [
        line.strip() for line in done.stderr.splitlines() if line.startswith("    ")
    ]
    assert (stop, start) == ("# stop the service", "# start it")
    assert left_behind(production) == ["backup", "lock"]
    production.stop()
    subprocess.run(
        ["bash", "-c", restore],
        cwd=production.folder,
        env=production.variables({}),
        capture_output=True,
        check=True,
    )
    production.restart()
    assert production.commit() == before[0]
    assert user.get("/auth/me").status_code == 200


def test_what_is_refused_changes_nothing(production: Production, origin: Origin) -> None:
    """Each with its reason: a second run, changed files, commits of nobody else, no origin."""
    before = production.head()
    origin.publish("better")
    own = production.folder / ".git/clawd-redeploy"
    own.mkdir(exist_ok=True)
    with (own / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        busy = production.redeploy()
    assert (busy.returncode, busy.stderr) == (3, "redeploy: another one is at work\n")
    text = (production.folder / "app.py").read_text("utf-8")
    (production.folder / "app.py").write_text(text + "# mine\n", "utf-8")
    dirty = production.redeploy()
    (production.folder / "app.py").write_text(text, "utf-8")
    assert dirty.returncode == 2
    assert dirty.stderr.endswith("commit or undo it first:\n M app.py\n")
    away = origin.folder.rename(origin.folder.with_name("away"))
    lonely = production.redeploy()
    away.rename(origin.folder)
    assert lonely.returncode == 2
    assert lonely.stderr.endswith("redeploy: can't fetch main from origin\n")
    (production.folder / "schema/0997_mine.sql").write_text("SELECT 1;\n", "utf-8")
    git(production.folder, "add", "schema")
    git(production.folder, "commit", "--quiet", "--message", "mine")
    diverged = production.redeploy()
    older = production.redeploy(before[0])
    git(production.folder, "reset", "--quiet", "--hard", "HEAD^")
    assert diverged.returncode == 2
    assert "isn't part of origin's main" in diverged.stderr
    assert older.returncode == 2
    assert "lacks what the database has, schema/0997_mine.sql" in older.stderr
    unmanaged = production.redeploy(RELOAD_COMMAND="")
    assert unmanaged.returncode == 2
    assert "set RELOAD_COMMAND" in unmanaged.stderr
    assert production.redeploy("nonsense").returncode == 2
    assert (production.commit(), production.head()) == (before[0], before)
