"""Two users at work, step by step: SQLite, PostgreSQL and a plain model give the same answers."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests import postgres
from tests.conftest import BACKENDS
from tests.fuzz.run import fresh_service, new_master
from tests.gateway import GatewayStub
from tests.service import PASSWORD, Api, Json, Service, parse_events

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))  # scripts/fuzz wants more
NOBODYS = 2**40
# Where an id stands, and of what it is.
IDS = {
    "project_id": "project",
    "session_id": "session",
    "message_id": "message",
    "user_message_id": "message",
}
# What no two services have alike.
OWN = {"created_at", "updated_at", "session_key", "request_id", "access_token"}
OWN |= {"deleted_at", "restorable_until"}

USERS = st.sampled_from([0, 1])
OWNER = 2
WHO = st.sampled_from([OWNER, OWNER, OWNER, 0, 1])
PICKS = st.sampled_from([0, 0, 0, 1, 1, 2, 7])  # counted from the newest one
NAMES = st.sampled_from(["a", "b-c", "b_c", "B-C", "d9", "e-", "f_f_f"])
BAD_NAMES = st.sampled_from(["", "1a", "-a", "a b", "é", "a" * 60, "a.b", "a\0", "\u017f", "a\n"])
TEXTS = st.sampled_from(["Hello", "Grüße", "\u2028 and 😀", "x" * 3000, "[[gateway:refuse]]"])
TITLES = st.sampled_from([None, "", "A title", "😀"])
LIMITS = st.integers(1, 3)


@dataclass(eq=False)
class Project:
    """A project of the model."""

    owner: int
    name: str
    description: str | None
    number: int
    alive: bool = True


@dataclass(eq=False)
class Message:
    """A message of the model, which knows the one before it: a branch is a way to the root."""

    number: int
    session: int
    role: str
    content: str
    status: str
    parent: "Message | None"


@dataclass(eq=False)
class Session:
    """A session of the model; `active` is larger the later something happened in it."""

    project: Project
    number: int
    title: str | None
    active: int
    messages: list[Message] = field(default_factory=list)
    deleted: bool = False

    @property
    def alive(self) -> bool:
        """Whether it can be found."""
        return self.project.alive and not self.deleted


class Side:
    """One of the two services, with both users; ids are told by the order of their appearance."""

    def __init__(self, service: Service) -> None:
        self.apis = [Api(service), Api(service)]
        self.known: dict[str, list[int]] = {"project": [], "session": [], "message": []}

    def number(self, kind: str, real: int) -> int:
        """Which one of its kind it is."""
        if real not in self.known[kind]:
            self.known[kind].append(real)
        return self.known[kind].index(real)

    def real(self, kind: str, number: int) -> int:
        """The id behind a number; one that nobody has for a number not given yet."""
        known = self.known[kind]
        return known[number] if number < len(known) else NOBODYS

    def plain(self, body: Any, kind: str) -> Any:
        """The answer without what differs between services that behave alike."""
        if isinstance(body, list):
            return [self.plain(item, kind) for item in body]
        if not isinstance(body, dict):
            return body
        plain: Json = {}
        # The user's message comes before its answer, however the body is ordered.
        for name in sorted(body, key=lambda name: not name.startswith("user_message")):
            value = body[name]
            if name in OWN:
                continue
            if name == "next_cursor":
                plain[name] = value is not None
            elif name == "leaves":
                plain[name] = [self.number("message", leaf) for leaf in value]
            elif name == "user":
                plain[name] = value["email"]
            elif name in {"user_message", "message"} and isinstance(value, dict):
                plain[name] = self.plain(value, "message")
            elif name in IDS or name == "id":
                plain[name] = self.number(IDS.get(name, kind), value)
            else:
                plain[name] = self.plain(value, kind)
        return plain

    def set_token(self, user: int, token: str | None) -> None:
        """Log in or out on this side."""
        self.apis[user].http.headers["Authorization"] = f"Bearer {token}"


class World(RuleBasedStateMachine):
    """Each step goes to both services; their answers are compared with each other and the model."""

    services: ClassVar[Mapping[str, Service]]

    def __init__(self) -> None:
        super().__init__()
        self.sides = [Side(service) for service in self.services.values()]
        self.mark = f"m{secrets.token_hex(4)}"
        self.logged_in = [True, True]
        self.projects: list[Project] = []
        self.sessions: list[Session] = []
        self.messages: list[Message] = []
        self.keys: dict[tuple[int, str], tuple[Json, Json]] = {}
        self.clock = 0

    def teardown(self) -> None:
        """Look at all there is, then drop it: the servers are shared by all examples."""
        for user in (0, 1):
            if not self.logged_in[user]:
                self.log_in(user)
            self.list_projects(user, 2)
        for pick in range(len(self.projects)):
            self.list_sessions(OWNER, pick, 2)
        for pick in range(len(self.sessions)):
            self.list_messages(OWNER, pick, 3, None)
            self.list_messages(OWNER, pick, 50, 2)
            self.list_branches(OWNER, pick)
        for pick in range(len(self.projects)):
            self.delete_project(OWNER, pick)
        for side in self.sides:
            for api in side.apis:
                api.http.close()

    def send(
        self,
        user: int,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        kind: str = "project",
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        **numbers: int,
    ) -> tuple[int, Any]:
        """The status and body that both services answer with."""
        answers = []
        for side in self.sides:
            ids = {name: side.real(name, number) for name, number in numbers.items()}
            sent = {
                name: side.real(*value) if isinstance(value, tuple) else value
                for name, value in (body or {}).items()
            }
            asked = {
                name: side.real(*value) if isinstance(value, tuple) else value
                for name, value in (params or {}).items()
            }
            options: dict[str, Any] = {"headers": dict(headers or {}), "params": asked}
            if body is not None:
                options["json"] = sent
            response = side.apis[user].request(method, path.format(**ids), **options)
            if path in {"/auth/signup", "/auth/login"} and response.status_code < 300:
                side.set_token(user, response.json()["access_token"])
            answers.append((response.status_code, side.plain(read(response), kind)))
        assert answers[0] == answers[1], f"{method} {path} {body}"
        return answers[0]

    def expect(self, user: int, found: bool) -> int | None:
        """The status of a refusal: 401 without a token, 404 for what isn't there or another's.

        Who was refused for the token logs in again.
        """
        if not self.logged_in[user]:
            self.log_in(user)
            return 401
        return None if found else 404

    def pick_project(self, who: int, pick: int) -> tuple[int, int, Project | None]:
        """Who acts, on which project, and the project if it is the actor's."""
        if pick >= len(self.projects):
            return who % OWNER, 10_000, None
        project = self.projects[-1 - pick]
        user = project.owner if who == OWNER else who
        own = project.alive and project.owner == user
        return user, project.number, project if own else None

    def pick_session(self, who: int, pick: int) -> tuple[int, int, Session | None]:
        """Who acts, on which session, and the session if it is the actor's."""
        if pick >= len(self.sessions):
            return who % OWNER, 10_000, None
        session = self.sessions[-1 - pick]
        user = session.project.owner if who == OWNER else who
        own = session.alive and session.project.owner == user
        return user, session.number, session if own else None

    def email(self, user: int) -> str:
        """A user's address."""
        return f"{self.mark}.{user}@example.com"

    @initialize()
    def sign_up(self) -> None:
        """Both users come, and neither address can be had again, however it is spelled."""
        for user in (0, 1):
            body = {"email": self.email(user), "password": PASSWORD, "name": f"User {user}"}
            status, answer = self.send(user, "POST", "/auth/signup", body)
            assert (status, answer["user"]) == (201, self.email(user))
            again = {**body, "email": self.email(user).upper()}
            assert self.send(user, "POST", "/auth/signup", again)[0] == 409
            self.create_project(user, f"start{user}", None)
            for title in ("First", "Second"):
                self.create_session(user, 0, title)
            for text in ("one", "two"):
                self.chat(user, 0, text, stream=False)
            self.edit(user, 0, "TWO", 2)
            self.regenerate(user, 0, 2)

    @rule(user=USERS)
    def log_out(self, user: int) -> None:
        """The token is void from then on."""
        status, _ = self.send(user, "POST", "/auth/logout")
        assert status == (204 if self.logged_in[user] else 401)
        self.logged_in[user] = False

    def log_in(self, user: int) -> None:
        """The right password gives a token, another one doesn't and takes none away."""
        wrong = {"email": self.email(user), "password": "wrong password"}
        assert self.send(user, "POST", "/auth/login", wrong)[0] == 401
        body = {"email": self.email(user).title(), "password": PASSWORD}
        assert self.send(user, "POST", "/auth/login", body)[0] == 200
        self.logged_in[user] = True

    @rule(user=USERS, name=NAMES, description=TITLES)
    def create_project(self, user: int, name: str, description: str | None) -> None:
        """One project for each database's name, whoever has it."""
        name = f"{self.mark}{name}"
        status, answer = self.send(
            user, "POST", "/projects", {"name": name, "description": description}
        )
        taken = {database(project.name) for project in self.projects if project.alive}
        if refused := self.expect(user, found=True):
            assert status == refused
        elif database(name.lower()) in taken:
            assert (status, answer["code"]) == (409, "database_name_taken")
        else:
            assert status == 201
            project = Project(user, name.lower(), description, answer["id"])
            assert answer == shown_project(project)
            self.projects.append(project)

    @rule(user=USERS, name=BAD_NAMES)
    def create_project_badly(self, user: int, name: str) -> None:
        """What is no name makes nothing."""
        status, _ = self.send(user, "POST", "/projects", {"name": name})
        assert status == (self.expect(user, found=True) or 422)

    @rule(user=USERS, name=st.sampled_from(["postgres", "template1", "Dreampilot", "pg_catalog"]))
    def create_project_with_reserved_name(self, user: int, name: str) -> None:
        """What the guard protects can't be taken."""
        status, _ = self.send(user, "POST", "/projects", {"name": name})
        assert status == (self.expect(user, found=True) or 409)

    @rule(who=WHO, pick=PICKS, description=TITLES)
    def change_project(self, who: int, pick: int, description: str | None) -> None:
        """A description is its owner's to change."""
        user, number, project = self.pick_project(who, pick)
        body = {"description": description}
        status, answer = self.send(user, "PATCH", "/projects/{project}", body, project=number)
        if refused := self.expect(user, found=project is not None):
            assert status == refused
        elif project:
            project.description = description
            assert (status, answer) == (200, shown_project(project))

    @precondition(lambda self: sum(project.alive for project in self.projects) > 2)
    @rule(who=WHO, pick=PICKS)
    def delete_project(self, who: int, pick: int) -> None:
        """All that is in it goes with it, and is counted."""
        user, number, project = self.pick_project(who, pick)
        status, answer = self.send(user, "DELETE", "/projects/{project}", project=number)
        if refused := self.expect(user, found=project is not None):
            assert status == refused
        elif project:
            sessions = [s for s in self.sessions if s.project is project and s.alive]
            assert (status, answer["database"]) == (200, database(project.name))
            assert answer["cleanup"] == {
                "database_dropped": True,
                "sessions": len(sessions),
                "messages": sum(len(session.messages) for session in sessions),
            }
            project.alive = False

    @rule(who=WHO, pick=PICKS, title=TITLES)
    def create_session(self, who: int, pick: int, title: str | None) -> None:
        """Only in one's own project."""
        user, number, project = self.pick_project(who, pick)
        status, answer = self.send(
            user,
            "POST",
            "/projects/{project}/sessions",
            {"title": title},
            kind="session",
            project=number,
        )
        if refused := self.expect(user, found=project is not None):
            assert status == refused
        elif project:
            session = Session(project, answer["id"], title, self.tick())
            assert (status, answer) == (201, shown_session(session))
            self.sessions.append(session)

    @rule(who=WHO, pick=PICKS, title=TITLES)
    def rename_session(self, who: int, pick: int, title: str | None) -> None:
        """Renaming is activity."""
        user, number, session = self.pick_session(who, pick)
        status, answer = self.send(
            user, "PATCH", "/sessions/{session}", {"title": title}, kind="session", session=number
        )
        if refused := self.expect(user, found=session is not None):
            assert status == refused
        elif session:
            session.title, session.active = title, self.tick()
            assert (status, answer) == (200, shown_session(session))

    @rule(who=WHO, pick=PICKS)
    def delete_session(self, who: int, pick: int) -> None:
        """Gone, and gone again is 404."""
        user, number, session = self.pick_session(who, pick)
        status, _ = self.send(user, "DELETE", "/sessions/{session}", session=number)
        assert status == (self.expect(user, found=session is not None) or 204)
        if session and status == 204:
            session.deleted = True

    @rule(who=WHO, pick=PICKS, text=TEXTS, stream=st.booleans())
    def chat(self, who: int, pick: int, text: str, stream: bool) -> None:
        """The message goes to the end of the newest branch."""
        user, number, session = self.pick_session(who, pick)
        self.say(user, number, session, {"message": text, "stream": stream})

    @rule(who=WHO, pick=PICKS, text=TEXTS, after=st.integers(-1, 9))
    def edit(self, who: int, pick: int, text: str, after: int) -> None:
        """The message goes after any message of the session, or to the beginning."""
        user, number, session = self.pick_session(who, pick)
        parent = self.pick_message(session, after)
        # Which message, or null, or one that isn't the session's.
        where = None if after < 0 else ("message", parent.number if parent else 10_000)
        self.say(user, number, session, {"message": text, "parent_id": where}, parent=parent)

    @rule(who=WHO, pick=PICKS, of=st.integers(0, 9))
    def regenerate(self, who: int, pick: int, of: int) -> None:
        """Another answer to the same message; only answers can be asked for again."""
        user, number, session = self.pick_session(who, pick)
        answer = self.pick_message(session, of)
        which = ("message", answer.number if answer else 10_000)
        self.say(user, number, session, {"regenerate_of": which}, parent=answer)

    @rule(who=WHO, pick=PICKS, key=st.sampled_from("ab"), text=st.sampled_from(["one", "two"]))
    def chat_with_key(self, who: int, pick: int, key: str, text: str) -> None:
        """The same key and body get the same messages; another body is refused."""
        user, number, session = self.pick_session(who, pick)
        place = (number, key)
        if session is None or not self.logged_in[user] or place not in self.keys:
            answer = self.say(user, number, session, {"message": text}, key=f"{number}-{key}")
            if answer is not None:
                self.keys[place] = ({"message": text}, answer)
            return
        first, answered = self.keys[place]
        body = {"session_id": ("session", number), "message": text}
        headers = {"Idempotency-Key": f"{number}-{key}"}
        status, answer = self.send(user, "POST", "/chat", body, headers=headers)
        if first == {"message": text}:
            assert (status, answer) == (200, answered)
        else:
            assert (status, answer["code"]) == (422, "idempotency_key_reused")

    def pick_message(self, session: Session | None, pick: int) -> Message | None:
        """A message of the session, counted from its newest; of another session where it has none.

        A stranger's or a missing session has none.
        """
        if session is None or pick < 0:
            return None
        if pick < len(session.messages):
            return session.messages[-1 - pick]
        others = [message for message in self.messages if message.session != session.number]
        return others[0] if others and pick % 2 else None

    def say(
        self,
        user: int,
        number: int,
        session: Session | None,
        body: Json,
        *,
        parent: Message | None = None,
        key: str | None = None,
    ) -> Json | None:
        """One turn on both sides and in the model; the answer if there was one."""
        body = {"session_id": ("session", number), **body}
        headers = {"Idempotency-Key": key} if key else {}
        status, answer = self.send(user, "POST", "/chat", body, headers=headers)
        if refused := self.expect(user, found=session is not None):
            assert status == refused
            return None
        assert session is not None
        strange = parent is not None and parent.session != session.number
        unknown = body.get("parent_id") == ("message", 10_000)
        asked: Message | None = None
        if "regenerate_of" in body:
            asked = parent.parent if parent and parent.role == "assistant" else None
            unknown = asked is None
        if strange or unknown:
            assert (status, answer["code"]) == (422, "unknown_message")
            return None
        session.active = self.tick()
        if asked is None:
            newest = session.messages[-1] if session.messages else None
            before = parent if "parent_id" in body else newest
            asked = self.add(session, "user", body["message"], "complete", before)
        self.answered(session, asked, status, answer)
        return answer if status == 200 else None

    def answered(self, session: Session, asked: Message, status: int, answer: Json) -> None:
        """Hold the answer against the model and put it in; what the agent says is its own."""
        if answer.get("code"):
            assert asked.content == "[[gateway:refuse]]"
            assert (status, answer["status"]) == (200 if "message" in answer else 502, 502)
            content, ended = "", "failed"
            # A stream's `error` has the message, a plain problem its id.
            number = answer["message"]["id"] if "message" in answer else answer["message_id"]
        else:
            assert status == 200
            assert answer["user_message"] == shown_message(asked)
            content, ended, number = (
                answer["message"]["content"],
                "complete",
                answer["message"]["id"],
            )
            assert content
        made = self.add(session, "assistant", content, ended, asked)
        assert made.number == number

    def add(
        self, session: Session, role: str, content: str, status: str, parent: Message | None
    ) -> Message:
        """A new message of the model; numbers are given in the order of appearance."""
        number = len(self.messages)
        message = Message(number, session.number, role, content, status, parent)
        session.messages.append(message)
        self.messages.append(message)
        return message

    def tick(self) -> int:
        """The next moment."""
        self.clock += 1
        return self.clock

    @rule(who=WHO, pick=PICKS, limit=LIMITS, leaf=st.none() | st.integers(0, 9))
    def list_messages(self, who: int, pick: int, limit: int, leaf: int | None) -> None:
        """The branch that ends with the newest message, or with any other one."""
        user, number, session = self.pick_session(who, pick)
        end = self.pick_message(session, leaf or 0)
        params: Json = {} if leaf is None else {"leaf": ("message", end.number if end else 10_000)}
        found = session is not None
        if leaf is not None:
            found = session is not None and end is not None and end.session == session.number
        elif session is not None:
            end = session.messages[-1] if session.messages else None
        path = "/sessions/{session}/messages"
        status, pages = self.walk(user, path, "message", limit, params, session=number)
        if refused := self.expect(user, found=found):
            assert status == refused
            return
        branch: list[Message] = []
        while end is not None:
            branch.insert(0, end)
            end = end.parent
        shown = [message for page in reversed(pages) for message in page]
        assert [trimmed(message) for message in shown] == [
            trimmed(shown_message(message)) for message in branch
        ]

    @rule(who=WHO, pick=PICKS)
    def list_branches(self, who: int, pick: int) -> None:
        """The leaves are the messages that no other follows."""
        user, number, session = self.pick_session(who, pick)
        status, answer = self.send(user, "GET", "/sessions/{session}/branches", session=number)
        if refused := self.expect(user, found=session is not None):
            assert status == refused
        elif session:
            parents = {message.parent for message in session.messages}
            leaves = [m.number for m in reversed(session.messages) if m not in parents]
            assert (status, answer) == (200, {"leaves": leaves})

    @rule(who=WHO, pick=PICKS, limit=LIMITS)
    def list_sessions(self, who: int, pick: int, limit: int) -> None:
        """Newest activity first."""
        user, number, project = self.pick_project(who, pick)
        path = "/projects/{project}/sessions"
        status, pages = self.walk(user, path, "session", limit, {}, project=number)
        if refused := self.expect(user, found=project is not None):
            assert status == refused
            return
        own = [s for s in self.sessions if s.project is project and s.alive]
        own.sort(key=lambda session: -session.active)
        assert [item for page in pages for item in page] == [
            shown_session(session) for session in own
        ]

    @rule(user=USERS, limit=LIMITS)
    def list_projects(self, user: int, limit: int) -> None:
        """One's own, newest first."""
        status, pages = self.walk(user, "/projects", "project", limit, {})
        if refused := self.expect(user, found=True):
            assert status == refused
            return
        own = [p for p in reversed(self.projects) if p.alive and p.owner == user]
        assert [item for page in pages for item in page] == [
            shown_project(project) for project in own
        ]

    def walk(
        self, user: int, path: str, kind: str, limit: int, params: Json, **numbers: int
    ) -> tuple[int, list[list[Any]]]:
        """The status, and all pages of a list, each with `limit` items but the last."""
        pages: list[list[Any]] = []
        # A cursor is each service's own: the sides walk one after the other.
        walks = []
        for side in self.sides:
            ids = {name: side.real(name, number) for name, number in numbers.items()}
            asked = {
                name: side.real(*value) if isinstance(value, tuple) else value
                for name, value in params.items()
            }
            pages, cursor = [], None
            while True:
                query = {**asked, "limit": limit, **({"cursor": cursor} if cursor else {})}
                response = side.apis[user].get(path.format(**ids), params=query)
                if response.status_code != 200:
                    break
                page = response.json()
                pages.append(side.plain(page["items"], kind))
                cursor = page["next_cursor"]
                assert len(pages[-1]) == limit or cursor is None
                if cursor is None:
                    break
            walks.append((response.status_code, pages))
        assert walks[0] == walks[1], path
        return walks[0]

    @invariant()
    def others_see_nothing(self) -> None:
        """The newest session is its owner's alone."""
        if self.sessions:
            session = self.sessions[-1]
            for user in (user for user in (0, 1) if self.logged_in[user]):
                found = session.alive and session.project.owner == user
                status, _ = self.send(
                    user, "GET", "/sessions/{session}", kind="session", session=session.number
                )
                assert status == (self.expect(user, found=found) or 200)


def read(response: httpx.Response) -> Any:
    """The body; of a stream, what a plain answer would say."""
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        first, *deltas, last = parse_events(response.text)
        said = "".join(event.data["content"] for event in deltas)
        assert last.name == "error" or last.data["message"]["content"] == said
        body: Json = {"session_id": first.data["message"]["session_id"], **first.data, **last.data}
        return body if last.name == "done" else {**first.data, **last.data}
    return response.json() if response.content else None


def database(name: str) -> str:
    """The database that a project of this name has."""
    return name.replace("-", "_") + "_db"


def shown_project(project: Project) -> Json:
    """As the API shows it."""
    return {
        "id": project.number,
        "name": project.name,
        "description": project.description,
        "project_type": "blank",
        "db_name": database(project.name),
    }


def shown_session(session: Session) -> Json:
    """As the API shows it."""
    return {"id": session.number, "project_id": session.project.number, "title": session.title}


def shown_message(message: Message) -> Json:
    """As the API shows it."""
    return {
        "id": message.number,
        "session_id": message.session,
        "role": message.role,
        "content": message.content,
        "status": message.status,
        "error": None,
        "images": [],
        "model": None,
        "usage": None,
    }


def trimmed(message: Json) -> Json:
    """Without what the agent alone knows of its answers."""
    return {
        name: value for name, value in message.items() if name not in {"error", "model", "usage"}
    }


@pytest.fixture(scope="module")
def services(
    postgres_server: postgres.Server,
    gateway: GatewayStub,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Service]]:
    """The service on either database, at the same time."""
    with ExitStack() as stack:
        running = {}
        for backend in BACKENDS:
            folder = tmp_path_factory.mktemp(backend)
            master = new_master(backend, postgres_server, folder)
            running[backend] = stack.enter_context(fresh_service(master, gateway, folder))
        yield running


@pytest.mark.timeout(3600 if EXAMPLES else 120)
def test_both_databases_and_the_model_agree(services: dict[str, Service]) -> None:
    """Whatever two users do in whatever order, the answers are those of a plain model."""
    World.services = services
    run_state_machine_as_test(
        World,
        settings=settings(
            max_examples=EXAMPLES or 8,
            stateful_step_count=60 if EXAMPLES else 40,
            derandomize=not EXAMPLES,
            # Shortening a story takes minutes.
            phases=list(Phase) if EXAMPLES else [Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
