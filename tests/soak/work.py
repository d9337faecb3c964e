"""What users do besides talking: accounts, projects, sessions, pages, and what is no use."""

import asyncio
import secrets
from typing import Any

from tests.service import Json
from tests.soak.talk import hear_some, turn
from tests.soak.user import User

MOST_PROJECTS = 2
NOBODYS = 2**40
A_PIXEL = "https://example.com/pixel.png"


async def pages(user: User, path: str) -> list[Json]:
    """A list from its beginning, in small pages, at most five of them."""
    items: list[Json] = []
    params: Json = {"limit": user.random.choice((2, 7, 50))}
    for _ in range(5):
        page = (await user.ask("GET", path, 200, params=params)).json()
        items += page["items"]
        params["cursor"] = page["next_cursor"]
        if params["cursor"] is None:
            break
    if len({item["id"] for item in items}) != len(items):
        user.wrong(f"{path}: an item on two pages")
    return items


async def look_around(user: User) -> None:
    """Who am I, what is there."""
    await user.ask("GET", "/auth/me", 200)
    await user.ask("PATCH", "/auth/me", 200, json={"name": user.text(30)})
    await pages(user, "/projects")
    await pages(user, "/project-types")


async def create(user: User) -> None:
    """A project, while there are few."""
    if len(user.sessions) < MOST_PROJECTS:
        kind = user.random.choice(("blank", "ecommerce", "knowledge"))
        body = {"name": f"p{secrets.token_hex(8)}", "project_type": kind}
        made = (await user.ask("POST", "/projects", 201, json=body)).json()
        user.sessions[made["id"]] = []
        await user.ask("POST", "/projects", 409, json=body)
        await new_session(user)


async def delete(user: User) -> None:
    """A project with all that is in it."""
    if user.sessions:
        await drop(user, user.random.choice(list(user.sessions)))


async def drop(user: User, project: int) -> None:
    """Delete it, in the middle of an answer perhaps."""
    for session in user.sessions.pop(project):
        user.place.ledger.leave(session)
        user.unread.pop(session, None)
    await user.ask("DELETE", f"/projects/{project}", 200)
    await user.ask("GET", f"/projects/{project}", 404)
    user.count("projects deleted")


async def leave(user: User) -> None:
    """Delete everything and be somebody else."""
    for project in list(user.sessions):
        await drop(user, project)
    await user.go()
    user.become_new()
    await user.come()


async def look_into(user: User) -> None:
    """A project, its database and its sessions."""
    if user.sessions:
        project = user.random.choice(list(user.sessions))
        await user.ask("GET", f"/projects/{project}", 200)
        await user.ask("GET", f"/projects/{project}/database", 200)
        body = {"description": user.text(200)}
        await user.ask("PATCH", f"/projects/{project}", 200, json=body)
        found = {one["id"] for one in await pages(user, f"/projects/{project}/sessions")}
        if not found <= set(user.sessions[project]):
            user.wrong(f"project {project} has sessions that were deleted")


async def new_session(user: User) -> None:
    """A session in one of the projects."""
    if user.sessions:
        project = user.random.choice(list(user.sessions))
        body = {"title": user.text(40)}
        path = f"/projects/{project}/sessions"
        made = (await user.ask("POST", path, 201, json=body)).json()
        user.sessions[project].append(made["id"])


async def rename_session(user: User) -> None:
    """Another title."""
    if session := user.session():
        body = {"title": user.text(40)}
        await user.ask("PATCH", f"/sessions/{session}", 200, json=body)
        await user.ask("GET", f"/sessions/{session}", 200)


async def delete_session(user: User) -> None:
    """A session is deleted, sometimes while the agent speaks in it."""
    if session := user.session():
        project = next(key for key, sessions in user.sessions.items() if session in sessions)
        if session not in user.unread and user.random.random() < 0.5:
            await hear_some(user, turn(user, session, "answer tokens=60 delay=0.05"))
        user.sessions[project].remove(session)
        user.place.ledger.leave(session)
        user.unread.pop(session, None)
        await user.ask("DELETE", f"/sessions/{session}", 204)
        await user.ask("GET", f"/sessions/{session}/messages", 404)


async def read(user: User) -> None:
    """A session's messages."""
    if session := user.session():
        await pages(user, f"/sessions/{session}/messages")


async def check_health(user: User) -> None:
    """As process managers do."""
    for path in ("", "/live", "/ready", "/db", "/queue", "/gateway"):
        await user.ask("GET", f"/health{path}", 200)


async def err(user: User) -> None:
    """A request that must be refused."""
    method, path, status, options = user.random.choice(mistakes(user))
    await user.ask(method, path, status, **options)


def mistakes(user: User) -> list[tuple[str, str, int, Json]]:
    """Requests that are wrong, each with its status and what it is made of."""
    session = user.session() or NOBODYS

    def talk(status: int, **fields: Any) -> tuple[str, str, int, Json]:
        said = {"session_id": session, "message": "x", **fields}
        return "POST", "/chat", status, {"json": said}

    return [
        ("GET", "/nowhere", 404, {}),
        ("GET", f"/{secrets.token_urlsafe(60)}", 404, {}),
        ("PUT", "/projects", 405, {}),
        ("DELETE", "/auth/login", 405, {}),
        ("POST", "/auth/signup", 409, {"json": {"email": user.email, "password": "long enough"}}),
        ("POST", "/auth/signup", 422, {"json": {"email": "nobody", "password": "long enough"}}),
        ("POST", "/auth/login", 422, {"json": {"email": [user.email]}}),
        ("PATCH", "/auth/me", 422, {"json": {"password": "without the current one"}}),
        ("GET", "/projects", 401, {"headers": {"Authorization": "Bearer clawd_nobody"}}),
        ("GET", "/projects", 401, {"headers": {"Authorization": "Basic eDp5"}}),
        ("GET", "/projects", 422, {"params": {"limit": 0}}),
        ("GET", "/projects", 422, {"params": {"cursor": "nonsense"}}),
        ("GET", "/projects", 431, {"headers": {"X-Long": "x" * 40_000}}),
        ("POST", "/projects", 422, {"json": {"name": "1 bad name"}}),
        ("POST", "/projects", 422, {"json": {"name": "a\0"}}),
        ("POST", "/projects", 422, {"content": b'{"name": NaN}'}),
        ("POST", "/projects", 413, {"json": {"name": "large", "description": "x" * 70_000}}),
        ("GET", f"/projects/{NOBODYS}", 404, {}),
        ("DELETE", f"/projects/{NOBODYS}", 404, {}),
        ("GET", "/sessions/first", 422, {}),
        ("GET", f"/sessions/{NOBODYS}/messages", 404, {}),
        ("GET", f"/images/{NOBODYS}", 404, {}),
        ("POST", f"/chat/{NOBODYS}/stop", 404, {}),
        ("GET", f"/chat/{NOBODYS}/stream", 422, {"headers": {"Last-Event-ID": "last"}}),
        talk(404, session_id=NOBODYS),
        talk(422, message=" "),
        ("POST", "/chat", 422, {"content": b'{"session_id": 1, "message": "\\ud800"}'}),
        talk(422, message="x" * 100_001),
        talk(422, images=[A_PIXEL]),
        talk(415, images=["data:image/png;base64,Z3JlZXRpbmdz"]),
        talk(413, images=["data:image/png;base64,Z3JlZXRpbmdz"] * 9),
    ]


async def hang_up(user: User) -> None:
    """A connection that breaks in the middle of a request's body."""
    base = user.place.http.base_url
    _, writer = await asyncio.open_connection(base.host, base.port)
    head = f"POST /chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {user.token}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    writer.write(head.encode() + b'{"session_id": 1, "mess')
    await writer.drain()
    await asyncio.sleep(user.random.random() / 10)
    writer.transport.abort()
    user.count("hung up")
