"""The ways in which the gateway answers: as recorded, and as badly as a gateway could."""

import asyncio
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tests.gateway.exchange import Exchange, Usage
from tests.gateway.protocol import (
    DONE,
    ERRORS,
    JSON_TYPE,
    PLAIN,
    STREAM_TYPE,
    Headers,
    Wire,
    http_chunk,
    json_text,
)

MIB = 1024 * 1024


class Behaviour(Protocol):
    """A way to answer one valid chat request."""

    async def play(self, exchange: Exchange) -> None:
        """Answers; it is cancelled when the client closes the connection."""


def words(text: str) -> list[str]:
    """The text in pieces as the gateway cuts them: blanks begin a piece, those at the end go."""
    return re.findall(r"\s*\S+", text)


def counted(number: int) -> list[str]:
    """The pieces "w0", " w1", ... of the recorded slow answers."""
    return [f" w{n}" if n else "w0" for n in range(number)]


@dataclass(frozen=True)
class Answer:
    """A whole answer: the echo, or `text`, or exactly these `pieces`, or `tokens` counted words.

    `first` and `delay` are the seconds before the first and before each piece; `whole` sends one
    big piece. `finish` None, `done` False, `usage` "absent" leave out what says that all is well.
    """

    text: str | None = None
    pieces: tuple[str, ...] | None = None
    tokens: int | None = None
    first: float = 0.0
    delay: float = 0.0
    whole: bool = False
    finish: str | None = "stop"
    usage: Usage = "counted"
    done: bool = True
    wire: Wire = PLAIN

    async def play(self, exchange: Exchange) -> None:
        await exchange.open(self.wire)
        async with exchange.run() as echo:
            pieces = self._pieces(echo)
            await asyncio.sleep(self.first)
            if self.whole:
                await asyncio.sleep(self.delay * len(pieces))
                await exchange.say(["".join(pieces)])
            else:
                await exchange.say(pieces, self.delay)
            await exchange.finish(pieces, self.finish, self.usage, done=self.done)

    def _pieces(self, echo: str) -> Sequence[str]:
        if self.pieces is not None:
            return self.pieces
        if self.tokens is not None:
            return counted(self.tokens)
        return words(echo if self.text is None else self.text)


@dataclass(frozen=True)
class ToolUse:
    """The agent uses a tool for `gap` seconds; its text before that is only in the stream."""

    gap: float = 0.1

    async def play(self, exchange: Exchange) -> None:
        answer = ["The tool", " said:", ' "lab-tool-ran"']
        await exchange.open()
        async with exchange.run():
            await exchange.say(["Let me", " check."])
            await asyncio.sleep(self.gap)
            await exchange.say(["\n\n" + answer[0], *answer[1:]])
            await exchange.finish(answer, "stop", "counted")


@dataclass(frozen=True)
class Silence:
    """Nothing any more, for ever, after this many pieces; `head` False: not even a status line."""

    after: int = 0
    head: bool = True

    async def play(self, exchange: Exchange) -> None:
        if self.head:
            await exchange.open()
        async with exchange.run():
            if self.head:
                await exchange.say(counted(self.after))
            await asyncio.Event().wait()


@dataclass(frozen=True)
class Drip:
    """Bytes without content for ever: a comment every few seconds, or blanks before the JSON."""

    every: float = 0.02
    after: int = 0
    comment: str = ": keepalive"

    async def play(self, exchange: Exchange) -> None:
        await exchange.open()
        if not exchange.streaming:
            await exchange.open_chunked(JSON_TYPE)
        drop = f"{self.comment}\n\n" if exchange.streaming else " "
        async with exchange.run():
            await exchange.say(counted(self.after))
            while True:
                await asyncio.sleep(self.every)
                await exchange.write(http_chunk(drop.encode()))


@dataclass(frozen=True)
class Cut:
    """The connection breaks after this many pieces; without a stream, in the middle of the body.

    `half` breaks it in the middle of an event and an HTTP chunk, `reset` with a TCP RST.
    """

    after: int = 3
    delay: float = 0.0
    half: bool = False
    reset: bool = False

    async def play(self, exchange: Exchange) -> None:
        await exchange.open()
        async with exchange.run():
            await exchange.say(counted(self.after), self.delay)
            if self.half or not exchange.streaming:
                await exchange.half()
            exchange.abort(reset=self.reset)


@dataclass(frozen=True)
class HangUp:
    """The connection breaks before a byte of the answer."""

    reset: bool = False

    async def play(self, exchange: Exchange) -> None:
        exchange.abort(reset=self.reset)


@dataclass(frozen=True)
class EndEarly:
    """A polite end after this many pieces, with neither finish_reason nor [DONE].

    Without a stream, 200 with an empty body.
    """

    after: int = 3

    async def play(self, exchange: Exchange) -> None:
        await exchange.open()
        async with exchange.run():
            await exchange.say(counted(self.after))
            if exchange.streaming:
                await exchange.end(done=False)
            else:
                await exchange.whole(200, "")


@dataclass(frozen=True)
class ProviderError:
    """The run fails: an HTTP status, or pieces, `wait` seconds, an error object and [DONE]."""

    error: str = "provider-timeout"
    after: int = 0
    wait: float = 0.0

    async def play(self, exchange: Exchange) -> None:
        error = ERRORS[self.error]
        if error.status == 200 and not exchange.streaming:
            await Answer(first=self.wait).play(exchange)
            return
        await exchange.open()
        async with exchange.run():
            await exchange.say(counted(self.after))
            await asyncio.sleep(self.wait)
            await exchange.fail(error)


@dataclass(frozen=True)
class Refuse:
    """An HTTP error before any run, for streams too; one of ERRORS.

    `retry_after` replaces the recorded header, "" leaves it out. `wait` is in seconds.
    """

    error: str = "internal"
    retry_after: str | None = None
    wait: float = 0.0

    async def play(self, exchange: Exchange) -> None:
        await asyncio.sleep(self.wait)
        error = ERRORS[self.error]
        if self.retry_after is not None:
            others = tuple(pair for pair in error.headers if pair[0] != "Retry-After")
            instead = (("Retry-After", self.retry_after),) if self.retry_after else ()
            error = replace(error, headers=others + instead)
        await exchange.refuse(error)


@dataclass(frozen=True)
class Redirect:
    """A redirect, by default to a path of the stub that answers 404 and records who came."""

    to: str = "/elsewhere"
    status: int = 302

    async def play(self, exchange: Exchange) -> None:
        await exchange.whole(self.status, "", "text/plain", (("Location", self.to),))


@dataclass(frozen=True)
class Page:
    """This body, for streams too: something that is no gateway answered."""

    body: str = "<!doctype html><title>Welcome</title><h1>It works!</h1>\n"
    content_type: str = "text/html; charset=utf-8"
    status: int = 200
    headers: Headers = ()

    async def play(self, exchange: Exchange) -> None:
        await exchange.whole(self.status, self.body, self.content_type, self.headers)


@dataclass(frozen=True)
class Data:
    """This text where JSON of the right shape belongs: the body, or an event after some pieces."""

    data: str
    after: int = 0

    async def play(self, exchange: Exchange) -> None:
        await exchange.open()
        async with exchange.run():
            if not exchange.streaming:
                await exchange.whole(200, self.data)
                return
            pieces = counted(self.after)
            await exchange.say(pieces)
            await exchange.event(self.data)
            await exchange.finish(pieces, "stop", "counted")


@dataclass(frozen=True)
class GzipBomb:
    """A right answer of `size` characters in a gzip body a thousandth of that, asked for or not."""

    size: int = 64 * MIB

    async def play(self, exchange: Exchange) -> None:
        encoding: Headers = (("Content-Encoding", "gzip"),)
        answer = exchange.completion
        async with exchange.run():
            if exchange.streaming:
                events = (answer.role(), answer.content("@"), answer.finish("stop"), DONE)
                text = b"".join(PLAIN.event(event) for event in events)
                await exchange.open_chunked(STREAM_TYPE, encoding)
                await exchange.write(http_chunk(gzipped(text, self.size)) + http_chunk(b""))
            else:
                text = json_text(answer.whole("@", "stop", None)).encode()
                await exchange.whole(200, gzipped(text, self.size), JSON_TYPE, encoding)


def gzipped(text: bytes, size: int) -> bytes:
    """The text with its "@" replaced by `size` letters, as gzip."""
    before, after = text.split(b"@")
    pack = zlib.compressobj(wbits=31)

    def blocks() -> Iterator[bytes]:
        yield before
        yield from (b"a" * MIB for _ in range(size // MIB))
        yield b"a" * (size % MIB) + after

    return b"".join(pack.compress(block) for block in blocks()) + pack.flush()
