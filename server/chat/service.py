"""The chat of this process: answers generated here, and those followed from elsewhere."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from fastapi.concurrency import run_in_threadpool

import database_adapter
from server.chat import events, queries, turns
from server.chat.gateway import Gateway
from server.chat.generations import Generation, Generations
from server.chat.mirrors import Mirrors, replay
from server.chat.turns import Replay
from server.errors import NotFound, Overloaded, Problem
from server.messages.message import Message
from server.settings import Settings
from server.storage.contract import Connection, Row

# A process that lives ends its answer well within this; one that doesn't is not waited for.
STOP_SECONDS = 0.8
POLL_SECONDS = 0.05


class Chat:
    """What the routes of the chat call."""

    def __init__(self, gateway: Gateway, settings: Settings) -> None:
        self.generations = Generations(gateway, settings)
        self.mirrors = Mirrors()

    def drain(self) -> None:
        """Let what runs come to its end, and what open connections still bring."""
        self.generations.draining = True

    def interrupt(self) -> None:
        """Break off every answer and send every listener away."""
        self.generations.interrupt()
        self.mirrors.leave()

    async def close(self) -> None:
        """Save what runs as interrupted, and end."""
        self.interrupt()
        await self.generations.close()
        await self.mirrors.close()

    def tell_again(self, asked: Message, row: Row) -> AsyncIterator[bytes]:
        """The events of a turn that was taken before."""
        return events.listen(replay(row), row, asked, None)

    def listen(self, generation: Generation) -> AsyncIterator[bytes]:
        """The events of a turn that has just begun."""
        turn = generation.turn
        return events.listen(generation, turn.assistant, turn.user_message, None)

    async def follow(self, row: Row, last_event_id: int | None) -> AsyncIterator[bytes]:
        """The events of an answer, wherever it is generated."""
        asked = None
        if last_event_id is None:
            asked = await run_in_threadpool(turns.find_asked, row["user_id"], row)
        generation = self.generations.find(row["id"])
        if generation is not None:
            return events.listen(generation, row, asked, last_event_id)
        if row["status"] != "streaming":
            return events.listen(replay(row), row, asked, last_event_id)
        return self._mirrored(row, asked, last_event_id)

    async def _mirrored(
        self, row: Row, asked: Message | None, last_event_id: int | None
    ) -> AsyncIterator[bytes]:
        async with self.mirrors.follow(row) as mirror:
            async for event in events.listen(mirror, row, asked, last_event_id):
                yield event

    async def stop(self, user_id: int, message_id: int) -> Message:
        """End an answer, wherever it is generated; the message afterwards."""
        row = await self.find(user_id, message_id)
        generation = self.generations.find(message_id)
        if generation is not None:
            generation.cancel("stopped")
            try:
                async with asyncio.timeout(5):
                    return await generation.finished()
            except TimeoutError:
                raise Overloaded("The answer is stopped but not saved yet.") from None
        if row["status"] == "streaming":
            await run_in_threadpool(_change, queries.request_stop, user_id, message_id)
            row = await self._wait_for_end(user_id, message_id)
        return Message.from_row(row, [])

    async def _wait_for_end(self, user_id: int, message_id: int) -> Row:
        deadline = time.monotonic() + STOP_SECONDS
        while (row := await self.find(user_id, message_id))["status"] == "streaming":
            if time.monotonic() > deadline:
                await run_in_threadpool(_change, queries.stop_without_worker, user_id, message_id)
            await asyncio.sleep(POLL_SECONDS)
        return row

    async def find(self, user_id: int, message_id: int) -> Row:
        """The user's message; raises `NotFound`."""
        row = await run_in_threadpool(_find, user_id, message_id)
        if row is None:
            raise NotFound()
        return {**row, "user_id": user_id}

    async def find_turn(self, user_id: int, replayed: Replay) -> tuple[Message, Row]:
        """The messages of a turn that was taken before."""
        found = await run_in_threadpool(turns.find_messages, user_id, replayed)
        if found is None:
            raise NotFound()
        return found


def located(problem: Problem, asked: Message, answer: Message) -> Problem:
    """The problem with the ids of the messages that were stored all the same."""
    problem.members |= {
        "session_id": answer.session_id,
        "message_id": answer.id,
        "user_message_id": asked.id,
    }
    return problem


def _find(user_id: int, message_id: int) -> Row | None:
    with database_adapter.read_db() as conn:
        return queries.find_answer(conn, user_id, message_id)


def _change(query: Callable[[Connection, int, int], None], user_id: int, message_id: int) -> None:
    with database_adapter.change_db() as conn:
        query(conn, user_id, message_id)
