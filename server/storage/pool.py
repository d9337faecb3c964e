"""A pool of connections that waits with a deadline, keeps what it opened, replaces the dead.

psycopg2's own pool raises at once when it is full, closes every connection above its minimum
when it comes back, connects while it holds its lock, and loses a place for ever when a rollback
meets a dead server. Hence this one.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Generic, TypeVar

from server.storage.contract import Busy

C = TypeVar("C")

# Whoever must not wait behind requests, such as a process that shows that it lives, sets this.
urgent: ContextVar[bool] = ContextVar("urgent", default=False)


class Pool(Generic[C]):
    """At most `maximum` connections made by `connect`, lent one at a time.

    `usable` says at hand-out, without a round trip, whether an idle connection still lives.
    Connections above `minimum` that stay idle for `idle_seconds` are closed.
    """

    def __init__(
        self,
        connect: Callable[[], C],
        usable: Callable[[C], bool],
        close: Callable[[C], None],
        *,
        minimum: int,
        maximum: int,
        wait: float,
        idle_seconds: float = 300,
    ) -> None:
        self._connect = connect
        self._usable = usable
        self._close = close
        self._minimum = minimum
        self._maximum = maximum
        self._wait = wait
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._idle: deque[tuple[C, float]] = deque()  # the most recently used at the right
        self._in_use = 0
        self._waiting = 0
        self._urgent_waiting = 0
        self._closed = False

    def acquire(self, wait: float | None = None) -> C:
        """Borrow a connection; `release` must follow.

        Raises `Busy` when none comes free within `wait` seconds, at once when too many wait.
        """
        self._take_place(self._wait if wait is None else wait)
        try:
            return self._newest_idle() or self._connect()
        except BaseException:
            self._leave_place()
            raise

    def release(self, conn: C, healthy: bool) -> None:
        """Give a connection back; one that isn't healthy is closed."""
        surplus = []
        now = time.monotonic()
        with self._lock:
            if healthy and not self._closed:
                self._idle.append((conn, now))
            else:
                surplus.append(conn)
            while len(self._idle) > self._minimum and self._idle[0][1] < now - self._idle_seconds:
                surplus.append(self._idle.popleft()[0])
        self._leave_place()
        for extra in surplus:
            self._close(extra)

    def stats(self) -> dict[str, int]:
        """The numbers of this moment."""
        with self._lock:
            return {
                "size": self._in_use + len(self._idle),
                "in_use": self._in_use,
                "idle": len(self._idle),
                "waiting": self._waiting,
                "max": self._maximum,
            }

    def close(self) -> None:
        """Close the idle connections now, those in use when they come back."""
        with self._lock:
            self._closed = True
            idle = [conn for conn, _ in self._idle]
            self._idle.clear()
        for conn in idle:
            self._close(conn)

    def _take_place(self, wait: float) -> None:
        first = urgent.get()
        with self._lock:
            # Whoever would stand behind four full pools has no chance within the deadline.
            if self._waiting >= 4 * self._maximum and not first:
                raise Busy("too many requests wait for a database connection")
            self._waiting += 1
            self._urgent_waiting += first
            try:
                if not self._freed.wait_for(lambda: self._may_enter(first), wait):
                    raise Busy(f"no database connection came free within {wait:g} s")
                self._in_use += 1
            finally:
                self._waiting -= 1
                self._urgent_waiting -= first
                self._freed.notify_all()

    def _may_enter(self, first: bool) -> bool:
        return self._in_use < self._maximum and (first or not self._urgent_waiting)

    def _newest_idle(self) -> C | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                conn, _ = self._idle.pop()
            if self._usable(conn):
                return conn
            self._close(conn)

    def _leave_place(self) -> None:
        with self._lock:
            self._in_use -= 1
            self._freed.notify_all()
