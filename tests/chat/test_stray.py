"""Rows that stream while nobody generates them."""

import threading
import time

import pytest

from server.storage.breaker import PAUSE_SECONDS, Breaker
from server.storage.contract import Busy, Unavailable
from server.storage.pool import Pool, urgent
from tests.chat.following import wait_until
from tests.service import Api
from tests.sql import Sql


def test_a_row_of_a_living_process_that_it_does_not_know(api: Api) -> None:
    """After a commit in doubt the row is there and no generation is: the session must not stay
    busy for as long as the process lives."""
    sql = Sql(api.service.settings)
    session = api.session()
    worker = sql.rows("SELECT id FROM workers ORDER BY beat DESC")[0]["id"]
    sql.insert(
        "messages",
        user_id=api.user["id"],
        session_id=session["id"],
        role="assistant",
        status="streaming",
        worker_id=worker,
    )
    assert api.chat(session["id"], "Hello").status_code == 409
    wait_until(lambda: api.messages(session["id"])[0]["status"] == "interrupted", 12)
    assert api.chat(session["id"], "Hello").status_code == 200


def test_urgent_callers_go_first() -> None:
    """A process that is busy must still be able to show that it lives."""
    pool = Pool(object, lambda _: True, lambda _: None, minimum=1, maximum=1, wait=5)
    order: list[str] = []

    def use(name: str, first: bool) -> None:
        urgent.set(first)
        conn = pool.acquire()
        order.append(name)
        time.sleep(0.05)
        pool.release(conn, healthy=True)

    held = pool.acquire()
    threads = [threading.Thread(target=use, args=(f"request {i}", False)) for i in range(3)]
    threads.append(threading.Thread(target=use, args=("urgent", True)))
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    pool.release(held, healthy=True)
    for thread in threads:
        thread.join()
    assert order[0] == "urgent"
    assert sorted(order[1:]) == ["request 0", "request 1", "request 2"]
    pool.acquire()
    with pytest.raises(Busy):
        pool.acquire(wait=0.05)


def test_the_breaker_lets_one_try() -> None:
    """While the server hangs all but one are refused at once; its answer lets all in again."""
    breaker = Breaker()
    assert breaker.check() is False
    breaker.failed()
    with pytest.raises(Unavailable):
        breaker.check()
    with pytest.raises(Unavailable):
        breaker.check_again()
    time.sleep(PAUSE_SECONDS + 0.05)
    assert breaker.check() is True
    with pytest.raises(Unavailable):
        breaker.check()
    breaker.answered()
    assert breaker.check() is False
    breaker.check_again()
