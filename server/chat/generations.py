"""Answers being generated: tasks of the service, which requests only listen to."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter

import database_adapter
from server.chat import request
from server.chat.gateway import Gateway
from server.chat.turns import Turn
from server.errors import Problem
from server.messages import queries
from server.messages.message import Message
from server.settings import Settings
from server.storage.contract import DatabaseError

log = logging.getLogger("clawd.chat")

SAVE_SECONDS = 0.2
SAVE_CHARACTERS = 1500


class Generation:
    """One answer, from the row in status `streaming` to its end.

    Listeners hold only a place in it: a slow one costs nothing and slows nobody.
    """

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.id: int = turn.assistant["id"]
        self.problem: Problem | None = None
        self.usage: tuple[int, int] | None = None
        self.final: Message | None = None
        self.saved = 0
        self.length = 0
        self._pieces: list[str] = []
        self._news = asyncio.Event()

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._pieces)

    def add_text(self, text: str) -> None:
        """Take the next piece from the gateway."""
        self._pieces.append(text)
        self.length += len(text)
        self._wake()

    def set_usage(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Take the tokens that the gateway counted."""
        self.usage = (prompt_tokens, completion_tokens)

    def end(self, status: str) -> None:
        """Fix the message as it is stored now and tell the listeners."""
        usage = self.usage or (None, None)
        row = {
            **self.turn.assistant,
            "content": self.text,
            "status": status,
            "error": self.problem.detail if self.problem else None,
            "prompt_tokens": usage[0],
            "completion_tokens": usage[1],
        }
        self.final = Message.from_row(row, [])
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def finished(self) -> Message:
        """Wait for the end."""
        while self.final is None:
            await self._news.wait()
        return self.final

    async def deltas(self, heartbeat: float) -> AsyncIterator[tuple[int, str]]:
        """Pieces with the number of characters up to their end; empty ones as heartbeats."""
        seen = place = 0
        while True:
            news = self._news
            if seen < len(self._pieces):
                text = "".join(self._pieces[seen:])
                seen = len(self._pieces)
                place += len(text)
                yield place, text
            elif self.final is not None:
                return
            else:
                try:
                    async with asyncio.timeout(heartbeat):
                        await news.wait()
                except TimeoutError:
                    yield place, ""


class Generations:
    """Those of this process, with the one task that saves their progress."""

    def __init__(self, gateway: Gateway, settings: Settings) -> None:
        self.gateway = gateway
        self._settings = settings
        self._running: dict[int, Generation] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._saver: asyncio.Task[None] | None = None
        self._much = asyncio.Event()
        # Requests that wait for the database must not keep answers from being saved.
        self._limiter = CapacityLimiter(4)

    @property
    def count(self) -> int:
        """How many answers are being generated here."""
        return len(self._running)

    def open(self) -> None:
        """Begin to save."""
        self._saver = asyncio.create_task(self._save_for_ever(), name="saver")

    async def close(self) -> None:
        """Break off what still runs, save it as interrupted, and end."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._saver is not None:
            self._saver.cancel()
            with suppress(asyncio.CancelledError):
                await self._saver
        await self.gateway.close()

    def start(self, turn: Turn, *, stream: bool) -> Generation:
        """Ask the gateway, in a task of its own."""
        generation = Generation(turn)
        body = request.build(self._settings, turn.session_key, turn.said, stream=stream)
        self._running[generation.id] = generation
        self._tasks[generation.id] = asyncio.create_task(
            self._run(generation, body), name=f"generation-{generation.id}"
        )
        return generation

    async def _run(self, generation: Generation, body: dict[str, Any]) -> None:
        status = "complete"
        try:
            await self.gateway.answer(body, generation)
        except Problem as problem:
            status = _broken(generation, problem)
        except asyncio.CancelledError:
            status = _broken(generation, _interrupted())
        except Exception:
            log.exception("generation failed", extra={"message_id": generation.id})
            status = _broken(generation, Problem())
        try:
            await self._finish(generation, status)
        finally:
            generation.end(status)
            del self._running[generation.id], self._tasks[generation.id]

    async def _finish(self, generation: Generation, status: str) -> None:
        message_id, user_id, usage = generation.id, generation.turn.user_id, generation.usage
        error = generation.problem.detail if generation.problem else None

        def finish() -> bool:
            with database_adapter.get_db() as conn:
                return queries.finish(
                    conn, user_id, message_id, status, generation.text, error, usage
                )

        try:
            stored = await anyio.to_thread.run_sync(finish, limiter=self._limiter)
        except DatabaseError as failure:
            log.error("answer not saved", extra={"message_id": message_id, "cause": str(failure)})
            return
        log.info(
            "generation ended",
            extra={
                "message_id": message_id,
                "outcome": status if stored else "gone",
                "characters": generation.length,
            },
        )

    async def _save_for_ever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SAVE_SECONDS):
                    await self._much.wait()
            self._much.clear()
            changed = [g for g in self._running.values() if g.length > g.saved]
            if changed:
                await self._save(changed)

    async def _save(self, changed: list[Generation]) -> None:
        texts = [(generation.id, generation.text) for generation in changed]

        def save() -> set[int]:
            with database_adapter.get_db() as conn:
                return queries.save_progress(conn, texts)

        try:
            streaming = await anyio.to_thread.run_sync(save, limiter=self._limiter)
        except DatabaseError as failure:
            # The text stays in memory; the next round tries again.
            log.warning("progress not saved", extra={"cause": str(failure)})
            return
        for generation, (_, text) in zip(changed, texts, strict=True):
            generation.saved = len(text)
            if generation.id not in streaming and generation.id in self._tasks:
                # Its session or project was deleted.
                self._tasks[generation.id].cancel()


def _broken(generation: Generation, problem: Problem) -> str:
    """The status of an answer that did not come to its end."""
    generation.problem = problem
    return "interrupted" if generation.length else "failed"


def _interrupted() -> Problem:
    problem = Problem("The answer was broken off.", code="interrupted")
    problem.status = 503
    return problem
