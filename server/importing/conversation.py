"""A conversation from elsewhere, in the one form that every format is read into."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from server.images.checks import Image


class Unreadable(Exception):
    """A conversation or a file that can't be imported; the message says why."""


class NoImage(Exception):
    """An image that can't be imported; the message says which and why."""


@dataclass(frozen=True)
class ImportedMessage:
    """One message of the source's tree; without a role it is kept, not shown.

    `images` are read when they are stored; reading raises `NoImage`. `refused` names the images
    that are known to be missing, `replaced` counts the characters that no database can hold,
    `kept` is JSON that has no place in the tables.
    """

    source_id: str
    parent_source_id: str | None
    role: str | None
    content: str
    model: str | None
    created_at: datetime | None
    digest: str
    images: tuple[Callable[[], Image], ...] = ()
    refused: tuple[str, ...] = ()
    replaced: int = 0
    kept: Any = None


@dataclass(frozen=True)
class Conversation:
    """A conversation with all its branches; `owner` is whose it was there, where that is known."""

    source: str
    source_id: str
    title: str | None
    created_at: datetime | None
    updated_at: datetime | None
    starred: bool
    messages: list[ImportedMessage]
    current_id: str | None = None
    owner: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """Something of the user's that is no conversation, such as a profile."""

    source: str
    kind: str
    source_id: str
    content: dict[str, Any]
    owner: str | None = None
    email: str | None = None


Imported = Conversation | Record


def digest(*parts: Any) -> str:
    """Equal for equal JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def derived_id(created_at: Any, messages: list[ImportedMessage]) -> str:
    """An id for a conversation that has none: it stays when messages are added at the end."""
    if not messages:
        raise Unreadable("it has neither an id nor messages")
    return "derived-" + digest(created_at, messages[0].source_id, messages[0].digest)[:32]
