"""An SQLite file that is damaged, lost, replaced or read-only, at the start and under way."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.chat.following import wait_until
from tests.faults.sqlite_files import settings_of
from tests.service import PASSWORD, Api, Json, Service, new_name, sign_up
from tests.sql import Sql

PAGE = 4096


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the master lies."""
    made = tmp_path / "data"
    made.mkdir()
    return made


@pytest.fixture
def service(folder: Path, tmp_path: Path) -> Iterator[Service]:
    """A service on it, with the echo."""
    with Service(settings_of(folder), tmp_path) as running:
        yield running
        assert "Traceback" not in running.log


def overwrite(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


def truncate(master: Path) -> None:
    """At half of its length."""
    os.truncate(master, master.stat().st_size // 2)


def spoil_header(master: Path) -> None:
    """Garbage where SQLite's name should be."""
    overwrite(master, 0, bytes(range(100)))


def zero_pages(master: Path) -> None:
    """Nothing but zeros in every second page."""
    for page in range(1, master.stat().st_size // PAGE, 2):
        overwrite(master, page * PAGE, bytes(PAGE))


def zero_one_page(master: Path) -> None:
    """The first of the messages' pages: all other tables are sound."""
    with closing(sqlite3.connect(master)) as file:
        found = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'messages'")
        (page,) = found.fetchone()
    overwrite(master, (page - 1) * PAGE, bytes(PAGE))


def empty(master: Path) -> None:
    """A file of no length."""
    os.truncate(master, 0)


def replace(master: Path) -> None:
    """Some other program's database in its place."""
    master.unlink()
    with closing(sqlite3.connect(master)) as other:
        other.execute("CREATE TABLE theirs (id INTEGER)")


def remove(master: Path) -> None:
    """Nothing in its place."""
    master.unlink()


def remove_folder(master: Path) -> None:
    """Not even its folder."""
    shutil.rmtree(master.parent)


def checkpoint(master: Path) -> None:
    """Bring all that was written from the WAL file into the master's own."""
    with closing(sqlite3.connect(master)) as file:
        assert file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)


def requests(api: Api, session: Json) -> dict[str, int]:
    """One of each kind, with its status."""
    of_session = f"/sessions/{session['id']}"
    of_project = f"/projects/{session['project_id']}"
    login = {"email": api.user["email"], "password": PASSWORD}
    answers = [
        api.get("/projects"),
        api.get(f"{of_project}/sessions"),
        api.get(f"{of_session}/messages"),
        api.patch(of_session, {"title": "again"}),
        api.chat(session["id"], "Hello"),
        api.post("/projects", {"name": new_name()}),
        api.post("/auth/login", login),
        api.get("/health"),
    ]
    return {f"{a.request.method} {a.request.url.path}": a.status_code for a in answers}


@pytest.mark.parametrize(
    ("damage", "starts"),
    [
        (truncate, False),
        (spoil_header, False),
        (zero_pages, False),
        (zero_one_page, True),
        (empty, False),
        (remove, False),
        (remove_folder, False),
        (replace, True),
    ],
)
def test_a_broken_master(
    service: Service, folder: Path, damage: Callable[[Path], None], starts: bool
) -> None:
    """Under way 503, /health too, never 500 or 401, never an empty file in its place.

    With the file back it works without a restart. At the start it is one line and an exit status.
    """
    api = sign_up(service)
    session = api.session()
    for _ in range(8):
        assert api.chat(session["id"], "word " * 200).status_code == 200
    master, backup = folder / "master.db", folder.parent / "backup"
    checkpoint(master)
    shutil.copytree(folder, backup)
    damage(master)
    seen: set[int] = set()

    def down() -> bool:
        statuses = requests(api, session)
        seen.update(statuses.values())
        return statuses["GET /health"] == 503

    wait_until(down, 5, "a /health that knows")
    assert seen <= {200, 201, 503}
    assert requests(api, session)[f"GET /sessions/{session['id']}/messages"] == 503
    assert damage not in (remove, remove_folder) or not master.exists()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(backup, folder)
    wait_until(lambda: api.get("/health").status_code == 200, 5, "a recovery")
    assert set(requests(api, session).values()) == {200, 201}
    assert api.messages(session["id"])[0]["content"] == "word " * 200
    service.stop()
    damage(master)
    said = len(service.log)
    service.start()
    if starts:
        service.wait_until_up(path="/health/live")
        return
    assert service.process is not None
    assert service.process.wait(15) != 0
    lines = [line for line in service.log[said:].splitlines() if "can't be used" in line]
    assert len(lines) == 1
    assert str(master) in lines[0]
    assert "Traceback" not in service.log


def test_a_lost_master_is_not_begun_anew(service: Service, folder: Path) -> None:
    """A WAL file or projects without their master: the start is refused, and touches nothing.

    It made an empty master: nobody had an account any more, and SQLite removed the WAL file, in
    which the newest changes were.
    """
    api = sign_up(service)
    wal = folder / "master.db-wal"
    master = folder / "master.db"
    service.kill()
    kept = wal.read_bytes()
    assert kept
    away = folder.parent / "away.db"
    master.rename(away)
    for size in (None, 0):
        if size is not None:
            master.touch()
        service.start()
        assert service.process is not None
        assert service.process.wait(15) != 0
        assert "the file is missing or empty, but" in service.log
        assert wal.read_bytes() == kept
    away.rename(master)
    service.start()
    service.wait_until_up()
    assert api.project()["db_name"]
    service.stop()
    master.rename(away)
    service.start()
    assert service.process is not None
    assert service.process.wait(15) != 0
    assert not master.exists()
    (folder / "project_databases").rename(folder.parent / "projects")
    service.start()
    service.wait_until_up()
    assert api.get("/projects").status_code == 401


# root may write what nobody may; without these two of its rights it is like everybody else.
LIKE_EVERYBODY = (
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
)
WITHIN = LIKE_EVERYBODY if os.geteuid() == 0 else ()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The files, and the folder itself, can't be written."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.glob("master.db*"))}
    for path in modes:
        path.chmod(0o555 if path == folder else 0o444)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def test_a_read_only_master(folder: Path, tmp_path: Path) -> None:
    """At the start a line and an exit status; under way writes are 503 and reads go on.

    Connections opened meanwhile can't write; one that stayed in the pool answered every so often
    with 503, for ever.
    """
    service = Service(settings_of(folder), tmp_path, WITHIN)
    with service:
        api = sign_up(service)
        path = f"/projects/{api.project()['id']}/sessions"

        def write(_: int) -> int:
            return Api(service, api.token).post(path, {}).status_code

        with ThreadPoolExecutor(12) as pool:

            def many(count: int = 60) -> set[int]:
                return set(pool.map(write, range(count)))

            with read_only(folder):
                list(pool.map(lambda _: Api(service, api.token).get("/projects"), range(100)))
                assert many() <= {201, 503}
                assert api.get("/projects").status_code == 200
            # Each that can't is thrown away when it is met; the pool may have kept it at the back.
            wait_until(lambda: many(600) == {201}, 20, "a pool that writes")
        service.stop()
        with read_only(folder):
            service.start()
            assert service.process is not None
            assert service.process.wait(15) != 0
        assert service.log.count(f"the database {folder / 'master.db'} can't be used") == 1
        assert "Traceback" not in service.log


def test_no_folder_for_projects(service: Service, folder: Path) -> None:
    """One that is missing is made; where there can be none it's 503, and no project."""
    api = sign_up(service)
    kept = api.project()
    projects = folder / "project_databases"
    shutil.rmtree(projects)
    assert api.post("/projects", {"name": new_name()}).status_code == 201
    shutil.rmtree(projects)
    projects.touch()
    wanted = {"name": new_name()}
    assert api.post("/projects", wanted).status_code == 503
    assert api.delete(f"/projects/{kept['id']}").status_code == 503
    assert wanted["name"] not in [p["name"] for p in api.get("/projects").json()["items"]]
    projects.unlink()
    assert api.post("/projects", wanted).status_code == 201
    deleted = api.delete(f"/projects/{kept['id']}")
    assert deleted.status_code == 200
    assert "already missing" in deleted.json()["warning"]


def test_rows_that_are_no_text(service: Service) -> None:
    """Bytes that aren't UTF-8, put there by SQL: every list is still 200, the good rows as well."""
    api = sign_up(service)
    project = api.project(description="good")
    session = api.session(project["id"], title="good")
    assert api.chat(session["id"], "good").status_code == 200
    sql = Sql(service.settings)
    poison = "CAST(x'fffe41' AS TEXT)"
    poisoned = api.project()
    sql.rows(f"UPDATE projects SET description = {poison} WHERE id = %s", poisoned["id"])
    other = api.session(project["id"])["id"]
    sql.rows(f"UPDATE sessions SET title = {poison} WHERE id = %s", other)
    said = api.chat(session["id"], "bad").json()["user_message"]["id"]
    sql.rows(f"UPDATE messages SET content = {poison} WHERE id = %s", said)
    sql.rows(f"UPDATE users SET name = {poison} WHERE id = %s", api.user["id"])
    lists = (
        "/projects",
        f"/projects/{project['id']}/sessions",
        f"/sessions/{session['id']}/messages",
    )
    texts = [str(api.get(path).raise_for_status().json()["items"]) for path in lists]
    assert all("good" in text and "\N{REPLACEMENT CHARACTER}A" in text for text in texts)
    assert api.get("/auth/me").json()["name"] == "\N{REPLACEMENT CHARACTER}" * 2 + "A"
    assert api.chat(session["id"], "go on").status_code == 200
