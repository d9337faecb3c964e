"""Rows that others insert with plain SQL (contract, section 7) are full citizens."""

import secrets
import uuid

from argon2 import PasswordHasher

from tests.edge.problems import check_problem
from tests.service import PASSWORD, Api, Service, new_name, sign_up
from tests.sql import Sql


def test_a_whole_account_made_by_sql(service: Service, sql: Sql) -> None:
    """User, project, sessions and messages with the named columns only, all else by default."""
    email = f"Grace.Hopper-{secrets.token_hex(4)}@Example.com"
    user = sql.insert(
        "users", email=email, name="Grace", password_hash=PasswordHasher().hash(PASSWORD)
    )
    name = new_name()
    project = sql.insert("projects", user_id=user, name=name, db_name=f"{name}_db")
    key = str(uuid.uuid4())
    session = sql.insert("sessions", user_id=user, project_id=project, session_key=key)
    for role in ("system", "user", "assistant"):
        sql.insert("messages", user_id=user, session_id=session, role=role, content=role)

    credentials = {"email": email.lower(), "password": PASSWORD}
    login = Api(service).post("/auth/login", credentials)
    assert login.status_code == 200, login.text
    assert login.json()["user"]["email"] == email
    api = Api(service, login.json()["access_token"])
    shown = api.get(f"/projects/{project}").json()
    assert (shown["name"], shown["description"], shown["project_type"]) == (name, None, "blank")
    assert shown["created_at"].endswith("Z")
    assert api.get("/projects").json()["items"] == [shown]
    listed = api.get(f"/projects/{project}/sessions").json()["items"]
    assert [(item["id"], item["session_key"], item["title"]) for item in listed] == [
        (session, key, None)
    ]
    messages = api.messages(session)
    assert [(one["role"], one["content"]) for one in messages] == [
        (role, role) for role in ("system", "user", "assistant")
    ]
    for one in messages:
        assert (one["status"], one["usage"], one["images"]) == ("complete", None, [])
    assert api.chat(session, "Hello").status_code == 200
    assert len(api.messages(session)) == 5
    assert api.patch(f"/sessions/{session}", {"title": "ours"}).status_code == 200
    body = api.delete(f"/projects/{project}").json()
    assert body["cleanup"] == {"database_dropped": False, "sessions": 1, "messages": 5}
    assert body["warning"] == f"Database '{name}_db' was already missing"


def test_an_address_in_sql_takes_its_place(service: Service, sql: Sql) -> None:
    """Sign-up sees the row, whatever its spelling."""
    mark = secrets.token_hex(4)
    sql.insert("users", email=f"ADA-{mark}@EXAMPLE.COM", password_hash="x")
    body = {"email": f"ada-{mark}@example.com", "password": PASSWORD}
    check_problem(Api(service).post("/auth/signup", body), 409, "email_taken")


def test_what_the_service_writes_can_be_read_by_sql(service: Service, sql: Sql) -> None:
    """Other programs read the tables too: the columns of the contract hold what the API shows."""
    api = sign_up(service, name="Ada")
    session = api.session(title="first")
    api.chat(session["id"], "Hello")
    user = sql.rows("SELECT id, email, name FROM users WHERE id = %s", api.user["id"])[0]
    assert user == {name: api.user[name] for name in ("id", "email", "name")}
    row = sql.rows(
        "SELECT id, user_id, project_id, session_key, title FROM sessions WHERE id = %s",
        session["id"],
    )[0]
    assert row == {
        **{name: session[name] for name in ("id", "project_id", "session_key", "title")},
        "user_id": user["id"],
    }
    stored = sql.rows(
        "SELECT id, session_id, role, content, status, error, model, prompt_tokens, "
        "completion_tokens FROM messages WHERE session_id = %s ORDER BY id",
        session["id"],
    )
    for row, shown in zip(stored, api.messages(session["id"]), strict=True):
        usage = shown["usage"] or {}
        assert row.pop("prompt_tokens") == usage.get("prompt_tokens")
        assert row.pop("completion_tokens") == usage.get("completion_tokens")
        assert row == {name: shown[name] for name in row}
