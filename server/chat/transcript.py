"""A text that grows until it ends, and those who listen to it."""

import asyncio
from collections.abc import AsyncIterator

from server.errors import Problem
from server.messages.message import Message


class Transcript:
    """An answer as it comes.

    Listeners hold only a place in it: a slow one costs nothing and slows nobody.
    """

    def __init__(self) -> None:
        self.length = 0
        self.final: Message | None = None
        self.problem: Problem | None = None
        self.cut = False
        self._pieces: list[str] = []
        self._news = asyncio.Event()

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._pieces)

    def add_text(self, text: str) -> None:
        """Take the next piece."""
        self._pieces.append(text)
        self.length += len(text)
        self._wake()

    def end(self, final: Message, problem: Problem | None) -> None:
        """Tell the listeners how it ended."""
        self.final, self.problem = final, problem
        self._wake()

    def leave(self) -> None:
        """Send the listeners away before the end; they may come again elsewhere."""
        self.cut = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def finished(self) -> Message:
        """Wait for the end."""
        while self.final is None:
            await self._news.wait()
        return self.final

    async def deltas(self, place: int, heartbeat: float) -> AsyncIterator[tuple[int, str]]:
        """What comes after the first `place` characters, each piece with the place of its end.

        An empty piece comes when there was nothing for `heartbeat` seconds.
        """
        seen = 0
        skip = place
        place = 0
        while True:
            news = self._news
            if seen < len(self._pieces):
                text = "".join(self._pieces[seen:])
                seen = len(self._pieces)
                place += len(text)
                if place > skip:
                    yield place, text[max(0, skip - (place - len(text))) :]
            elif self.final is not None or self.cut:
                return
            else:
                try:
                    async with asyncio.timeout(heartbeat):
                        await news.wait()
                except TimeoutError:
                    yield place, ""
