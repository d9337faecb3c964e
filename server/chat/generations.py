"""Answers being generated: tasks of the service, which requests only listen to."""

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

import database_adapter
from server import metrics
from server.chat import outcome, queries, request
from server.chat.gateway import Gateway
from server.chat.transcript import Transcript
from server.chat.turns import InDoubt, Replay, Turn, Wanted, begin
from server.chat.workers import BEAT_SECONDS, Worker
from server.errors import Overloaded, Problem
from server.messages.message import Message
from server.messages.queries import Generator
from server.settings import Settings
from server.storage.contract import DatabaseError, Row
from server.storage.pool import urgent

log = logging.getLogger("clawd.chat")
T = TypeVar("T")

SAVE_SECONDS = 0.2
SAVE_CHARACTERS = 1000
# How long a finished answer waits for a database that went away.
KEEP_SECONDS = 60.0
# While the process ends there is less time: pauses up to this one.
DRAINING_PAUSE = 1.0
CLOSE_SECONDS = 5.0

Reason = Literal["stopped", "interrupted", "gone"]


class Generation(Transcript):
    """One answer that this process generates, from the row in status `streaming` to its end."""

    def __init__(self, turn: Turn, much: Callable[[], None], *, stream: bool) -> None:
        super().__init__()
        self.turn = turn
        self.stream = stream
        self.begun = time.monotonic()
        self.id: int = turn.assistant["id"]
        self.usage: tuple[int, int] | None = None
        self.saved = 0
        self.reason: Reason | None = None
        self.asking: asyncio.Task[None] | None = None
        self._much = much

    def add_text(self, text: str) -> None:
        """Take the next piece from the gateway."""
        if not self.length and text:
            metrics.first_token(time.monotonic() - self.begun, stream=self.stream)
        super().add_text(text)
        if self.length - self.saved > SAVE_CHARACTERS:
            self._much()

    def set_usage(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Take the tokens that the gateway counted."""
        self.usage = (prompt_tokens, completion_tokens)

    def cancel(self, reason: Reason) -> None:
        """Close the connection to the gateway; what has come is kept."""
        if self.asking is not None and not self.asking.done() and self.reason is None:
            self.reason = reason
            self.asking.cancel()

    def message(self, status: str) -> Message:
        """The answer as it is stored when it ends with this status."""
        usage = self.usage or (None, None)
        row = {
            **self.turn.assistant,
            "content": self.text,
            "status": status,
            "error": self.problem.detail if self.problem else None,
            "prompt_tokens": usage[0],
            "completion_tokens": usage[1],
        }
        return Message.from_row(row, [])


class Generations:
    """Those of this process, with the tasks that save their progress and show that it lives."""

    def __init__(self, gateway: Gateway, settings: Settings) -> None:
        self.gateway = gateway
        self.draining = False
        self._over = False
        self._settings = settings
        self._worker = Worker()
        self._running: dict[int, Generation] = {}
        self._unsaved: dict[int, Generation] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._much = asyncio.Event()
        self._strays: set[int] = set()
        self._doubtful: dict[int, tuple[Turn, bool, float]] = {}
        # Threads that requests can't use up; `urgent` does the same for the connections.
        self._limiter = CapacityLimiter(4)
        self._pulse = CapacityLimiter(1)
        metrics.RUNNING.set_function(lambda: self.count)

    @property
    def count(self) -> int:
        """How many answers are being generated here."""
        return len(self._running)

    def find(self, message_id: int) -> Generation | None:
        """The generation of a message, if it is here."""
        return self._running.get(message_id)

    async def open(self) -> None:
        """End what dead processes left; begin to save and to show that this one lives."""
        with suppress(DatabaseError):
            await _urgently(self._worker.beat, self._pulse)
        self._loops = [
            asyncio.create_task(self._save_for_ever(), name="saver"),
            asyncio.create_task(self._beat_for_ever(), name="heartbeat"),
        ]

    async def close(self) -> None:
        """Break off what still runs, save it as interrupted, and end."""
        self.interrupt()
        deadline = time.monotonic() + CLOSE_SECONDS
        while self._tasks and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        with suppress(DatabaseError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._save_late()
                await _urgently(self._worker.leave, self._pulse)
        await self.gateway.close()

    def interrupt(self) -> None:
        """Break off every answer; from now on there are no new ones."""
        self.draining = self._over = True
        for generation in list(self._running.values()):
            generation.cancel("interrupted")

    async def start(self, user_id: int, wanted: Wanted, *, stream: bool) -> Generation | Replay:
        """Take what the user says and ask the gateway, in a task that no client can cut."""
        if self._over:
            raise Overloaded("The service is restarting.", code="restarting", retry_after=2)
        task = asyncio.create_task(self._start(user_id, wanted, stream=stream))
        self._hold(task)
        return await asyncio.shield(task)

    async def _start(self, user_id: int, wanted: Wanted, *, stream: bool) -> Generation | Replay:
        try:
            turn = await anyio.to_thread.run_sync(self._begin, user_id, wanted)
        except InDoubt as doubt:
            self._doubtful[doubt.turn.assistant["id"]] = doubt.turn, stream, time.monotonic()
            raise
        if isinstance(turn, Replay):
            return turn
        generation = self._ask(turn, stream=stream)
        wanted.images.clear()
        return generation

    def _ask(self, turn: Turn, *, stream: bool) -> Generation:
        """Ask the gateway for the answer of a turn that is stored."""
        generation = Generation(turn, self._much.set, stream=stream)
        body = request.build(self._settings, turn.session_key, turn.said, stream=stream)
        # What was said, with its images, is in the body now, which the gateway empties.
        turn.said.clear()
        generation.asking = asyncio.create_task(self.gateway.answer(body, generation))
        # Not before: a row that fails on the way here is a stray, and is ended as one.
        self._running[generation.id] = generation
        if self._over:
            generation.cancel("interrupted")
        self._hold(asyncio.create_task(self._see_through(generation)))
        return generation

    def _begin(self, user_id: int, wanted: Wanted) -> Turn | Replay:
        full = self._settings.gateway_history == "full"
        generator = Generator(self.gateway.model, self._worker.id)
        return begin(user_id, wanted, generator, full_history=full)

    def _hold(self, task: asyncio.Task[Any]) -> None:
        """Keep a task from being collected, and have `close` wait for it."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_through(self, generation: Generation) -> None:
        """Wait for the gateway, store the end, tell the listeners."""
        if generation.asking is None:
            return
        await asyncio.wait([generation.asking])
        status = _status(generation, generation.asking)
        final = await self._store_end(generation, status)
        del self._running[generation.id]
        generation.end(final, generation.problem)
        generation.asking = None
        metrics.GENERATIONS.labels(final.status).inc()
        log.info(
            "generation ended",
            extra={
                "message_id": generation.id,
                "outcome": final.status,
                "code": generation.problem.code if generation.problem else None,
                "characters": generation.length,
            },
        )

    async def _store_end(self, generation: Generation, status: str) -> Message:
        """Store how it ended, as soon as the database takes it; the message as it is stored."""
        deadline = time.monotonic() + KEEP_SECONDS
        pause = 0.25
        while True:
            try:
                stored = await self._in_thread(lambda: self._finish(generation, status))
            except Exception as failure:
                bug = None if isinstance(failure, DatabaseError) else failure
                cause = {"message_id": generation.id, "cause": type(failure).__name__}
                late = time.monotonic() > deadline or (self.draining and pause > DRAINING_PAUSE)
                if bug is not None or late:
                    log.error("answer not saved", extra=cause, exc_info=bug)
                    generation.problem = outcome.not_saved()
                    self._unsaved[generation.id] = generation
                    return generation.message("interrupted")
                log.warning("answer not saved yet", extra=cause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 2.0)
            else:
                return self._as_stored(generation, status, stored)

    def _as_stored(self, generation: Generation, status: str, stored: Row | None) -> Message:
        """The end that the database knows: another process may have set it."""
        if stored is None:
            generation.problem = outcome.gone()
            return generation.message("interrupted")
        if stored["status"] != status:
            generation.problem = outcome.problem_of(stored)
            return Message.from_row(stored, [])
        return generation.message(status)

    def _finish(self, generation: Generation, status: str) -> Row | None:
        """Store the end; the row afterwards, None when it is gone."""
        problem, user_id = generation.problem, generation.turn.user_id
        frees = problem is not None and problem.code in outcome.NOT_REACHED
        with (database_adapter.get_db if frees else database_adapter.change_db)() as conn:
            mine = queries.finish(
                conn,
                user_id,
                generation.id,
                self._worker.id,
                status,
                generation.text,
                problem.detail if problem else None,
                problem.code if problem else None,
                generation.usage,
            )
            if frees:
                queries.free_key(conn, user_id, generation.id)
        if mine:
            return {**generation.turn.assistant, "status": status}
        with database_adapter.read_db() as conn:
            return queries.find_answer(conn, user_id, generation.id)

    async def _save_for_ever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SAVE_SECONDS):
                    await self._much.wait()
            self._much.clear()
            if not self._running:
                continue
            try:
                await self._save()
            except DatabaseError as failure:
                # The text stays in memory; the next round tries again.
                log.warning("progress not saved", extra={"cause": str(failure)})
                await asyncio.sleep(SAVE_SECONDS)
            except Exception:
                log.exception("progress not saved")
                await asyncio.sleep(1)

    async def _save(self) -> None:
        """Save all that has come, in one transaction; see whether somebody wants an end."""
        here = dict(self._running)
        texts = [(g.id, g.text) for g in here.values() if g.length > g.saved]

        def save() -> dict[int, bool]:
            if not texts:
                return self._list_streaming()
            with database_adapter.get_db() as conn:
                queries.save_progress(conn, texts)
                return queries.list_streaming(conn, self._worker.id)

        streaming = await self._in_thread(save)
        for message_id, text in texts:
            here[message_id].saved = len(text)
        for generation in here.values():
            if generation.id not in streaming:
                # Deleted with its session, stopped without us, or we were thought dead.
                generation.cancel("gone")
            elif streaming[generation.id]:
                generation.cancel("stopped")

    async def _beat_for_ever(self) -> None:
        while True:
            try:
                await _urgently(self._worker.beat, self._pulse)
                await self._save_late()
                await self._end_strays()
            except DatabaseError as failure:
                log.debug("no heartbeat", extra={"cause": str(failure)})
            except Exception:
                log.exception("no heartbeat")
            await asyncio.sleep(BEAT_SECONDS)

    async def _save_late(self) -> None:
        """Store answers that the database did not take in time: better late than never."""
        for generation in list(self._unsaved.values()):
            try:
                await self._in_thread(functools.partial(self._finish, generation, "interrupted"))
            except Exception as failure:
                cause = {"message_id": generation.id, "cause": type(failure).__name__}
                log.warning("answer not saved yet", extra=cause)
            else:
                del self._unsaved[generation.id]

    async def _end_strays(self) -> None:
        """Begin the answers of turns that were stored after all, end what nobody generates.

        A row is a stray when it is one on two looks in a row: it may just be about to begin.
        """
        streaming = await self._in_thread(self._list_streaming)
        for message_id, (turn, stream, since) in list(self._doubtful.items()):
            # The server may still be at that COMMIT when we look for the first time.
            if message_id in streaming or time.monotonic() - since > KEEP_SECONDS:
                del self._doubtful[message_id]
            if message_id in streaming:
                self._ask(turn, stream=stream)
        strays = streaming.keys() - self._running.keys() - self._unsaved.keys()
        ended, self._strays = strays & self._strays, strays
        if ended:
            await self._in_thread(functools.partial(self._interrupt, sorted(ended)))
            log.warning("strays ended", extra={"message_ids": sorted(ended)})

    def _list_streaming(self) -> dict[int, bool]:
        with database_adapter.read_db() as conn:
            return queries.list_streaming(conn, self._worker.id)

    def _interrupt(self, message_ids: list[int]) -> None:
        with database_adapter.change_db() as conn:
            queries.interrupt(conn, self._worker.id, message_ids, outcome.interrupted().detail)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await _urgently(function, self._limiter)


async def _urgently(function: Callable[[], T], limiter: CapacityLimiter) -> T:
    """Run it in a thread whose wish for a connection goes before those of requests."""
    token = urgent.set(True)
    try:
        return await anyio.to_thread.run_sync(function, limiter=limiter)
    finally:
        urgent.reset(token)


def _status(generation: Generation, asking: asyncio.Task[None]) -> str:
    """How the answer ended; sets its problem."""
    if asking.cancelled():
        if generation.reason == "stopped":
            return "stopped"
        generation.problem = outcome.interrupted()
        return "interrupted"
    error = asking.exception()
    if error is None:
        return "complete"
    if not isinstance(error, Problem):
        log.error("generation failed", exc_info=error, extra={"message_id": generation.id})
    generation.problem = error if isinstance(error, Problem) else Problem()
    metrics.GATEWAY_ERRORS.labels(generation.problem.code).inc()
    return "interrupted" if generation.length else "failed"
