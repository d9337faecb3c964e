"""Whose turn it is to write to an SQLite file, among the threads of a process and the processes."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from server.storage.contract import Busy

# SQLite's own lock is not fair: whoever writes again at once keeps the others out. A process that
# has written this long without a pause makes one, much longer than the others' POLL_SECONDS.
TURN_SECONDS = 0.1
PAUSE_SECONDS = 0.006
POLL_SECONDS = 0.002
# How long one tries while another process is known to hold the file.
TRY_SECONDS = 0.2


class Writers:
    """One writer of this process at a time, in the order in which they came.

    When a writer has waited in vain for another process's lock, nobody queues up behind it any
    more: one tries, all others are refused at once, until one gets in. Else they would fill every
    thread, and the last would wait for the sum of it all.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._waiting: deque[threading.Condition] = deque()
        self._writing = False
        self._blocked = False
        self._since = 0.0
        self._ended = 0.0

    @contextmanager
    def turn(self) -> Iterator[float]:
        """Be the one who writes; yields the moment, of `time.monotonic`, to give up at.

        Raises `Busy` when the turn doesn't come within the patience.
        """
        deadline = time.monotonic() + self._patience
        with self._lock:
            self._wait()
            self._writing = True
            if self._blocked:
                deadline = min(deadline, time.monotonic() + TRY_SECONDS)
        try:
            self._pause()
            yield deadline
        finally:
            with self._lock:
                self._writing, self._ended = False, time.monotonic()
                if self._waiting:
                    self._waiting[0].notify()

    def got_in(self) -> None:
        """The file let its writer in."""
        self._blocked = False

    def gave_up(self) -> None:
        """Another process held the file for all of its writer's patience."""
        with self._lock:
            self._blocked = True
            for waiting in self._waiting:
                waiting.notify()

    def _wait(self) -> None:
        mine = threading.Condition(self._lock)
        self._waiting.append(mine)
        try:
            mine.wait_for(lambda: self._blocked or self._may_write(mine), self._patience)
            if not self._may_write(mine):
                raise Busy(f"the database was being written for {self._patience:g} s")
        finally:
            self._waiting.remove(mine)

    def _may_write(self, mine: threading.Condition) -> bool:
        return not self._writing and self._waiting[0] is mine

    def _pause(self) -> None:
        """Leave the file to others for a moment, now and then."""
        now = time.monotonic()
        if now - self._ended > PAUSE_SECONDS:
            self._since = now
        elif now - self._since > TURN_SECONDS:
            time.sleep(PAUSE_SECONDS)
            self._since = time.monotonic()
