"""What belongs to somebody else is not there."""

from typing import Any

import httpx

from tests.edge.problems import check_problem, without_id
from tests.images.samples import png_url
from tests.service import Api, sign_up
from tests.sql import Sql

ABSENT = 2**62


def requests(ids: dict[str, int]) -> list[tuple[str, str, Any]]:
    """Every request that names a project, a session or an image."""
    project, session, image = ids["project"], ids["session"], ids["image"]
    return [
        ("GET", f"/projects/{project}", None),
        ("PATCH", f"/projects/{project}", {"description": "mine now"}),
        ("PATCH", f"/projects/{project}", {}),
        ("GET", f"/projects/{project}/database", None),
        ("GET", f"/projects/{project}/sessions", None),
        ("POST", f"/projects/{project}/sessions", {"title": "intruder"}),
        ("DELETE", f"/projects/{project}", None),
        ("DELETE", f"/projects/{project}?force=true", None),
        ("GET", f"/sessions/{session}", None),
        ("PATCH", f"/sessions/{session}", {"title": "mine now"}),
        ("GET", f"/sessions/{session}/messages", None),
        ("POST", "/chat", {"session_id": session, "message": "Hello"}),
        ("POST", "/chat", {"session_id": session, "message": "Hello", "stream": True}),
        ("DELETE", f"/sessions/{session}", None),
        ("GET", f"/images/{image}", None),
    ]


def comparable(answer: httpx.Response) -> tuple[int, Any, set[str]]:
    """An answer without what differs from one request to the next."""
    return answer.status_code, without_id(answer), set(answer.headers)


def test_foreign_is_absent_byte_for_byte(api: Api, sql: Sql) -> None:
    """404 and the same body: 403, or another text, would tell which ids exist (CVE-2026-45349)."""
    session = api.session()
    chat = api.chat(session["id"], "A secret", images=[png_url(2, 2)])
    assert chat.status_code == 200, chat.text
    image = chat.json()["user_message"]["images"][0]["id"]
    theirs = {"project": session["project_id"], "session": session["id"], "image": image}
    absent = dict.fromkeys(theirs, ABSENT)
    project = api.get(f"/projects/{session['project_id']}").json()
    stranger = sign_up(api.service)
    for (method, path, body), (_, absent_path, absent_body) in zip(
        requests(theirs), requests(absent), strict=True
    ):
        foreign = stranger.request(method, path, json=body)
        check_problem(foreign, 404, "not_found")
        nothing = stranger.request(method, absent_path, json=absent_body)
        assert comparable(foreign) == comparable(nothing), f"{method} {path}"
    assert api.get(f"/projects/{project['id']}").json() == project, "nothing was changed"
    assert len(api.messages(session["id"])) == 2
    assert api.get(f"/sessions/{session['id']}").json()["title"] is None
    assert sql.count("sessions", project_id=project["id"]) == 1


def test_a_foreign_project_that_the_guard_would_refuse_is_absent_too(api: Api, sql: Sql) -> None:
    """Ownership is asked before the guard, whose refusals name the database."""
    project = api.project()
    sql.update("projects", project["id"], db_name="dreampilot")
    stranger = sign_up(api.service)
    for query in ("", "?force=true"):
        answer = stranger.delete(f"/projects/{project['id']}{query}")
        check_problem(answer, 404, "not_found")
        assert "dreampilot" not in answer.text
    sql.update("projects", project["id"], db_name=project["db_name"])


def test_lists_hold_ones_own(api: Api) -> None:
    """Each user sees their own projects only."""
    other = sign_up(api.service)
    mine, theirs = api.project(), other.project()
    assert [item["id"] for item in api.get("/projects").json()["items"]] == [mine["id"]]
    assert [item["id"] for item in other.get("/projects").json()["items"]] == [theirs["id"]]
