"""A backup that is restored: equal digests, a service that works on it."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg2
import pytest

from server.backups import archive
from tests import postgres
from tests.backups.archives import change_manifest, opened, packed
from tests.backups.place import Place, holds
from tests.images.samples import png, png_url
from tests.service import PASSWORD, Api, Json, Service, sign_up


class Writers:
    """Users that write all the time: messages, projects that come and go; nothing may fail."""

    def __init__(self, service: Service) -> None:
        self.said: list[Json] = []
        self.made = 0
        self.wrong: list[str] = []
        self._service = service
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in (0, 1)]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Let them work meanwhile."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _run(self, number: int) -> None:
        api = sign_up(self._service)
        session = api.session()["id"]
        while not self._stop.is_set():
            if number:
                answer = api.chat(session, f"Message {secrets.token_hex(500)}")
                self.said.append(answer.json())
            else:
                made = api.post("/projects", {"name": f"p{secrets.token_hex(6)}"})
                answer = api.delete(f"/projects/{made.json()['id']}")
                self.made += 1
            if answer.status_code != 200:
                self.wrong.append(answer.text)


def log_in(service: Service, email: str) -> Api:
    """A user who comes back."""
    answer = httpx.post(
        service.url + "/auth/login", json={"email": email, "password": PASSWORD}, verify=False
    )
    assert answer.status_code == 200, answer.text
    return Api(service, answer.json()["access_token"])


@pytest.fixture
def elsewhere(backend: str, tmp_path: Path, empty: Place) -> Iterator[Place]:
    """An empty folder, or a server with nobody in it but its superuser."""
    settings = {**empty.settings, "BACKUP_DIR": str(tmp_path / "other" / "backups")}
    if backend == "sqlite":
        yield Place({**settings, "DB_PATH": str(tmp_path / "other" / "data" / "master.db")})
        return
    with postgres.Server(postgres.find_binaries()[-1]) as server:
        url = f"postgresql://postgres:{server.password}@{server.host}:{server.port}"
        other = {"DB_PORT": str(server.port), "DB_NAME": "other", "DB_USER": "somebody"}
        yield Place({**settings, **other, "DB_PASSWORD": "theirs-7215", "POSTGRES_ADMIN_URL": url})


def test_under_load_into_an_empty_place(empty: Place, elsewhere: Place, tmp_path: Path) -> None:
    """What was acknowledged before it began is in it, nobody's request fails meanwhile.

    Restored where nothing is, all digests are equal; the service starts there and works.
    """
    settings = {**empty.settings, "AUTH_RATE_LIMIT": "off"}
    with Service(settings, tmp_path) as service:
        api = sign_up(service, email="ada@example.com")
        project = api.project(project_type="ecommerce")
        session = api.session(project["id"])["id"]
        sent = api.chat(session, "Look", images=[png_url()])
        deleted = api.project(project_type="ecommerce")["id"]
        assert api.delete(f"/projects/{deleted}").json()["restorable_until"]
        writers = Writers(service)
        with writers.at_work():
            while len(writers.said) < 5 or writers.made < 2:
                assert not writers.wrong
            before = len(writers.said)
            acknowledged = [said["message"]["id"] for said in writers.said[:before]]
            path = empty.backup()
            during = len(writers.said) - before
        assert writers.wrong == []
        assert during > 0
    manifest = archive.read_manifest(path)
    names = [entry.name for entry in manifest.projects]
    assert project["db_name"] in names

    assert elsewhere.clawd("restore", str(path)).code == 0
    assert elsewhere.holds() == holds(manifest)
    ids = {row["id"] for row in elsewhere.sql.rows("SELECT id FROM messages")}
    assert ids >= {*acknowledged}
    with Service({**elsewhere.settings, "AUTH_RATE_LIMIT": "off"}, tmp_path) as service:
        api = log_in(service, "ada@example.com")
        image = sent.json()["user_message"]["images"][0]["id"]
        assert api.get(f"/images/{image}").content == png()
        assert "orders" in api.get(f"/projects/{project['id']}/database").json()["tables"]
        assert api.chat(session, "Still there?").status_code == 200
        assert api.delete(f"/projects/{project['id']}").json()["cleanup"]["database_dropped"]
        assert api.post("/projects", {"name": project["name"]}).status_code == 201
        assert api.post(f"/projects/{deleted}/restore").status_code == 200
        assert "orders" in api.get(f"/projects/{deleted}/database").json()["tables"]


def test_in_place_of_what_is_there(place: Place) -> None:
    """The databases are as they were; what was there is kept, and can be looked at."""
    before = place.holds()
    path = place.backup()
    change(place)
    changed = place.holds()
    assert changed != before
    done = place.clawd("restore", path.name)
    assert done.code == 0, done
    assert place.holds() == before
    assert len(done.found["kept"]) == (3 if place.sql.postgres else 2)
    assert kept_messages(place, done.found["kept"]) == ["changed"]
    # Once more: neither is in the way of the other.
    assert place.clawd("restore", path.name).code == 0
    assert place.holds() == before


def change(place: Place) -> None:
    """Other rows than in the backup."""
    place.sql.rows("DELETE FROM messages WHERE id = 3")
    place.sql.rows("UPDATE messages SET content = 'changed' WHERE id = 2")


def kept_messages(place: Place, kept: list[str]) -> list[str]:
    """What the message that was changed says in the master that was kept."""
    name = next(name for name in kept if "master" in name)
    field = "DB_NAME" if place.sql.postgres else "DB_PATH"
    other = Place({**place.settings, field: name})
    return [row["content"] for row in other.sql.rows("SELECT content FROM messages WHERE id = 2")]


def test_other_rows_than_promised(place: Place) -> None:
    """Files that are whole prove nothing: what comes out of them is compared, row by row."""
    path = place.backup()
    members = opened(path)

    def spoil(manifest: Json) -> None:
        tables = manifest["databases"][2]["tables"]
        name = next(name for name in tables if "notes" in name)
        tables[name] = tables[name].replace(" ", " 0", 1)

    change_manifest(members, spoil)
    packed(path, members)
    done = place.clawd("backup", "verify")
    assert (done.code, done.found["problem"].endswith("notes")) == (1, True), done
    before = place.holds()
    assert place.clawd("restore", path.name).code == 1
    assert place.holds() == before


def test_a_database_in_use_is_left_alone(place: Place, tmp_path: Path) -> None:
    """A service that runs would go on with the old one, and lose what it writes."""
    path = place.backup()
    with Service(place.settings, tmp_path):
        change(place)
        done = place.clawd("restore", path.name)
        assert done.code == 3
        assert "in use" in done.found["error"]
        assert place.sql.value("SELECT content FROM messages WHERE id = 2") == "changed"
    assert place.work_left() == []


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_the_role_that_serves_may_not_restore(
    place: Place, postgres_server: postgres.Server
) -> None:
    """In the recommended set-up it needs a superuser, then belongs to whom it belonged before."""
    url = f"postgresql://postgres:{postgres_server.password}@{postgres_server.host}"
    url += f":{postgres_server.port}"
    path = place.backup()
    assert place.clawd("restore", path.name, POSTGRES_ADMIN_URL=url).code == 0
    done = place.clawd("restore", path.name)
    assert done.code == 2
    assert "POSTGRES_ADMIN_URL" in done.found["error"]
    before = place.holds()
    assert place.clawd("restore", path.name, POSTGRES_ADMIN_URL=url).code == 0
    assert place.holds() == before
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        place.sql.rows("DELETE FROM audit_log")
