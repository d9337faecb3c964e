"""Somebody else's locks in PostgreSQL: one that stays, and two that wait for each other."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from tests import postgres
from tests.chat.following import wait_until
from tests.faults.load import (
    REFUSED_SECONDS,
    check_back,
    check_refused,
    check_sound,
)
from tests.service import Api
from tests.sql import Sql

WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def test_a_table_is_locked(server: postgres.Server, api: Api) -> None:
    """As by a dump or a change of tables: 503 within 4 s for what needs it, all else goes on."""
    session = api.session()
    other = api.session(session["project_id"])
    master = api.service.settings["DB_NAME"]
    with closing(server.connect(master)) as conn, conn.cursor() as cursor:
        conn.autocommit = False
        cursor.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
        with ThreadPoolExecutor(3) as pool:
            started = time.monotonic()
            asked = [
                pool.submit(api.get, f"/sessions/{session['id']}/messages"),
                pool.submit(api.chat, session["id"], "Hello"),
                pool.submit(api.chat, other["id"], "Hello", stream=True),
            ]
            for _ in range(10):
                assert api.get("/projects").status_code == 200
                assert api.get("/health", timeout=2).status_code == 200
            for future in asked:
                check_refused(future.result(), "database_busy")
            assert time.monotonic() - started < REFUSED_SECONDS
        conn.rollback()
    check_back(api)
    assert api.chat(session["id"], "Hello").status_code == 200
    assert len(api.messages(session["id"])) == 2
    check_sound(api.service)


def test_a_deadlock(server: postgres.Server, api: Api) -> None:
    """Of two that wait for each other PostgreSQL ends ours: 503, and nothing half done."""
    session = api.session()
    sql = Sql(api.service.settings)
    with closing(server.connect(sql.master)) as conn, conn.cursor() as cursor:
        cursor.execute("SET deadlock_timeout = '60s'")  # so that the other one isn't ended
        conn.autocommit = False
        cursor.execute("LOCK TABLE messages IN EXCLUSIVE MODE")
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(api.chat, session["id"], "Hello")
            wait_until(lambda: sql.value(WAITING) == 1)
            cursor.execute("UPDATE sessions SET title = 'x' WHERE id = %s", (session["id"],))
            check_refused(asked.result(), "database_busy")
        conn.commit()
    assert sql.value("SELECT deadlocks FROM pg_stat_database WHERE datname = %s", sql.master) == 1
    assert api.get(f"/sessions/{session['id']}").json()["title"] == "x"
    assert api.messages(session["id"]) == []
    check_back(api)
    assert api.chat(session["id"], "Hello").status_code == 200
    check_sound(api.service)
