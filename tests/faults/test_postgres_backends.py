"""PostgreSQL's processes for us are ended one by one, in order or by force."""

import os
import signal
from contextlib import closing

import psycopg2

from tests import postgres
from tests.chat.following import wait_until
from tests.faults.load import Users, check_back, check_sound
from tests.parallel import at_once
from tests.service import Api

OURS = "FROM pg_stat_activity WHERE application_name = 'clawd-backend'"


def test_terminated_in_a_loop(server: postgres.Server, api: Api) -> None:
    """While 20 clients work their connections are ended over and over: no place of the pool leaks.

    psycopg2's pool loses a place for ever when the rollback meets a dead server, until every
    request is told that the pool is exhausted, with no connection in use.
    """
    with Users(api, 20) as users, closing(server.connect()) as conn, conn.cursor() as cursor:
        for _ in range(20):
            users.wait_for(3, 201)
            cursor.execute(f"SELECT pg_terminate_backend(pid) {OURS}")
    users.check()
    assert users.statuses[503] > 0, "none was hit"
    check_back(api)
    answers = at_once([lambda: Api(api.service, api.token).http.get("/projects")] * 20)
    assert {answer.status_code for answer in answers} == {200}
    check_sound(api.service)


def takes_connections(server: postgres.Server) -> bool:
    """Whether it has recovered."""
    try:
        server.connect().close()
    except psycopg2.OperationalError:
        return False
    return True


def test_one_is_killed(server: postgres.Server, api: Api) -> None:
    """kill -9 of one backend makes PostgreSQL end all and recover: 503 for a moment, no more."""
    with Users(api) as users:
        for _ in range(2):
            users.wait_for(20, 201)
            with closing(server.connect()) as conn, conn.cursor() as cursor:
                cursor.execute(f"SELECT pid {OURS} ORDER BY backend_start LIMIT 1")
                found = cursor.fetchone()
            assert found is not None
            os.kill(found[0], signal.SIGKILL)
            users.wait_for(1, 503)
            wait_until(lambda: takes_connections(server))
            check_back(api)
    users.check()
    check_sound(api.service)
