"""Export files, read one conversation at a time: a file of gigabytes needs no gigabytes.

`json.JSONDecoder` reads the members of the outermost list from a window on the text. ijson is as
fast, but turns a lone surrogate into a question mark, or gives up the file.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from server.importing.conversation import Unreadable

_CHUNK = 1 << 20
# Characters of one conversation; its images as `data:` URLs count.
LARGEST = 256 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_CONVERSATIONS = re.compile(r'\{[ \t\r\n]*"conversations"[ \t\r\n]*:[ \t\r\n]*(?=\[)')
_DECODER = json.JSONDecoder(strict=False, parse_constant=str)
# The longest word that can be cut: -Infinity, or the escape of a surrogate.
_WORD = 16


class _Window:
    """The part of a text that has been read and not yet used."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._at = 0
        self._before = 0
        self._ended = False

    def peek(self) -> str:
        """The next character that is no space; none at the end."""
        while True:
            self._at = self._end_of(_SPACE)
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._grow()

    def skip(self, pattern: re.Pattern[str] | None = None) -> None:
        """Go past what the pattern matches, or one character."""
        self._at = self._end_of(pattern) if pattern else self._at + 1

    def value(self) -> Any:
        """The next JSON value; raises `Unreadable`."""
        while True:
            try:
                value, self._at = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._is_cut(error):
                    raise self.broken(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:
                raise self.broken(str(error)) from None
            else:
                return value
            self._grow()

    def broken(self, reason: str, at: int | None = None) -> Unreadable:
        """The error that says where the text can't be read on."""
        place = self._before + (self._at if at is None else at)
        return Unreadable(f"broken after {place:,} characters: {reason}")

    def _end_of(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._at)
        return match.end() if match else self._at

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether more text could make a value of it."""
        if self._ended or len(self._text) - self._at > LARGEST:
            return False
        return error.msg.startswith("Unterminated") or len(self._text) - error.pos < _WORD

    def _grow(self) -> None:
        """Read on; twice as much each time, so that nothing is read over and over."""
        more = self._stream.read(max(_CHUNK, len(self._text) - self._at))
        self._before += self._at
        self._text = self._text[self._at :] + more
        self._at = 0
        self._ended = not more


def values(stream: TextIO) -> Iterator[Any]:
    """The members of the list that the JSON text is, or the one value; raises `Unreadable`.

    A list may also be the first member, `conversations`, of an object.
    """
    window = _Window(stream)
    if not window.peek():
        raise Unreadable("it is empty")
    window.skip(_CONVERSATIONS)
    if window.peek() != "[":
        yield window.value()
        return
    window.skip()
    if window.peek() == "]":
        return
    while True:
        yield window.value()
        following = window.peek()
        if following == "]":
            return
        if following != ",":
            raise window.broken("a part is missing" if following else "the rest is missing")
        window.skip()
        window.peek()
