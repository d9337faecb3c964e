"""Which format a file's values are in."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from server.importing import chatgpt, llmcouncil, openwebui
from server.importing.conversation import Imported, Unreadable
from server.importing.values import mapping

_Value = dict[str, Any]


class Format(StrEnum):
    """What `--format` takes."""

    AUTO = "auto"
    CHATGPT = "chatgpt"
    OPENWEBUI = "openwebui"
    LLMCOUNCIL = "llmcouncil"


@dataclass(frozen=True)
class _Reader:
    """How one kind of value is recognized and read."""

    format: Format
    recognizes: Callable[[_Value], bool]
    read: Callable[[_Value, chatgpt.Files], Imported]


# The first one that recognizes a value reads it.
_READERS = (
    _Reader(Format.CHATGPT, chatgpt.is_one, chatgpt.read),
    _Reader(Format.OPENWEBUI, openwebui.is_one, lambda value, _: openwebui.read(value)),
    _Reader(Format.LLMCOUNCIL, llmcouncil.is_one, lambda value, _: llmcouncil.read(value)),
    _Reader(
        Format.LLMCOUNCIL, llmcouncil.is_record, lambda value, _: llmcouncil.read_record(value)
    ),
)


def read(value: Any, files: chatgpt.Files, only: Format = Format.AUTO) -> Imported:
    """The conversation or record; raises `Unreadable` for a value of no format, or another one."""
    for reader in _READERS:
        if reader.recognizes(mapping(value)):
            if only not in (Format.AUTO, reader.format):
                raise Unreadable(f"it is {reader.format}'s, not {only}'s")
            return reader.read(mapping(value), files)
    raise Unreadable("it is no conversation of a known format")
