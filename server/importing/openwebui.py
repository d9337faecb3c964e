"""Open WebUI's export: chats with a tree of messages each, images in them as `data:` URLs."""

import functools
from typing import Any

from server.errors import Problem
from server.images import checks
from server.importing.conversation import Conversation, ImportedMessage, derived_id, digest
from server.importing.values import clean, instant, items, mapping, name, text, title, without

SOURCE = "openwebui"
_ROLES = {"user", "assistant", "system"}
_URL_SHOWN = 80


def is_one(value: dict[str, Any]) -> bool:
    """Whether it looks like a chat of Open WebUI's, in the older form too."""
    return isinstance(value.get("chat", value.get("history")), dict)


def read(value: dict[str, Any]) -> Conversation:
    """The conversation; raises `Unreadable`."""
    chat = mapping(value.get("chat")) or value
    history = mapping(chat.get("history"))
    nodes = mapping(history.get("messages")) or _chained(items(chat.get("messages")))
    messages = [_message(node_id, mapping(node)) for node_id, node in nodes.items()]
    created = value.get("created_at", chat.get("timestamp"))
    current = name(history.get("currentId")) or next(reversed(nodes), None)
    return Conversation(
        source=SOURCE,
        source_id=name(value.get("id")) or name(chat.get("id")) or derived_id(created, messages),
        title=title(value.get("title")) or title(chat.get("title")),
        created_at=instant(created),
        updated_at=instant(value.get("updated_at")),
        starred=value.get("pinned") is True,
        messages=messages,
        current_id=current,
        owner=name(value.get("user_id")),
        metadata={
            **without(value, "chat", "history", "messages"),
            "chat": without(chat, "history", "messages"),
        },
    )


def _chained(messages: list[Any]) -> dict[str, Any]:
    """Messages of a list as a tree without branches, for chats that have only that."""
    nodes: dict[str, Any] = {}
    last = None
    for number, message in enumerate(messages):
        node_id = text(mapping(message).get("id")) or str(number)
        if node_id in nodes:
            node_id = f"{node_id}#{number}"
        nodes[node_id] = {"parentId": last, **mapping(message)}
        last = node_id
    return nodes


def _message(node_id: str, node: dict[str, Any]) -> ImportedMessage:
    parts = items(node.get("content"))
    raw = text(node.get("content")) or "\n".join(filter(None, map(_words, parts)))
    said, replaced = clean(raw)
    pictures = [_picture(mapping(file)) for file in [*items(node.get("files")), *parts]]
    images = [picture for picture in pictures if isinstance(picture, checks.Image)]
    role = text(node.get("role"))
    shown = role in _ROLES and bool(said or images)
    return ImportedMessage(
        source_id=clean(node_id)[0],
        parent_source_id=name(node.get("parentId")),
        role=role if shown else None,
        content=said if shown else "",
        model=name(node.get("model")) if role == "assistant" else None,
        created_at=instant(node.get("timestamp")),
        digest=digest(node.get("parentId"), role, node.get("content"), node.get("files")),
        images=tuple(functools.partial(_given, image) for image in images) if shown else (),
        refused=tuple(reason for reason in pictures if isinstance(reason, str)),
        replaced=replaced,
        kept=_kept(node, replaced=bool(replaced)) if shown else node,
    )


def _given(image: checks.Image) -> checks.Image:
    return image


def _words(part: Any) -> str:
    return text(mapping(part).get("text"))


def _url(file: dict[str, Any]) -> str | None:
    """The URL of an image, among a message's files or the parts of its content."""
    if file.get("type") == "image":
        return text(file.get("url"))
    if file.get("type") == "image_url":
        return text(mapping(file.get("image_url")).get("url"))
    return None


def _picture(file: dict[str, Any]) -> checks.Image | str | None:
    """The image, or why it can't be imported; None for what is no image."""
    url = _url(file)
    if url is None:
        return None
    if not url.startswith("data:"):
        return f"image {clean(url)[0][:_URL_SHOWN]} is not in the export"
    try:
        return checks.read_all([url])[0]
    except Problem as problem:
        return f"an image was refused: {problem.detail}"


def _kept(node: dict[str, Any], *, replaced: bool) -> dict[str, Any]:
    """The message without what the service shows: its text, and the bytes of its images."""
    kept = {**node, "files": [_without_bytes(file) for file in items(node.get("files"))]}
    if isinstance(node.get("content"), list):
        kept["content"] = [_without_bytes(part) for part in node["content"]]
    elif not replaced:
        del kept["content"]
    return kept


def _without_bytes(file: Any) -> Any:
    if not isinstance(_picture(mapping(file)), checks.Image):
        return file
    return without(file, "url", "image_url")
