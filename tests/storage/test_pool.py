"""The pool lends what lives, waits with a deadline, and never loses a place."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import pytest

from server.storage.contract import Busy
from server.storage.pool import Pool


@dataclass(eq=False)
class Line:
    """A connection to nowhere that says what was done to it."""

    alive: bool = True
    closed: bool = False


@dataclass
class Exchange:
    """Makes the connections of a pool, as long as it isn't told to fail."""

    made: list[Line] = field(default_factory=list)
    fails: bool = False
    slow: float = 0

    def connect(self) -> Line:
        time.sleep(self.slow)
        if self.fails:
            raise ConnectionError
        line = Line()
        self.made.append(line)
        return line

    def pool(
        self, minimum: int = 1, maximum: int = 3, wait: float = 0.05, idle: float = 300
    ) -> Pool[Line]:
        return Pool(
            self.connect,
            usable=lambda line: line.alive,
            close=lambda line: setattr(line, "closed", True),
            minimum=minimum,
            maximum=maximum,
            wait=wait,
            idle_seconds=idle,
        )


@pytest.fixture
def exchange() -> Exchange:
    """Where the pools of a test get their connections."""
    return Exchange()


def test_connections_are_kept_up_to_the_maximum(exchange: Exchange) -> None:
    """What was opened under load stays open for the next load.

    psycopg2's pool closed every returned connection above its minimum: with 5 to 20 and more
    than five at work it reconnected all the time, a quarter of the speed.
    """
    pool = exchange.pool(minimum=1, maximum=3)
    for _ in range(3):
        for line in [pool.acquire() for _ in range(3)]:
            pool.release(line, healthy=True)
    assert len(exchange.made) == 3
    assert pool.stats() == {"size": 3, "in_use": 0, "idle": 3, "waiting": 0, "max": 3}


def test_nothing_is_opened_before_it_is_needed(exchange: Exchange) -> None:
    """A pool connects to nothing when it is made, and one caller needs one connection."""
    pool = exchange.pool(minimum=3)
    assert exchange.made == []
    for _ in range(5):
        pool.release(pool.acquire(), healthy=True)
    assert len(exchange.made) == 1


def test_the_most_recently_used_goes_first(exchange: Exchange) -> None:
    """So that the others grow old and can be closed."""
    pool = exchange.pool()
    first, second = pool.acquire(), pool.acquire()
    pool.release(first, healthy=True)
    pool.release(second, healthy=True)
    assert pool.acquire() is second


def test_idle_connections_are_closed_down_to_the_minimum(exchange: Exchange) -> None:
    """After a burst the server gets its connections back, but for the minimum."""
    pool = exchange.pool(minimum=2, maximum=5, idle=0.05)
    for line in [pool.acquire() for _ in range(5)]:
        pool.release(line, healthy=True)
    assert pool.stats()["idle"] == 5
    time.sleep(0.1)
    pool.release(pool.acquire(), healthy=True)
    assert pool.stats()["idle"] == 2
    assert [line.closed for line in exchange.made].count(True) == 3


def test_a_young_idle_connection_stays(exchange: Exchange) -> None:
    """Above the minimum too, until its time is over."""
    pool = exchange.pool(minimum=1, maximum=3, idle=300)
    for line in [pool.acquire() for _ in range(3)]:
        pool.release(line, healthy=True)
    pool.release(pool.acquire(), healthy=True)
    assert not any(line.closed for line in exchange.made)


def test_the_dead_are_replaced(exchange: Exchange) -> None:
    """A connection that died while idle is closed, never lent; all of them at once as well."""
    pool = exchange.pool()
    for line in [pool.acquire() for _ in range(3)]:
        pool.release(line, healthy=True)
    for line in exchange.made:
        line.alive = False
    fresh = pool.acquire()
    assert fresh.alive
    assert [line.closed for line in exchange.made] == [True, True, True, False]
    assert pool.stats()["in_use"] == 1


def test_an_unhealthy_connection_is_closed_and_its_place_is_free(exchange: Exchange) -> None:
    """Given back as broken, it is gone, and somebody else may open another."""
    pool = exchange.pool(maximum=1)
    for _ in range(50):
        pool.release(pool.acquire(), healthy=False)
    assert all(line.closed for line in exchange.made)
    assert pool.stats() == {"size": 0, "in_use": 0, "idle": 0, "waiting": 0, "max": 1}


def test_a_failure_to_connect_costs_no_place(exchange: Exchange) -> None:
    """While the server is away every attempt fails; when it is back all places are there.

    psycopg2's pool lost a place for ever with every rollback on a dead connection.
    """
    pool = exchange.pool(maximum=2)
    exchange.fails = True
    for _ in range(20):
        with pytest.raises(ConnectionError):
            pool.acquire()
    exchange.fails = False
    lines = [pool.acquire(), pool.acquire()]
    assert len(set(map(id, lines))) == 2
    assert pool.stats()["in_use"] == 2


def test_a_full_pool_waits_as_long_as_it_was_told(exchange: Exchange) -> None:
    """`Busy` after the pool's wait, or after the caller's own; not sooner, not much later."""
    pool = exchange.pool(maximum=1, wait=0.2)
    held = pool.acquire()
    for wait, seconds in ((None, 0.2), (0.05, 0.05), (0, 0)):
        started = time.monotonic()
        with pytest.raises(Busy):
            pool.acquire(wait)
        assert seconds <= time.monotonic() - started < seconds + 0.15
    pool.release(held, healthy=True)
    assert pool.acquire() is held


def test_who_waits_gets_what_comes_free(exchange: Exchange) -> None:
    """A waiter is served as soon as a connection is given back, healthy or not."""
    for healthy in (True, False):
        pool = exchange.pool(maximum=1, wait=5)
        held = pool.acquire()
        with ThreadPoolExecutor(1) as threads:
            waiter = threads.submit(pool.acquire)
            while pool.stats()["waiting"] == 0:
                time.sleep(0.001)
            pool.release(held, healthy)
            assert (waiter.result(timeout=1) is held) == healthy
        assert pool.stats()["waiting"] == 0


def test_a_queue_without_hope_is_refused_at_once(exchange: Exchange) -> None:
    """Behind four full pools of waiters nobody has a chance: told now, not at the deadline."""
    pool = exchange.pool(maximum=1, wait=2)
    held = pool.acquire()
    with ThreadPoolExecutor(4) as threads:
        waiters = [threads.submit(pool.acquire) for _ in range(4)]
        while pool.stats()["waiting"] < 4:
            time.sleep(0.001)
        started = time.monotonic()
        with pytest.raises(Busy, match="too many"):
            pool.acquire()
        assert time.monotonic() - started < 0.2
        pool.release(held, healthy=True)
        for done in as_completed(waiters):
            pool.release(done.result(), healthy=True)
    assert pool.stats() == {"size": 1, "in_use": 0, "idle": 1, "waiting": 0, "max": 1}


def test_connecting_holds_nobody_up(exchange: Exchange) -> None:
    """While one connects slowly, another gives back and a third looks at the numbers.

    psycopg2's pool connects while it holds its lock: giving back took 2.8 s.
    """
    pool = exchange.pool(maximum=3)
    held = pool.acquire()
    exchange.slow = 1.0
    with ThreadPoolExecutor(1) as threads:
        started = time.monotonic()
        connecting = threads.submit(pool.acquire)
        while pool.stats()["in_use"] < 2:
            time.sleep(0.001)
        pool.release(held, healthy=True)
        assert pool.stats()["idle"] == 1
        assert time.monotonic() - started < 0.6
        connecting.result()


def test_closing_closes_idle_ones_now_and_others_when_they_return(exchange: Exchange) -> None:
    """Work under way may finish; nothing is open afterwards."""
    pool = exchange.pool()
    busy, idle = pool.acquire(), pool.acquire()
    pool.release(idle, healthy=True)
    pool.close()
    assert (idle.closed, busy.closed) == (True, False)
    pool.release(busy, healthy=True)
    assert busy.closed
    pool.close()
    assert pool.stats()["size"] == 0


def test_never_one_connection_for_two(exchange: Exchange) -> None:
    """Under threads that take, fail and give back, each connection has one holder at a time."""
    pool = exchange.pool(maximum=4, wait=10)
    held: set[int] = set()
    lock = threading.Lock()

    def work(number: int) -> None:
        for turn in range(100):
            line = pool.acquire()
            with lock:
                assert id(line) not in held
                assert len(held) < 4
                held.add(id(line))
            with lock:
                held.remove(id(line))
            pool.release(line, healthy=(number + turn) % 7 > 0)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    stats = pool.stats()
    assert (stats["in_use"], stats["waiting"]) == (0, 0)
    assert stats["size"] <= 4
    assert sum(not line.closed for line in exchange.made) == stats["idle"]
