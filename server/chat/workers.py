"""Which processes live: each shows it by a growing number, and watches the others'.

A process that dies leaves messages in status `streaming`. Another one, or the next start, ends
them: at once where it can see that the process is gone, on the same machine, and else when its
number has stood still. Each watcher goes by its own monotonic clock, so the clocks of two machines
need not agree.
"""

import logging
import time
import uuid

import database_adapter
from server.chat import outcome, processes, queries

log = logging.getLogger("clawd.workers")

BEAT_SECONDS = 2.0
DEAD_SECONDS = 10.0


class Worker:
    """This process among those on the same database."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self._process = processes.identity()
        self._seen: dict[str, tuple[int | None, float]] = {}
        self._last_look = float("-inf")

    def beat(self) -> None:
        """Show that this process lives, then look after the others; every `BEAT_SECONDS`."""
        with database_adapter.change_db() as conn:
            queries.beat(conn, self.id, self._process)
        for worker_id, last_beat in self._dead():
            self._bury(worker_id, last_beat)

    def leave(self) -> None:
        """This process ends in order."""
        with database_adapter.change_db() as conn:
            queries.leave(conn, self.id)

    def _dead(self) -> list[tuple[str, int | None]]:
        """Workers that are certainly gone, or whose number stood still for `DEAD_SECONDS`."""
        with database_adapter.read_db() as conn:
            rows = queries.list_workers(conn)
        now = time.monotonic()
        if now - self._last_look > DEAD_SECONDS / 2:
            # While we could not look, e.g. without a database, nobody else could beat either.
            self._seen.clear()
        self._last_look = now
        before, self._seen = self._seen, {}
        dead = []
        for row in rows:
            known = before.get(row["id"])
            if known is None or known[0] != row["beat"]:
                known = (row["beat"], now)
            self._seen[row["id"]] = known
            # A row without a worker was never any process's.
            gone = not row["id"] or processes.is_gone(row["process"])
            if row["id"] != self.id and (gone or now - known[1] > DEAD_SECONDS):
                dead.append((row["id"], row["beat"]))
        return dead

    def _bury(self, worker_id: str, last_beat: int | None) -> None:
        with database_adapter.get_db() as conn:
            ended = queries.bury(conn, worker_id, last_beat, outcome.interrupted().detail)
        if ended is not None:
            log.warning("worker died", extra={"worker": worker_id, "interrupted": ended})
