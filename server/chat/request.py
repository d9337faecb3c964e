"""The request to the gateway: one function for all four ways to chat."""

import logging
from dataclasses import dataclass, field
from typing import Any

from server.images.checks import Image
from server.settings import Settings

log = logging.getLogger("clawd.chat")


@dataclass(frozen=True)
class Said:
    """One message as the gateway is told of it."""

    role: str
    text: str
    images: list[Image] = field(default_factory=list)


def build(
    settings: Settings, session_key: str, said: list[Said], *, stream: bool
) -> dict[str, Any]:
    """The body of `POST /v1/chat/completions`.

    The gateway finds its memory of the conversation by `user`, whatever else is in the request.
    """
    user = f"adapter-session-{session_key}"
    log.info("[CHAT] Sending to OpenClaw with 'user' field: %s", user)
    body: dict[str, Any] = {
        "model": settings.openclaw_model,
        "user": user,
        "messages": [{"role": one.role, "content": _content(one)} for one in said],
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    return body


def _content(said: Said) -> str | list[dict[str, Any]]:
    if not said.images:
        return said.text
    text = [{"type": "text", "text": said.text}] if said.text else []
    return [
        *text,
        *({"type": "image_url", "image_url": {"url": image.data_url()}} for image in said.images),
    ]
