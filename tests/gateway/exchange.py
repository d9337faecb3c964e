"""One chat request being answered: what a behaviour can do to the client."""

import asyncio
import socket
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from tests.gateway.protocol import (
    DONE,
    JSON_TYPE,
    PLAIN,
    STREAM_TYPE,
    Completion,
    Headers,
    Json,
    RecordedError,
    Wire,
    chunked_head,
    http_chunk,
    json_text,
    whole_head,
)
from tests.gateway.request import Prompt, RecordedRequest

Usage = Literal["counted", "zeros", "absent"]
ECHOED_CHARACTERS = 200
# Long enough for the kernel to send each half of a character on its own.
SPLIT_PAUSE = 0.002
CUT_OFF_WARNING = (
    "\n\n\N{WARNING SIGN}\N{VARIATION SELECTOR-16} Reply truncated at the model's output token"
    " limit. The text above is partial \N{EM DASH} ask to continue it."
)


class Runs:
    """What the gateway remembers and how it queues: one run of a session after another.

    At most `parallel` runs at once over all sessions, as many as come if None.
    """

    def __init__(self, parallel: int | None) -> None:
        self.turns: defaultdict[str, list[str]] = defaultdict(list)
        self._session = defaultdict[str, asyncio.Lock](asyncio.Lock)
        self._slots = asyncio.Semaphore(parallel or 1_000_000)

    @asynccontextmanager
    async def run(self, session: str, text: str) -> AsyncIterator[list[str]]:
        """Waits for its turn; gives the session's earlier user turns and remembers this one.

        It stays remembered whatever becomes of the run, as it does in the real gateway.
        """
        async with self._session[session], self._slots:
            earlier = list(self.turns[session])
            self.turns[session].append(text)
            yield earlier


class Exchange:
    """One chat request being answered; without `stream`, what is said is only waited for."""

    def __init__(
        self, writer: asyncio.StreamWriter, request: RecordedRequest, prompt: Prompt, runs: Runs
    ) -> None:
        self.request = request
        self.prompt = prompt
        self.completion = Completion(prompt.model)
        self._writer = writer
        self._runs = runs
        self._wire = PLAIN

    @property
    def streaming(self) -> bool:
        """Whether the client asked for a stream."""
        return self.prompt.streaming

    @asynccontextmanager
    async def run(self) -> AsyncIterator[str]:
        """The run of the agent, after the runs before it; gives the text of a normal answer."""
        async with self._runs.run(self.prompt.session, self.prompt.text) as earlier:
            yield echo(self.prompt, earlier)

    async def write(self, data: bytes) -> None:
        """These bytes, on their way when this returns."""
        self._writer.write(data)
        await self._writer.drain()

    async def open(self, wire: Wire = PLAIN) -> None:
        """The head of a stream and the chunk with the role, at once, before the run begins."""
        self._wire = wire
        if self.streaming:
            mark = "\ufeff".encode() if wire.bom else b""
            role = http_chunk(mark + wire.event(self.completion.role()))
            await self.write(chunked_head(STREAM_TYPE, close=self.request.closes) + role)

    async def event(self, data: Json | str) -> None:
        """One event of the stream."""
        writes = self._wire.writes(self._wire.event(data))
        for part in writes:
            await self.write(http_chunk(part))
            if len(writes) > 1:
                await asyncio.sleep(SPLIT_PAUSE)

    async def say(self, pieces: Sequence[str], delay: float = 0.0) -> None:
        """These pieces of the answer, each `delay` seconds after the one before."""
        for piece in pieces:
            await asyncio.sleep(delay)
            if self.streaming:
                await self.event(self.completion.content(piece))

    async def finish(
        self, pieces: Sequence[str], reason: str | None, usage: Usage, *, done: bool = True
    ) -> None:
        """The end of an answer of these pieces; `reason` None and `done` False leave out events."""
        tokens = self._usage(usage, len(pieces))
        if not self.streaming:
            text = "".join(pieces) + (CUT_OFF_WARNING if reason == "length" else "")
            await self.whole(200, json_text(self.completion.whole(text, reason, tokens)))
            return
        if reason is not None:
            await self.event(self.completion.finish(reason))
        if tokens and self.prompt.include_usage:
            await self.event(self.completion.usage(tokens))
        await self.end(done=done)

    async def fail(self, error: RecordedError) -> None:
        """The end of a run that failed: a status, or an event in a stream that was 200."""
        if self.streaming:
            await self.event(error.json(streamed=True))
            await self.end()
        else:
            await self.refuse(error)

    async def refuse(self, error: RecordedError) -> None:
        """The error as a whole answer, for streams too."""
        await self.whole(error.status, json_text(error.json()), extra=error.headers)

    async def end(self, *, done: bool = True) -> None:
        """The end of the stream, in one write: a client may go as soon as it has read [DONE]."""
        last = http_chunk(self._wire.event(DONE)) if done else b""
        await self.write(last + http_chunk(b""))

    async def whole(
        self, status: int, body: str | bytes, content_type: str = JSON_TYPE, extra: Headers = ()
    ) -> None:
        """An answer that is no stream."""
        data = body if isinstance(body, bytes) else body.encode()
        close = self.request.closes
        await self.write(whole_head(status, len(data), content_type, extra, close=close) + data)

    async def half(self) -> None:
        """Half of what would come next: of an HTTP chunk, or of the body."""
        if self.streaming:
            head, data = b"", http_chunk(self._wire.event(self.completion.content(" never")))
        else:
            data = json_text(self.completion.whole("never", "stop", None)).encode()
            head = whole_head(200, len(data), JSON_TYPE)
        await self.write(head + data[: len(data) // 2])

    async def open_chunked(self, content_type: str, extra: Headers = ()) -> None:
        """Only the head of an answer in HTTP chunks."""
        await self.write(chunked_head(content_type, extra, close=self.request.closes))

    def abort(self, *, reset: bool = False) -> None:
        """Ends the TCP connection where it is: with a FIN, as a killed gateway does, or a RST."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            sock: socket.socket = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()

    def _usage(self, usage: Usage, pieces: int) -> Json | None:
        if usage == "absent":
            return None
        sent, got = (100 + self.prompt.messages, pieces) if usage == "counted" else (0, 0)
        return {"prompt_tokens": sent, "completion_tokens": got, "total_tokens": sent + got}


def echo(prompt: Prompt, earlier: Sequence[str]) -> str:
    """The normal answer: what reached the gateway, and what it remembers of the session."""
    images = f" ({', '.join(prompt.images)})" if prompt.images else ""
    counts = f"{_count(prompt.messages, 'message')}, {_count(len(prompt.images), 'image')}{images}"
    text = f'Turn {len(earlier) + 1}: {counts}. You say: "{prompt.text[:ECHOED_CHARACTERS]}"'
    return f'{text} You first said: "{earlier[0][:ECHOED_CHARACTERS]}"' if earlier else text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
