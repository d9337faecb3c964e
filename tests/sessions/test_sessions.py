"""Sessions over HTTP."""

import uuid
from datetime import UTC, datetime, timedelta

from server.cursors import encode
from tests.edge.problems import check_problem
from tests.images.samples import png_url
from tests.service import Api, Json
from tests.sql import Sql


def walk(api: Api, path: str, limit: int) -> tuple[list[Json], int]:
    """All items of a list page by page, and how many pages it took."""
    items: list[Json] = []
    params: Json = {"limit": limit}
    pages = 0
    while pages == 0 or params.get("cursor"):
        answer = api.get(path, params=params)
        assert answer.status_code == 200, answer.text
        items += answer.json()["items"]
        params["cursor"] = answer.json()["next_cursor"]
        pages += 1
    return items, pages


def test_every_field_of_a_new_session(api: Api) -> None:
    """The contract's body; the key by which the agent remembers is a UUID of its own."""
    project = api.project()
    first, second = (api.session(project["id"], title=title) for title in ("Grüße 🦊", None))
    fields = {"id", "project_id", "session_key", "title", "created_at", "updated_at"}
    assert set(first) == set(second) == fields
    assert (first["title"], second["title"]) == ("Grüße 🦊", None)
    assert first["project_id"] == project["id"]
    assert str(uuid.UUID(first["session_key"])) == first["session_key"] != second["session_key"]
    assert api.get(f"/sessions/{first['id']}").json() == first


def test_a_session_needs_no_body(api: Api) -> None:
    """`title` is optional, so nothing need be sent at all; an empty object and null do as well."""
    path = f"/projects/{api.project()['id']}/sessions"
    for body in (None, {}, {"title": None}, {"session_key": "mine", "user_id": 1}):
        made = api.post(path, body)
        assert made.status_code == 201, made.text
        assert made.json()["title"] is None
        assert made.json()["session_key"] != "mine"


def test_titles_that_are_refused(api: Api) -> None:
    """Nothing that a database can't store, nothing endless; a refusal changes nothing."""
    session = api.session(title="before")
    for title in ("x" * 501, "a\0b", 5, ["x"]):
        for method, path in (
            ("POST", f"/projects/{session['project_id']}/sessions"),
            ("PATCH", f"/sessions/{session['id']}"),
        ):
            body = check_problem(api.request(method, path, json={"title": title}), 422)
            assert body["errors"][0]["loc"] == ["body", "title"]
    assert api.get(f"/sessions/{session['id']}").json() == session
    assert len(walk(api, f"/projects/{session['project_id']}/sessions", 10)[0]) == 1


def test_a_title_can_be_changed_and_taken_away(api: Api) -> None:
    """`null` sets null; a body that doesn't name the title leaves it."""
    session = api.session(title="before")
    path = f"/sessions/{session['id']}"
    changed = api.patch(path, {"title": "after", "session_key": "x", "project_id": 1}).json()
    assert changed == {**session, "title": "after", "updated_at": changed["updated_at"]}
    assert changed["updated_at"] > session["updated_at"]
    assert api.patch(path, {}).json() == changed
    assert api.patch(path, {"title": None}).json()["title"] is None
    assert api.get(path).json()["title"] is None


def test_a_deleted_session_takes_everything_with_it(api: Api, sql: Sql) -> None:
    """204 without a body; its messages and images are gone, its neighbour's are not."""
    project = api.project()
    session, neighbour = api.session(project["id"]), api.session(project["id"])
    for one in (session, neighbour):
        assert api.chat(one["id"], "Look", images=[png_url()]).status_code == 200
    image = api.messages(session["id"])[0]["images"][0]["id"]
    answer = api.delete(f"/sessions/{session['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    path = f"/sessions/{session['id']}"
    for gone in (api.get(path), api.get(f"{path}/messages"), api.get(f"/images/{image}")):
        check_problem(gone, 404, "not_found")
    check_problem(api.delete(path), 404, "not_found")
    assert sql.count("messages", session_id=session["id"]) == 0
    assert sql.count("images", user_id=api.user["id"]) == 1
    assert len(api.messages(neighbour["id"])) == 2


def test_sessions_are_listed_by_activity(api: Api) -> None:
    """A message and a rename bring a session to the top; other projects' are not in the list."""
    project = api.project()
    first, second, third = (api.session(project["id"]) for _ in range(3))
    api.session()
    path = f"/projects/{project['id']}/sessions"

    def order() -> list[int]:
        return [item["id"] for item in api.get(path).json()["items"]]

    assert order() == [third["id"], second["id"], first["id"]]
    api.chat(first["id"], "Hello")
    assert order() == [first["id"], third["id"], second["id"]]
    api.patch(f"/sessions/{second['id']}", {"title": "x"})
    assert order() == [second["id"], first["id"], third["id"]]
    assert api.get(path).json()["items"][1]["updated_at"] > first["updated_at"]


def test_pages_with_equal_times_neither_repeat_nor_skip(api: Api, sql: Sql) -> None:
    """A cursor of the time alone loses or repeats sessions that moved in the same moment."""
    project, now = api.project(), datetime.now(UTC)
    made = []
    for number in range(11):
        at = now - timedelta(seconds=number // 4)
        made.append(
            sql.insert(
                "sessions",
                user_id=api.user["id"],
                project_id=project["id"],
                session_key=str(uuid.uuid4()),
                created_at=at,
                updated_at=at,
            )
        )
    items, pages = walk(api, f"/projects/{project['id']}/sessions", 3)
    assert pages == 4
    assert sorted(item["id"] for item in items) == made
    keys = [(item["updated_at"], item["id"]) for item in items]
    assert keys == sorted(keys, reverse=True)


def test_pages_over_times_of_every_spelling(api: Api, sql: Sql) -> None:
    """SQLite writes CURRENT_TIMESTAMP without fractions and zone: the service's cursors take it."""
    project = api.project()
    made = [api.session(project["id"])["id"]]
    for _ in range(5):
        made.append(
            sql.insert(
                "sessions",
                user_id=api.user["id"],
                project_id=project["id"],
                session_key=str(uuid.uuid4()),
            )
        )
        made.append(api.session(project["id"])["id"])
    items, _ = walk(api, f"/projects/{project['id']}/sessions", 2)
    assert sorted(item["id"] for item in items) == sorted(made)


def test_an_empty_list_is_a_list_and_a_missing_project_is_404(api: Api) -> None:
    """The two come from one query; they must not be mixed up."""
    project = api.project()
    path = f"/projects/{project['id']}/sessions"
    assert api.get(path).json() == {"items": [], "next_cursor": None}
    check_problem(api.get(f"/projects/{2**40}/sessions"), 404, "not_found")
    check_problem(api.post(f"/projects/{2**40}/sessions", {}), 404, "not_found")


def test_cursors_of_other_lists_are_422(api: Api, sql: Sql) -> None:
    """A cursor is good for its own kind of list only."""
    session = api.session()
    project, user = session["project_id"], api.user["id"]
    sessions_path, messages_path = (
        f"/projects/{project}/sessions",
        f"/sessions/{session['id']}/messages",
    )
    api.session(project)
    for _ in range(2):
        sql.insert("messages", user_id=user, session_id=session["id"], role="user", content="x")
    cursors = {
        path: api.get(path, params={"limit": 1}).json()["next_cursor"]
        for path in (sessions_path, messages_path)
    }
    assert all(cursors.values())
    check_problem(api.get(sessions_path, params={"cursor": cursors[messages_path]}), 422)
    check_problem(api.get(messages_path, params={"cursor": cursors[sessions_path]}), 422)
    for bad in ("", "x", "WyIyMDI2LTAyLTMwIDAwOjAwOjAwIiwgMV0", "a" * 201):
        body = check_problem(api.get(sessions_path, params={"cursor": bad}), 422)
        assert body["errors"][0]["loc"] == ["query", "cursor"]


def test_cursors_at_the_ends_of_time(api: Api) -> None:
    """Years and zones at which the databases' own ranges end: a page or a refusal, never 500."""
    path = f"/projects/{api.project()['id']}/sessions"
    for at, status in (
        ("0001-01-01 00:00:00+14:00", 200),
        ("9999-12-31 23:59:59.999999-14:59", 200),
        ("2026-01-01T00:00:00Z", 200),
        ("2026-01-01 00:00:00+15:00", 422),
        ("2026-01-01 00:00:00-23:59", 422),
        ("2026-01-01 24:00:00", 422),
        ("2026-02-30 00:00:00", 422),
        ("0000-01-01 00:00:00", 422),
        ("infinity", 422),
        ("now", 422),
    ):
        cursor = encode(at, 2**63 - 1)
        assert api.get(path, params={"cursor": cursor}).status_code == status, at
