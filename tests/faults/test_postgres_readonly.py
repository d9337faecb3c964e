"""PostgreSQL can be read but not written, as after a failover to a standby."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

import pytest

from tests import postgres
from tests.chat.following import wait_until
from tests.faults.load import Users, check_back, check_refused, check_sound, log_in
from tests.service import PASSWORD, Api


def command(server: postgres.Server, *statements: str) -> None:
    """Run statements as the superuser."""
    with closing(server.connect()) as conn, conn.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@contextmanager
def told_so(server: postgres.Server) -> Iterator[None]:
    """An administrator has switched writing off."""
    reload = "SELECT pg_reload_conf()"
    command(server, "ALTER SYSTEM SET default_transaction_read_only = on", reload)
    try:
        yield
    finally:
        allow = "ALTER SYSTEM RESET default_transaction_read_only"
        command(server, allow, reload)


@contextmanager
def standby(server: postgres.Server) -> Iterator[None]:
    """The server comes back as a standby, and is promoted at the end."""
    server.stop()
    (server.data_dir / "standby.signal").touch()
    server.start()
    try:
        yield
    finally:
        command(server, "SELECT pg_promote()")


@pytest.mark.parametrize("read_only", [told_so, standby], ids=["setting", "standby"])
def test_reads_go_on(
    server: postgres.Server,
    api: Api,
    read_only: Callable[[postgres.Server], AbstractContextManager[None]],
) -> None:
    """Reads are 200, writes 503 with a code of their own; a log-in is never a wrong password."""
    session = api.session()
    project = session["project_id"]
    api.chat(session["id"], "Hello")
    with read_only(server):
        wait_until(lambda: api.get("/projects").is_success, 5)
        for path in (
            "/auth/me",
            f"/projects/{project}",
            f"/projects/{project}/database",
            f"/projects/{project}/sessions",
            f"/sessions/{session['id']}/messages",
            "/health",
        ):
            assert api.get(path).status_code == 200, path
        refused = (
            api.patch("/auth/me", {"name": "Ada"}),
            api.post("/projects", {"name": "shop"}),
            api.delete(f"/projects/{project}"),
            api.delete(f"/projects/{project}?force=true"),
            api.post(f"/projects/{project}/sessions", {}),
            api.patch(f"/sessions/{session['id']}", {"title": "new"}),
            api.delete(f"/sessions/{session['id']}"),
            api.chat(session["id"], "Are you there?"),
            api.chat(session["id"], "Are you there?", stream=True),
            api.post("/auth/signup", {"email": "new@example.com", "password": PASSWORD}),
            api.post("/auth/logout"),
            log_in(api),
        )
        for response in refused:
            check_refused(response, "database_readonly")
    check_back(api)
    assert len(api.messages(session["id"])) == 2
    assert api.delete(f"/projects/{project}").status_code == 200
    check_sound(api.service)


def test_switched_under_users(server: postgres.Server, api: Api) -> None:
    """Switched to and fro while people work: 2xx or 503, and nothing lost or stored twice."""
    with Users(api) as users:
        users.wait_for(10, 201)
        for read_only in (told_so, standby):
            with read_only(server):
                users.wait_for(20, 503)
                users.wait_for(20, 200)
            check_back(api)
    users.check()
    check_sound(api.service)
