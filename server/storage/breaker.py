"""Refuses at once while the database hangs, so that requests don't queue up behind its deadline."""

import threading
import time

from server.storage.contract import Unavailable

PAUSE_SECONDS = 0.5


class Breaker:
    """Closed while all is well; opened by a hang; closed again by the first answer.

    While it is open one caller at a time, every `PAUSE_SECONDS`, may try; all others are refused.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = False
        self._trying = False
        self._next_try = 0.0

    def check(self) -> bool:
        """True for the caller who must try, and then say how it went; False for all is well.

        Raises `Unavailable` for everybody else.
        """
        with self._lock:
            if not self._open:
                return False
            if self._trying or time.monotonic() < self._next_try:
                raise Unavailable("the database server does not answer")
            self._trying = True
            return True

    def check_again(self) -> None:
        """Raises `Unavailable` when it was opened since."""
        with self._lock:
            if self._open:
                raise Unavailable("the database server does not answer")

    def failed(self) -> None:
        """There was no answer within the deadline."""
        with self._lock:
            self._open, self._trying = True, False
            self._next_try = time.monotonic() + PAUSE_SECONDS

    def answered(self) -> None:
        """There was an answer."""
        with self._lock:
            self._open = self._trying = False
