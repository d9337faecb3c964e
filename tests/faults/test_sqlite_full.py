"""The disk under SQLite is full, for real, and has room again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.chat.following import Follower, begin, find, text_of, wait_until
from tests.conftest import GATEWAY_TOKEN
from tests.faults.sqlite_files import SmallDisk, settings_of, small_disk
from tests.gateway import GatewayStub
from tests.service import PASSWORD, Api, Service, new_name, sign_up

SLOW = "[[gateway:answer tokens=15 delay=0.1]]"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of two megabytes."""
    with small_disk(tmp_path / "disk", "2m") as made:
        yield made


@pytest.fixture
def service(small: SmallDisk, gateway: GatewayStub, tmp_path: Path) -> Iterator[Service]:
    """A service on it, with the gateway."""
    settings = settings_of(
        small.mount, OPENCLAW_URL=gateway.url, OPENCLAW_TOKEN=GATEWAY_TOKEN, SHUTDOWN_GRACE="1"
    )
    with Service(settings, tmp_path, small.within) as running:
        yield running
        assert "Traceback" not in running.log


def fill(small: SmallDisk, api: Api, project_id: int) -> None:
    """Take all room, also what the WAL file still has."""
    small.disk.fill()
    path = f"/projects/{project_id}/sessions"
    wait_until(lambda: api.post(path, {"title": "x" * 200}).status_code == 507, what="the end")


def names(api: Api) -> list[str]:
    """The projects, as the user sees them."""
    return sorted(project["name"] for project in api.get("/projects").json()["items"])


def check_whole(small: SmallDisk, api: Api) -> None:
    """No project without its file, no file without its project."""
    assert small.projects == [f"{name}_db.sqlite3" for name in names(api)]


def test_a_full_disk(small: SmallDisk, service: Service, gateway: GatewayStub) -> None:
    """Writes are 507 `storage_full`, log-ins too; reads go on; no gateway is asked in vain.

    As soon as there is room everything works again, without a restart.
    """
    api = sign_up(service)
    project, doomed = api.project(), api.project()
    session = api.session(project["id"])["id"]
    assert api.chat(session, "Hello").status_code == 200
    named = {"name": new_name(), "project_type": "ecommerce"}
    account = {"email": api.user["email"], "password": PASSWORD}
    writes: list[tuple[Callable[[], httpx.Response], int]] = [
        (lambda: api.post(f"/projects/{project['id']}/sessions", {}), 201),
        (lambda: api.chat(session, "Are you there?"), 200),
        (lambda: api.chat(session, "Are you there?", stream=True), 200),
        (lambda: api.patch(f"/projects/{project['id']}", {"description": "Books"}), 200),
        (lambda: api.post("/projects", named), 201),
        (lambda: api.delete(f"/projects/{doomed['id']}"), 200),
        (lambda: api.post("/auth/signup", {**account, "email": f"{new_name()}@example.com"}), 201),
        (lambda: api.post("/auth/login", account), 200),
        (lambda: api.delete(f"/sessions/{session}"), 204),
        (lambda: api.post("/auth/logout"), 204),
    ]
    reads = ["/projects", f"/projects/{project['id']}/sessions", f"/sessions/{session}/messages"]
    reads += ["/auth/me", "/project-types", f"/projects/{project['id']}/database", "/health"]
    fill(small, api, project["id"])
    asked = len(gateway.chats)
    for write, _ in writes:
        answer = write()
        assert (answer.status_code, answer.json()["code"]) == (507, "storage_full"), answer.url
    assert [api.get(path).status_code for path in reads] == [200] * len(reads)
    assert len(gateway.chats) == asked
    assert len(api.messages(session)) == 2
    check_whole(small, api)
    small.disk.clear()
    for write, status in writes:
        answer = write()
        assert answer.status_code == status, answer.text
    again = Api(service, api.post("/auth/login", account).json()["access_token"])
    check_whole(small, again)
    assert names(again) == sorted([project["name"], named["name"]])


def test_a_start_on_a_full_disk(small: SmallDisk, service: Service) -> None:
    """After a crash what is stored can be read; after an orderly end there must be room first.

    SQLite reads through a small file that it then has to make anew. Until it can, the service
    stays up and says why: it used to end, again and again.
    """
    api = sign_up(service)
    path = f"/projects/{api.project()['id']}/sessions"
    small.disk.fill()
    service.kill()
    service.start()
    service.wait_until_up()
    assert api.get(path).status_code == 200
    small.disk.clear()
    assert api.post(path, {}).status_code == 201
    service.stop()
    small.disk.fill()
    service.start()
    service.wait_until_up(path="/health/live")
    health = api.get("/health")
    assert (health.status_code, health.json()["database"]["reason"]) == (503, "the disk is full")
    assert api.get(path).status_code == 507
    small.disk.clear()
    assert wait_until(lambda: api.get("/health").status_code == 200) < 2
    assert len(api.get(path).json()["items"]) == 1
    assert api.post(path, {}).status_code == 201


@pytest.mark.parametrize("room", [8, 24, 40, 72])
def test_a_project_on_a_full_disk(small: SmallDisk, service: Service, room: int) -> None:
    """Made or deleted with so many KiB left: whole or not there, and nothing blocks its name."""
    api = sign_up(service)
    fill(small, api, api.project()["id"])
    small.disk.clear()
    small.disk.fill(room * 1024)
    wanted = {"name": new_name(), "project_type": "ecommerce"}
    made = api.post("/projects", wanted)
    assert made.status_code in (201, 507)
    check_whole(small, api)
    small.disk.clear()
    if made.status_code == 507:
        made = api.post("/projects", wanted)
        assert made.status_code == 201, made.text
    path = f"/projects/{made.json()['id']}"
    small.disk.clear()
    small.disk.fill(room * 1024)
    assert api.delete(path).status_code in (200, 507)
    small.disk.clear()
    assert api.delete(path).status_code in (200, 404)
    assert wanted["name"] not in names(api)
    assert api.post("/projects", wanted).status_code == 201
    check_whole(small, api)


def test_a_disk_that_gets_full_under_a_stream(small: SmallDisk, service: Service) -> None:
    """The client goes on receiving; the end is told when it is stored, with all of its text."""
    api = sign_up(service)
    session = api.session()
    begun = begin(api, session["id"], SLOW)
    follower = Follower(api, begun["id"]).start()
    wait_until(lambda: len(follower.events) > 3)
    fill(small, api, session["project_id"])
    wait_until(lambda: "answer not saved yet" in service.log)
    assert follower.events[-1].name == "delta"
    assert "w14" in text_of(follower.events)
    small.disk.clear()
    events = follower.join()
    assert events[-1].name == "done"
    assert find(api, session["id"], begun["id"]) == events[-1].data["message"]
    assert events[-1].data["message"]["content"] == text_of(events)
    assert api.chat(session["id"], "And now?").status_code == 200


def test_an_answer_for_which_there_is_no_room_to_the_end(
    small: SmallDisk, service: Service
) -> None:
    """The client is told that its answer is not saved; what was saved stays, and is ended."""
    api = sign_up(service)
    session = api.session()
    begun = begin(api, session["id"], SLOW)
    follower = Follower(api, begun["id"]).start()
    wait_until(lambda: len(find(api, session["id"], begun["id"])["content"]) > 5)
    fill(small, api, session["project_id"])
    wait_until(lambda: "answer not saved yet" in service.log)
    assert service.stop() == 0, "it does not wait a minute when it is asked to end"
    error = follower.join()[-1]
    assert (error.name, error.data["code"]) == ("error", "answer_not_saved")
    small.disk.clear()
    service.start()
    service.wait_until_up()
    wait_until(lambda: find(api, session["id"], begun["id"])["status"] == "interrupted")
    stored = find(api, session["id"], begun["id"])["content"]
    assert len(stored) > 5
    assert text_of(follower.events).startswith(stored)
