"""Server-sent events coming in, as the HTML standard defines them (section 9.2).

Python's `splitlines` also ends lines at U+2028, U+2029 and U+0085, which JSON may hold raw; here
only CR, LF and CR LF end a line.
"""

import codecs
import re

MAX_LINE = 1024 * 1024
MAX_EVENT = 4 * MAX_LINE

_END = re.compile(r"\r\n|\n|\r")


class LineTooLong(Exception):
    """A line has more than 1 MiB, or an event more than 4; its sender is no honest gateway."""


class Reader:
    """Turns bytes, cut anywhere, into events: the name ("" where none is given) and the data."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._rest = ""
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[tuple[str, str]]:
        """Every event that ends in this chunk."""
        text = self._rest + self._decoder.decode(chunk)
        # A CR at the end may be half of a CR LF.
        held = "\r" if text.endswith("\r") else ""
        *lines, self._rest = _END.split(text.removesuffix("\r"))
        self._rest += held
        if len(self._rest) > MAX_LINE:
            raise LineTooLong
        events = (self._line(line) for line in lines)
        return [event for event in events if event is not None]

    def _line(self, line: str) -> tuple[str, str] | None:
        if not line:
            name, data = self._name, "\n".join(self._data)
            self._name, self._data, self._size = "", [], 0
            return (name, data) if data else None
        field, _, value = line.partition(":")
        if field == "data":
            self._data.append(value.removeprefix(" "))
            self._size += len(value)
            if self._size > MAX_EVENT:
                raise LineTooLong
        elif field == "event":
            self._name = value.removeprefix(" ")
        return None

    def close(self) -> list[tuple[str, str]]:
        """The event that the end of the stream cut off before its empty line, if any."""
        rest = self._rest.rstrip("\r")
        self._rest = ""
        events = [self._line(line) for line in (rest, "") if line or self._data]
        return [event for event in events if event is not None]
