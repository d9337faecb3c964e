"""The files of llmcouncil: conversations as lists of messages, profiles, subscriptions."""

from typing import Any

from server.importing.conversation import Conversation, ImportedMessage, Record, derived_id, digest
from server.importing.values import clean, instant, items, mapping, name, text, title, without

SOURCE = "llmcouncil"
_ROLES = {"user", "assistant", "system"}


def is_one(value: dict[str, Any]) -> bool:
    """Whether it looks like a conversation of llmcouncil's."""
    messages = value.get("messages")
    return isinstance(messages, list) and all("role" in mapping(one) for one in messages)


def is_record(value: dict[str, Any]) -> bool:
    """Whether it looks like a profile or a subscription."""
    return name(value.get("user_id")) is not None and ("profile" in value or "tier" in value)


def read(value: dict[str, Any]) -> Conversation:
    """The conversation; raises `Unreadable`.

    Its messages have no ids: each is known by its place, and follows the one before it.
    """
    messages = [
        _message(number, mapping(message))
        for number, message in enumerate(items(value.get("messages")))
    ]
    return Conversation(
        source=SOURCE,
        source_id=name(value.get("id")) or derived_id(value.get("created_at"), messages),
        title=title(value.get("title")),
        created_at=instant(value.get("created_at")),
        updated_at=instant(value.get("updated_at")),
        starred=value.get("starred") is True,
        messages=messages,
        current_id=messages[-1].source_id if messages else None,
        owner=name(value.get("user_id")),
        metadata=without(value, "messages"),
    )


def read_record(value: dict[str, Any]) -> Record:
    """The profile or subscription."""
    owner = name(value.get("user_id"))
    return Record(
        source=SOURCE,
        kind="profile" if "profile" in value else "subscription",
        source_id=owner or "",
        content=value,
        owner=owner,
        email=name(value.get("email")),
    )


def _message(number: int, message: dict[str, Any]) -> ImportedMessage:
    """The council's answer is what its third stage says; the stages before it are kept."""
    final = mapping(message.get("stage3"))
    said, replaced = clean(text(message.get("content")) or text(final.get("response")))
    role = text(message.get("role"))
    shown = role in _ROLES and bool(said)
    model = name(final.get("model")) or name(message.get("model"))
    at = message.get("created_at", message.get("timestamp"))
    return ImportedMessage(
        source_id=str(number),
        parent_source_id=str(number - 1) if number else None,
        role=role if shown else None,
        content=said if shown else "",
        model=model if role == "assistant" else None,
        created_at=instant(at),
        digest=digest(message),
        replaced=replaced if shown else 0,
        kept=without(message, "role", "content") if shown and not replaced else message,
    )
