"""Answers that other processes generate, followed through the database.

One task asks for the news of all that are followed here, in one query. Polling alone is right;
no notification of the database's is needed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
from anyio import CapacityLimiter

import database_adapter
from server.chat import outcome, queries
from server.chat.transcript import Transcript
from server.messages.message import Message
from server.storage.contract import DatabaseError, Row

log = logging.getLogger("clawd.mirrors")

POLL_SECONDS = 0.1


class Mirror(Transcript):
    """A message of another process, as far as the database has it."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        self.row = row
        self.listeners = 0


def replay(row: Row) -> Transcript:
    """A message that has ended already."""
    transcript = Transcript()
    if row["content"]:
        transcript.add_text(row["content"])
    transcript.end(Message.from_row(row, []), outcome.problem_of(row))
    return transcript


class Mirrors:
    """Those of this process."""

    def __init__(self) -> None:
        self._followed: dict[int, Mirror] = {}
        self._task: asyncio.Task[None] | None = None
        self._limiter = CapacityLimiter(1)

    @asynccontextmanager
    async def follow(self, row: Row) -> AsyncIterator[Mirror]:
        """The message's mirror, shared by all who follow it here."""
        message_id = row["id"]
        mirror = self._followed.setdefault(message_id, Mirror(row))
        mirror.listeners += 1
        if self._task is None:
            self._task = asyncio.create_task(self._poll_for_ever(), name="mirrors")
        try:
            yield mirror
        finally:
            mirror.listeners -= 1
            if not mirror.listeners:
                self._followed.pop(message_id, None)

    def leave(self) -> None:
        """Send the listeners away; they come again to another process."""
        for mirror in self._followed.values():
            mirror.leave()

    async def close(self) -> None:
        """Stop asking."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _poll_for_ever(self) -> None:
        while True:
            if self._followed:
                try:
                    await self._poll()
                except DatabaseError as failure:
                    log.debug("no news", extra={"cause": str(failure)})
                except Exception:
                    log.exception("no news")
                    await asyncio.sleep(1)
            await asyncio.sleep(POLL_SECONDS)

    async def _poll(self) -> None:
        here = {key: mirror for key, mirror in self._followed.items() if mirror.final is None}
        places = [(message_id, mirror.length) for message_id, mirror in here.items()]
        if not places:
            return

        def ask() -> tuple[dict[int, Row], dict[int, Row | None]]:
            with database_adapter.read_db() as conn:
                news = {row["id"]: row for row in queries.list_news(conn, places)}
                ended = [k for k in here if k not in news or news[k]["status"] != "streaming"]
                return news, {
                    k: queries.find_answer(conn, here[k].row["user_id"], k) for k in ended
                }

        news, ended = await anyio.to_thread.run_sync(ask, limiter=self._limiter)
        for message_id, row in news.items():
            if row["news"] and message_id not in ended:
                here[message_id].add_text(row["news"])
        for message_id, final in ended.items():
            _end(here[message_id], final)


def _end(mirror: Mirror, row: Row | None) -> None:
    if row is None:
        last = {**mirror.row, "content": mirror.text, "status": "interrupted"}
        mirror.end(Message.from_row(last, []), outcome.gone())
        return
    if rest := row["content"][mirror.length :]:
        mirror.add_text(rest)
    mirror.end(Message.from_row(row, []), outcome.problem_of(row))
