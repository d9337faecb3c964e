"""ChatGPT's export: conversations as trees of nodes, images in files beside them."""

import functools
from typing import Any, Protocol

from server.images import checks
from server.importing.conversation import (
    Conversation,
    ImportedMessage,
    derived_id,
    digest,
)
from server.importing.values import clean, instant, items, mapping, name, text, title, without

SOURCE = "chatgpt"
# Other types are calls of tools, their results, and what a model thought.
_SHOWN = {"text", "multimodal_text"}
_ROLES = {"user", "assistant", "system"}


class Files(Protocol):
    """The files that came with the conversations."""

    def has(self, pointer: str) -> bool:
        """Whether the file that an asset pointer names is there."""
        ...

    def read_image(self, pointer: str) -> checks.Image:
        """The image in it; raises `NoImage`."""
        ...


def is_one(value: dict[str, Any]) -> bool:
    """Whether it looks like a conversation of ChatGPT's."""
    return isinstance(value.get("mapping"), dict)


def read(value: dict[str, Any], files: Files) -> Conversation:
    """The conversation; raises `Unreadable`."""
    nodes = {node_id: mapping(node) for node_id, node in mapping(value.get("mapping")).items()}
    parents = {
        child: node_id
        for node_id, node in nodes.items()
        for child in items(node.get("children"))
        if isinstance(child, str)
    }
    messages = [
        _message(node_id, text(node.get("parent")) or parents.get(node_id), node, files)
        for node_id, node in nodes.items()
    ]
    spoken = [message for message in messages if message.kept is not None]
    return Conversation(
        source=SOURCE,
        source_id=name(value.get("conversation_id"))
        or name(value.get("id"))
        or derived_id(value.get("create_time"), spoken),
        title=title(value.get("title")),
        created_at=instant(value.get("create_time")),
        updated_at=instant(value.get("update_time")),
        starred=value.get("is_starred") is True or instant(value.get("pinned_time")) is not None,
        messages=messages,
        current_id=name(value.get("current_node")),
        metadata=without(value, "mapping"),
    )


def _message(
    node_id: str, parent: str | None, node: dict[str, Any], files: Files
) -> ImportedMessage:
    message = mapping(node.get("message"))
    content = mapping(message.get("content"))
    role = _role(message, content)
    pointers = _pointers(content) if role else []
    there = [pointer for pointer in pointers if files.has(pointer)]
    raw = _said(content) if role in _ROLES else ""
    said, replaced = clean(raw)
    metadata = mapping(message.get("metadata"))
    return ImportedMessage(
        source_id=clean(node_id)[0],
        parent_source_id=name(parent),
        role=(role if role in _ROLES else "assistant") if said or there else None,
        content=said,
        model=name(metadata.get("model_slug")) if role in ("assistant", "tool") else None,
        created_at=instant(message.get("create_time")),
        digest=digest(parent, mapping(message.get("author")).get("role"), content),
        images=tuple(functools.partial(files.read_image, pointer) for pointer in there),
        refused=tuple(
            f"image {clean(pointer)[0]} is not in the export"
            for pointer in pointers
            if pointer not in there
        ),
        replaced=replaced,
        kept=_kept(message, content, bool(said) and not replaced),
    )


def _role(message: dict[str, Any], content: dict[str, Any]) -> str | None:
    """Whose words they are; None for what isn't meant for a reader.

    What a tool says is for the model, but images that it made are for the user.
    """
    role = text(mapping(message.get("author")).get("role"))
    to_all = text(message.get("recipient")) in ("", "all")
    if content.get("content_type") not in _SHOWN or not to_all:
        return None
    return role if role in _ROLES or role == "tool" else None


def _said(content: dict[str, Any]) -> str:
    """The text of all parts, with what was said aloud."""
    parts = [
        part if isinstance(part, str) else text(mapping(part).get("text"))
        for part in items(content.get("parts"))
    ]
    return "\n".join(part for part in parts if part)


def _pointers(content: dict[str, Any]) -> list[str]:
    parts = [mapping(part) for part in items(content.get("parts"))]
    return [
        text(part.get("asset_pointer"))
        for part in parts
        if part.get("content_type") == "image_asset_pointer"
    ]


def _kept(message: dict[str, Any], content: dict[str, Any], told: bool) -> dict[str, Any] | None:
    """The message without the text that the service shows."""
    if not message:
        return None
    if not told:
        return message
    parts = [None if isinstance(part, str) else part for part in items(content.get("parts"))]
    return {**message, "content": {**content, "parts": parts}}
