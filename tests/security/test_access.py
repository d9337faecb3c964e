"""Who gets at what: every route with every kind of token."""

import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import httpx
import pytest

from tests.chat.following import SLOW, begin, find, wait_until
from tests.edge.problems import check_problem, without_id
from tests.images.samples import png_url
from tests.service import PASSWORD, Api, Json, Service, new_name, sign_up
from tests.sql import Sql

JSON, STREAM, IMAGE = "application/json", "text/event-stream", "image/png"
ABSENT = 2**62
SECRET = "Sentinel-of-the-owner"
PAIRS = 9
MOST_SECONDS = 0.010

# open: needs no token; self: answers about the caller; thing: names something of an owner.
Reach = Literal["open", "self", "thing"]


@dataclass(frozen=True)
class Route:
    """A route in one of its forms, with what its owner gets; `{ids}` are filled in."""

    method: str
    path: str
    reach: Reach
    status: int = 200
    body: Json | None = None
    kind: str = JSON

    @property
    def short(self) -> str:
        """Its method and path."""
        return f"{self.method} {self.path}"

    @property
    def name(self) -> str:
        """For the reports of failures."""
        return f"{self.short} {self.kind} {self.body or ''}"

    def send(self, client: Api, ids: Json, **options: Any) -> httpx.Response:
        """This request about these things."""
        body = self.body and {key: _fill(value, ids) for key, value in self.body.items()}
        path = self.path.format(**ids)
        if body is not None:
            options["json"] = body
        return client.request(self.method, path, **options)


def _fill(value: Any, ids: Json) -> Any:
    if value == "{new_name}":
        return new_name()
    if value == "{email}":
        return f"{new_name()}@example.com"
    return ids[value[1:-1]] if isinstance(value, str) and value.startswith("{") else value


CHAT = {"session_id": "{session_id}", "message": "Hello"}
# In an order in which the owner can send them all: what destroys comes last.
ROUTES = (
    Route("GET", "/health", "open"),
    Route("GET", "/health/live", "open"),
    Route("GET", "/health/ready", "open"),
    Route("GET", "/health/db", "open"),
    Route("GET", "/health/queue", "open"),
    Route("GET", "/health/gateway", "open"),
    Route("POST", "/auth/signup", "open", 201, {"email": "{email}", "password": PASSWORD}),
    Route("POST", "/auth/login", "open", 401, {"email": "x@example.com", "password": PASSWORD}),
    Route("GET", "/auth/me", "self"),
    Route("PATCH", "/auth/me", "self", body={"name": "Ada"}),
    Route("GET", "/project-types", "self"),
    Route("GET", "/projects", "self"),
    Route("POST", "/projects", "self", 201, {"name": "{new_name}"}),
    Route("GET", "/projects/{project_id}", "thing"),
    Route("PATCH", "/projects/{project_id}", "thing", body={"description": SECRET}),
    Route("PATCH", "/projects/{project_id}", "thing", body={}),
    Route("GET", "/projects/{project_id}/database", "thing"),
    Route("GET", "/projects/{project_id}/sessions", "thing"),
    Route("POST", "/projects/{project_id}/sessions", "thing", 201, {"title": "Another"}),
    Route("GET", "/sessions/{session_id}", "thing"),
    Route("PATCH", "/sessions/{session_id}", "thing", body={"title": SECRET}),
    Route("GET", "/sessions/{session_id}/messages", "thing"),
    Route("GET", "/sessions/{session_id}/messages?leaf={message_id}", "thing"),
    Route("GET", "/sessions/{session_id}/branches", "thing"),
    Route("GET", "/images/{image_id}", "thing", kind=IMAGE),
    Route("GET", "/chat/{message_id}/stream", "thing", kind=STREAM),
    Route("POST", "/chat/{message_id}/stop", "thing"),
    Route("POST", "/chat", "thing", body=CHAT),
    Route("POST", "/chat", "thing", body={**CHAT, "stream": True}, kind=STREAM),
    Route("POST", "/chat", "thing", body={**CHAT, "images": [png_url(3, 3)]}),
    Route("POST", "/chat", "thing", body={**CHAT, "parent_id": "{message_id}"}),
    Route(
        "POST",
        "/chat",
        "thing",
        body={"session_id": "{session_id}", "regenerate_of": "{message_id}", "stream": True},
        kind=STREAM,
    ),
    Route("GET", "/deleted-projects", "self"),
    Route("POST", "/projects/{deleted_id}/restore", "thing"),
    Route("DELETE", "/sessions/{session_id}", "thing", 204),
    Route("DELETE", "/projects/{project_id}", "thing"),
    Route("DELETE", "/projects/{spare_id}?force=true", "thing"),
    Route("DELETE", "/projects/{purged_id}?purge=true", "thing"),
    Route("POST", "/auth/logout", "self", 204),
)
THINGS = [route for route in ROUTES if route.reach == "thing"]
CLOSED = [route for route in ROUTES if route.reach != "open"]


@dataclass
class World:
    """An owner with one of everything."""

    owner: Api
    ids: Json

    @property
    def absent(self) -> Json:
        """Ids that nothing has."""
        return dict.fromkeys(self.ids, ABSENT)


def make_world(service: Service) -> World:
    """A new owner's project, session, messages and image."""
    owner = sign_up(service, name=SECRET)
    project = owner.project(description=SECRET)
    session = owner.session(project["id"], title=SECRET)
    answer = owner.chat(session["id"], SECRET, images=[png_url(2, 2)])
    assert answer.status_code == 200, answer.text
    ids = {
        "project_id": project["id"],
        "session_id": session["id"],
        "message_id": answer.json()["message"]["id"],
        "image_id": answer.json()["user_message"]["images"][0]["id"],
        "spare_id": owner.project()["id"],
    }
    for name in ("deleted_id", "purged_id"):
        ids[name] = owner.project(description=SECRET)["id"]
        assert owner.delete(f"/projects/{ids[name]}").status_code == 200
    return World(owner, ids)


_worlds: dict[str, World] = {}


@pytest.fixture
def world(service: Service) -> Iterator[World]:
    """The things that nobody but their owner can touch: the same before and after each test."""
    made = _worlds.get(service.url) or make_world(service)
    _worlds[service.url] = made
    made.owner = Api(service, made.owner.token)
    before = snapshot(made, Sql(service.settings))
    yield made
    assert snapshot(made, Sql(service.settings)) == before


def snapshot(world: World, sql: Sql) -> list[Any]:
    """All that strangers could have changed."""
    project, session = world.ids["project_id"], world.ids["session_id"]
    return [
        world.owner.get(f"/projects/{project}").json(),
        world.owner.get(f"/projects/{project}/sessions").json(),
        world.owner.messages(session),
        sql.count("projects", id=world.ids["spare_id"]),
        world.owner.get("/deleted-projects").json(),
        world.owner.get("/auth/me").json()["name"],
    ]


def test_the_table_names_every_route_in_every_form(service: Service) -> None:
    """A route that is not in the table has been tried with nobody's token."""
    described = {
        (method.upper(), path): operation
        for path, operations in service.openapi()["paths"].items()
        for method, operation in operations.items()
    }
    named = {(route.method, _template(route.path)) for route in ROUTES}
    assert named == set(described)
    for (method, path), operation in described.items():
        kinds = {
            IMAGE if kind.startswith("image/") else kind
            for status, answer in operation["responses"].items()
            for kind in answer.get("content", {})
            if status.startswith("2")
        }
        tried = {r.kind for r in ROUTES if (r.method, _template(r.path)) == (method, path)}
        assert kinds <= tried, f"{method} {path}"


def _template(path: str) -> str:
    return re.sub(r"\{(spare|deleted|purged)_id\}", "{project_id}", path.partition("?")[0])


Headers = dict[str, str]


def bearing(*credentials: str) -> list[Headers]:
    """The headers of requests with these credentials."""
    return [{"Authorization": credential} for credential in credentials]


def no_token(_: Service) -> list[Headers]:
    """No header at all."""
    return [{}]


def malformed(service: Service) -> list[Headers]:
    """What holds a good token and is yet no Bearer credential."""
    good = sign_up(service).token
    return bearing("", "Bearer", "Bearer !", f"Bearer {good} {good}", f"Basic {good}", f"{good}")


def unknown(_: Service) -> list[Headers]:
    """Tokens that nobody was given."""
    return bearing(f"Bearer clawd_{'x' * 43}", "Bearer x", f"Bearer {'x' * 200}")


def expired(service: Service) -> list[Headers]:
    """A token whose time was over a second ago."""
    api = sign_up(service)
    past = datetime.now(UTC) - timedelta(seconds=1)
    Sql(service.settings).rows(
        "UPDATE auth_tokens SET expires_at = %s WHERE user_id = %s", past, api.user["id"]
    )
    return bearing(f"Bearer {api.token}")


def logged_out(service: Service) -> list[Headers]:
    """A token that its user has revoked."""
    api = sign_up(service)
    api.post("/auth/logout")
    return bearing(f"Bearer {api.token}")


NOBODY = (no_token, malformed, unknown, expired, logged_out)


@pytest.mark.parametrize("nobody", NOBODY)
def test_without_a_valid_token_every_closed_route_is_401(
    world: World, nobody: Callable[[Service], list[Headers]]
) -> None:
    """The same answer about things that exist and about none; nothing is done first."""
    client = Api(world.owner.service)
    for headers in nobody(world.owner.service):
        answers = [
            (route, route.send(client, ids, headers=headers))
            for route in CLOSED
            for ids in (world.ids, world.absent)
        ]
        for route, answer in answers:
            check_problem(answer, 401, "invalid_token")
            assert comparable(answer) == comparable(answers[0][1]), (route.name, headers)


@pytest.mark.parametrize("nobody", NOBODY)
def test_open_routes_don_t_ask(
    service: Service, nobody: Callable[[Service], list[Headers]]
) -> None:
    """A client with an old token can still log in, and a load balancer see the health."""
    client = Api(service)
    for headers in nobody(service):
        for route in ROUTES:
            if route.reach == "open":
                answer = route.send(client, {}, headers=headers)
                assert answer.status_code == route.status, (route.name, answer.text)


def comparable(answer: httpx.Response) -> tuple[int, Json, Json]:
    """An answer without what differs from any request to the next."""
    headers = {k: v for k, v in answer.headers.items() if k not in ("date", "x-request-id")}
    return answer.status_code, without_id(answer), headers


@pytest.mark.parametrize("number", range(len(THINGS)), ids=lambda n: f"{n}: {THINGS[n].short}")
def test_foreign_is_absent(world: World, number: int) -> None:
    """404 for both, the same to the last header and in the same time: no id tells whose it is.

    403, another text, or a look at the thing before its owner would (CVE-2026-45349, CWE-208).
    """
    route, stranger = THINGS[number], sign_up(world.owner.service)
    taken: tuple[list[float], list[float]] = [], []
    for pair in range(PAIRS):
        answers = {}
        for which in (0, 1) if pair % 2 else (1, 0):
            started = time.perf_counter()
            answers[which] = route.send(stranger, (world.ids, world.absent)[which])
            taken[which].append(time.perf_counter() - started)
        check_problem(answers[0], 404, "not_found")
        assert comparable(answers[0]) == comparable(answers[1])
        assert SECRET not in answers[0].text
    foreign, absent = (statistics.median(times) for times in taken)
    assert abs(foreign - absent) < MOST_SECONDS


def test_a_stranger_s_lists_hold_nothing_of_the_owner_s(world: World) -> None:
    """Routes that name nothing answer about the caller alone."""
    stranger = sign_up(world.owner.service)
    for route in ROUTES:
        if route.reach == "self" and route.path != "/auth/logout":
            answer = route.send(stranger, world.ids)
            assert answer.status_code == route.status, route.name
            assert SECRET not in answer.text, route.name
    listed = stranger.get("/projects").json()["items"]
    assert len(listed) == 1, "the one that the table has just made"
    assert listed[0]["id"] not in (world.ids["project_id"], world.ids["spare_id"])


@pytest.mark.parametrize("name", ["parent_id", "regenerate_of"])
@pytest.mark.parametrize("stream", [False, True])
def test_foreign_messages_are_absent_in_one_s_own_session(
    world: World, name: str, stream: bool
) -> None:
    """The session is the caller's, the message that the body also names is not."""
    stranger = sign_up(world.owner.service)
    session = stranger.session()["id"]
    answers = []
    for message in (world.ids["message_id"], ABSENT):
        body: Json = {"session_id": session, "stream": stream, name: message}
        if name == "parent_id":
            body["message"] = "Hello"
        answers.append(stranger.post("/chat", body))
    check_problem(answers[0], 422, "unknown_message")
    assert comparable(answers[0]) == comparable(answers[1])
    assert stranger.messages(session) == []
    foreign, absent = (
        stranger.get(f"/sessions/{session}/messages", params={"leaf": leaf})
        for leaf in (world.ids["message_id"], ABSENT)
    )
    check_problem(foreign, foreign.status_code)
    assert comparable(foreign) == comparable(absent)
    assert SECRET not in foreign.text


def test_a_running_answer_can_t_be_followed_or_stopped_by_others(world: World) -> None:
    """While it streams, with a place to go on from, and by its owner's own id alone."""
    owner = world.owner
    stranger, session = sign_up(owner.service), owner.session()["id"]
    running = begin(owner, session, SLOW)["id"]
    for headers in ({}, {"Last-Event-ID": "1"}):
        pair = [
            stranger.get(f"/chat/{message}/stream", headers=headers)
            for message in (running, ABSENT)
        ]
        check_problem(pair[0], 404, "not_found")
        assert comparable(pair[0]) == comparable(pair[1])
    pair = [stranger.post(f"/chat/{message}/stop") for message in (running, ABSENT)]
    check_problem(pair[0], 404, "not_found")
    assert comparable(pair[0]) == comparable(pair[1])
    assert find(owner, session, running)["status"] == "streaming", "nobody has stopped it"
    owner.delete(f"/sessions/{session}")


def test_an_idempotency_key_is_its_user_s_own(world: World) -> None:
    """Another user's key neither replays their messages nor tells that it was used."""
    key = {"Idempotency-Key": new_name()}
    stranger = sign_up(world.owner.service)
    mine, theirs = world.owner.session()["id"], stranger.session()["id"]
    for client, session in ((world.owner, mine), (stranger, theirs)):
        body = {"session_id": session, "message": "Hello"}
        answer = client.post("/chat", body, headers=key)
        assert answer.status_code == 200, answer.text
        assert answer.json()["session_id"] == session
        assert "idempotent-replayed" not in answer.headers
    world.owner.delete(f"/sessions/{mine}")


def test_a_stream_ends_with_its_token_only_for_new_requests(service: Service) -> None:
    """After a log-out, the next follow and the next stop are 401; the answer itself goes on."""
    api = sign_up(service)
    session = api.session()["id"]
    running = begin(api, session, "[[gateway:answer tokens=5 delay=0.1]]")["id"]
    credentials = {"email": api.user["email"], "password": PASSWORD}
    other = Api(service, Api(service).post("/auth/login", credentials).json()["access_token"])
    api.post("/auth/logout")
    check_problem(api.get(f"/chat/{running}/stream"), 401)
    check_problem(api.post(f"/chat/{running}/stop"), 401)
    wait_until(lambda: find(other, session, running)["status"] == "complete")


def test_the_owner_gets_all_of_it(service: Service) -> None:
    """The table's requests are good ones: with the owner's token each does what it says."""
    mine = make_world(service)
    for route in ROUTES:
        answer = route.send(mine.owner, mine.ids)
        assert answer.status_code == route.status, (route.name, answer.text)
        if answer.content and route.status < 300:
            assert answer.headers["content-type"].partition(";")[0] == route.kind, route.name
