"""A message as the API shows it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.fields import Instant
from server.storage.contract import Row

Role = Literal["user", "assistant", "system"]
Status = Literal["complete", "streaming", "interrupted", "stopped", "failed"]

EXAMPLE: dict[str, Any] = {
    "id": 2,
    "session_id": 1,
    "role": "assistant",
    "content": "Hello, Ada.",
    "status": "complete",
    "error": None,
    "images": [],
    "model": "agent:main",
    "usage": {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16},
    "created_at": "2026-11-21T09:00:00.000000Z",
}


class ImageInfo(BaseModel):
    """An image of a message; its bytes are at `/images/{id}`."""

    id: int
    media_type: str = Field(examples=["image/png"])
    bytes: int


class Usage(BaseModel):
    """Tokens, as the gateway counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(json_schema_extra={"example": EXAMPLE})

    id: int
    session_id: int
    role: Role
    content: str
    status: Status
    error: str | None
    images: list[ImageInfo]
    model: str | None
    usage: Usage | None
    created_at: Instant

    @classmethod
    def from_row(cls, row: Row, images: list[Row]) -> "Message":
        """From a row of `messages` and the descriptions of its images."""
        prompt, completion = row["prompt_tokens"], row["completion_tokens"]
        usage = None
        if prompt is not None or completion is not None:
            usage = {
                "prompt_tokens": prompt or 0,
                "completion_tokens": completion or 0,
                "total_tokens": (prompt or 0) + (completion or 0),
            }
        return cls.model_validate({**row, "images": images, "usage": usage})


def from_joined(rows: list[Row]) -> list[Message]:
    """From rows that repeat a message for each of its images, in the rows' order."""
    messages: dict[int, tuple[Row, list[Row]]] = {}
    for row in rows:
        _, images = messages.setdefault(row["id"], (row, []))
        if row["image_id"] is not None:
            images.append(
                {
                    "id": row["image_id"],
                    "media_type": row["media_type"],
                    "bytes": row["size_bytes"],
                }
            )
    return [Message.from_row(row, images) for row, images in messages.values()]
