"""Every route in every form that has statements of its own, asked by an ordinary user."""

from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from server import cursors
from tests.chat.following import begin
from tests.images.samples import png_url
from tests.service import PASSWORD, Api, Json, new_name

LONG = "[[gateway:answer tokens=600 delay=0.1]]"


@dataclass
class World:
    """A user with one of everything that the forms are about; what is destroyed has its own."""

    api: Api
    project: int
    session: int
    ids: dict[str, int] = field(default_factory=dict)
    cursors: dict[str, str] = field(default_factory=dict)
    key: str = field(default_factory=new_name)

    @property
    def user(self) -> int:
        """The user's id."""
        return int(self.api.user["id"])

    def list_from(self, path: str) -> httpx.Response:
        """A page that isn't the first."""
        return self.api.get(path, params={"cursor": self.cursors[path]})

    def say(self, message: str = "Hello", **fields: object) -> httpx.Response:
        """A turn in the session."""
        return self.api.chat(self.session, message, **fields)

    def say_with_key(self) -> httpx.Response:
        """A turn with an Idempotency-Key, the same each time."""
        body = {"session_id": self.session, "message": "Hello"}
        return self.api.post("/chat", body, headers={"Idempotency-Key": self.key})

    def look_in(self) -> httpx.Response:
        """Follow a running answer, and leave at its first event."""
        path = f"/chat/{self.ids['running']}/stream"
        with self.api.http.stream("GET", path) as response:
            next(response.iter_bytes())
        return response


def make_world(api: Api, project: int, session: int) -> World:
    """The world of a user who has a project and a session in it, which may be large."""
    world = World(api, project, session)
    _talk(world)
    for name in ("deleted", "restored", "purged", "ended", "forced"):
        spare = world.ids[name] = api.project()["id"]
        api.chat(api.session(spare)["id"], "Hello", images=[png_url(2, 2)])
    for name in ("restored", "ended"):
        assert api.delete(f"/projects/{world.ids[name]}").status_code == 200
    for path in ("/project-types", f"/projects/{project}/sessions", "/deleted-projects"):
        world.cursors[path] = api.get(path, params={"limit": 1}).json()["next_cursor"]
    # Far from the newest, where others and whatever came later lie between.
    world.cursors["/projects"] = cursors.encode(project + 1)
    world.cursors[f"/sessions/{session}/messages"] = cursors.encode(world.ids["answer"] + 1)
    return world


def _talk(world: World) -> None:
    api, ids = world.api, world.ids
    turn = world.say(images=[png_url(2, 2)]).json()
    world.say()
    ids["asked"], ids["answer"] = turn["user_message"]["id"], turn["message"]["id"]
    ids["image"] = turn["user_message"]["images"][0]["id"]
    ids["forked"], ids["session"] = (api.session(world.project)["id"] for _ in range(2))
    api.chat(ids["session"], "Hello", images=[png_url(2, 2)])
    answers: list[Json] = [api.chat(ids["forked"], "Hello").json()["message"] for _ in range(2)]
    api.post("/chat", {"session_id": ids["forked"], "regenerate_of": answers[0]["id"]})
    ids["leaf"] = answers[1]["id"]
    ids["running"] = begin(api, api.session(world.project)["id"], LONG)["id"]


Form = Callable[[World], httpx.Response]
# By method and route, then what is particular. In an order in which one user can ask them all.
FORMS: dict[str, Form] = {
    "GET /health": lambda w: w.api.get("/health"),
    "GET /health/live": lambda w: w.api.get("/health/live"),
    "GET /health/ready": lambda w: w.api.get("/health/ready"),
    "GET /health/db": lambda w: w.api.get("/health/db"),
    "GET /health/queue": lambda w: w.api.get("/health/queue"),
    "GET /health/gateway": lambda w: w.api.get("/health/gateway"),
    "POST /auth/signup": lambda w: w.api.post(
        "/auth/signup", {"email": f"{new_name()}@example.com", "password": PASSWORD}
    ),
    "POST /auth/login": lambda w: w.api.post(
        "/auth/login", {"email": w.api.user["email"], "password": PASSWORD}
    ),
    "GET /auth/me": lambda w: w.api.get("/auth/me"),
    "PATCH /auth/me": lambda w: w.api.patch("/auth/me", {"name": "Ada"}),
    "PATCH /auth/me, the password": lambda w: w.api.patch(
        "/auth/me", {"password": PASSWORD, "current_password": PASSWORD}
    ),
    "GET /project-types": lambda w: w.api.get("/project-types"),
    "GET /project-types, a later page": lambda w: w.list_from("/project-types"),
    "GET /projects": lambda w: w.api.get("/projects"),
    "GET /projects, a later page": lambda w: w.list_from("/projects"),
    "POST /projects": lambda w: w.api.post("/projects", {"name": new_name()}),
    "POST /projects, from a template": lambda w: w.api.post(
        "/projects", {"name": new_name(), "project_type": "knowledge"}
    ),
    "GET /projects/{project_id}": lambda w: w.api.get(f"/projects/{w.project}"),
    "PATCH /projects/{project_id}": lambda w: w.api.patch(
        f"/projects/{w.project}", {"description": "Books"}
    ),
    "GET /projects/{project_id}/database": lambda w: w.api.get(f"/projects/{w.project}/database"),
    "GET /projects/{project_id}/sessions": lambda w: w.api.get(f"/projects/{w.project}/sessions"),
    "GET /projects/{project_id}/sessions, a later page": lambda w: w.list_from(
        f"/projects/{w.project}/sessions"
    ),
    "POST /projects/{project_id}/sessions": lambda w: w.api.post(
        f"/projects/{w.project}/sessions", {"title": "Another"}
    ),
    "GET /sessions/{session_id}": lambda w: w.api.get(f"/sessions/{w.session}"),
    "PATCH /sessions/{session_id}": lambda w: w.api.patch(
        f"/sessions/{w.session}", {"title": "Books"}
    ),
    "GET /sessions/{session_id}/messages": lambda w: w.api.get(f"/sessions/{w.session}/messages"),
    "GET /sessions/{session_id}/messages, a later page": lambda w: w.list_from(
        f"/sessions/{w.session}/messages"
    ),
    "GET /sessions/{session_id}/messages, forked": lambda w: w.api.get(
        f"/sessions/{w.ids['forked']}/messages"
    ),
    "GET /sessions/{session_id}/messages, a branch": lambda w: w.api.get(
        f"/sessions/{w.ids['forked']}/messages", params={"leaf": w.ids["leaf"]}
    ),
    "GET /sessions/{session_id}/branches": lambda w: w.api.get(f"/sessions/{w.session}/branches"),
    "GET /sessions/{session_id}/branches, forked": lambda w: w.api.get(
        f"/sessions/{w.ids['forked']}/branches"
    ),
    "GET /images/{image_id}": lambda w: w.api.get(f"/images/{w.ids['image']}"),
    "GET /chat/{message_id}/stream": lambda w: w.api.get(f"/chat/{w.ids['answer']}/stream"),
    "GET /chat/{message_id}/stream, running": lambda w: w.look_in(),
    "POST /chat/{message_id}/stop": lambda w: w.api.post(f"/chat/{w.ids['answer']}/stop"),
    "POST /chat/{message_id}/stop, running": lambda w: w.api.post(f"/chat/{w.ids['running']}/stop"),
    "POST /chat": lambda w: w.say(),
    "POST /chat, streamed": lambda w: w.say(stream=True),
    "POST /chat, with an image": lambda w: w.say(images=[png_url(3, 3)]),
    "POST /chat, with a key": lambda w: w.say_with_key(),
    "POST /chat, its key again": lambda w: w.say_with_key(),
    "POST /chat, refused by the gateway": lambda w: w.say("[[gateway:refuse]]", stream=True),
    "POST /chat, edited": lambda w: w.say(parent_id=w.ids["answer"]),
    "POST /chat, another answer": lambda w: w.api.post(
        "/chat", {"session_id": w.session, "regenerate_of": w.ids["answer"]}
    ),
    "GET /deleted-projects": lambda w: w.api.get("/deleted-projects"),
    "GET /deleted-projects, a later page": lambda w: w.list_from("/deleted-projects"),
    "POST /projects/{project_id}/restore": lambda w: w.api.post(
        f"/projects/{w.ids['restored']}/restore"
    ),
    "DELETE /sessions/{session_id}": lambda w: w.api.delete(f"/sessions/{w.ids['session']}"),
    "DELETE /projects/{project_id}": lambda w: w.api.delete(f"/projects/{w.ids['deleted']}"),
    "DELETE /projects/{project_id}, by force": lambda w: w.api.delete(
        f"/projects/{w.ids['forced']}?force=true"
    ),
    "DELETE /projects/{project_id}, for good": lambda w: w.api.delete(
        f"/projects/{w.ids['purged']}?purge=true"
    ),
    "DELETE /projects/{project_id}, one that is deleted": lambda w: w.api.delete(
        f"/projects/{w.ids['ended']}?purge=true"
    ),
    "POST /auth/logout": lambda w: w.api.post("/auth/logout"),
}
