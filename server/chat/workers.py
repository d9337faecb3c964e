"""Which processes live: each shows it by a growing number, and watches the others'.

A process that dies leaves messages in status `streaming`. Another one, or the next start, sees
its number stand still and ends them. Each watcher goes by its own monotonic clock, so the clocks
of two machines need not agree.
"""

import logging
import time
import uuid

import database_adapter
from server.chat import outcome, queries

log = logging.getLogger("clawd.workers")

BEAT_SECONDS = 2.0
DEAD_SECONDS = 10.0


class Worker:
    """This process among those on the same database."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self._seen: dict[str, tuple[int | None, float]] = {}
        self._last_look = float("-inf")

    def beat(self) -> None:
        """Show that this process lives, then look after the others; every `BEAT_SECONDS`."""
        with database_adapter.get_db() as conn:
            queries.beat(conn, self.id)
        for worker_id, last_beat in self._dead():
            self._bury(worker_id, last_beat)

    def leave(self) -> None:
        """This process ends in order."""
        with database_adapter.get_db() as conn:
            queries.leave(conn, self.id)

    def _dead(self) -> list[tuple[str, int | None]]:
        """Workers whose number has stood still for `DEAD_SECONDS`."""
        with database_adapter.read_db() as conn:
            rows = queries.list_workers(conn)
        now = time.monotonic()
        if now - self._last_look > DEAD_SECONDS / 2:
            # While we could not look, e.g. without a database, nobody else could beat either.
            self._seen.clear()
        self._last_look = now
        before, self._seen = self._seen, {}
        for row in rows:
            known = before.get(row["id"])
            same = known is not None and known[0] == row["beat"]
            self._seen[row["id"]] = known if known is not None and same else (row["beat"], now)
        return [
            (worker_id, last_beat)
            for worker_id, (last_beat, since) in self._seen.items()
            if now - since > DEAD_SECONDS and worker_id != self.id
        ]

    def _bury(self, worker_id: str, last_beat: int | None) -> None:
        with database_adapter.get_db() as conn:
            ended = queries.bury(conn, worker_id, last_beat, outcome.interrupted().detail)
        if ended is not None:
            log.warning("worker died", extra={"worker": worker_id, "interrupted": ended})
