"""The usual modern stack, FastAPI with asyncpg and pydantic: the same page and token check."""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import asyncpg
from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

MESSAGE = (
    "m.id, m.session_id, m.role, m.content, m.status, m.error, m.model, m.prompt_tokens, "
    "m.completion_tokens, m.created_at"
)


class Image(BaseModel):
    """An image's description."""

    id: int
    media_type: str
    bytes: int


class Usage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Message(BaseModel):
    """A message as the contract has it."""

    id: int
    session_id: int
    role: str
    content: str
    status: str
    error: str | None
    images: list[Image]
    model: str | None
    usage: Usage | None
    created_at: datetime


class Page(BaseModel):
    """A page of them."""

    items: list[Message]
    next_cursor: str | None


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """A pool, as large as the service's."""
    async with asyncpg.create_pool(os.environ["RIVAL_DSN"], min_size=5, max_size=20) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


async def current_user(request: Request) -> int:
    """The user whose token it is."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    row = await request.app.state.pool.fetchrow(
        "SELECT users.id, users.email, users.name, users.created_at "
        "FROM auth_tokens JOIN users ON users.id = auth_tokens.user_id "
        "WHERE auth_tokens.token_hash = $1 AND auth_tokens.expires_at > $2",
        hashlib.sha256(token.encode()).hexdigest(),
        datetime.now(UTC),
    )
    if row is None:
        raise HTTPException(401)
    return int(row["id"])


@app.get("/sessions/{session_id}/messages")
async def messages(
    request: Request,
    session_id: int,
    user_id: Annotated[int, Depends(current_user)],
    limit: int = 50,
) -> Page:
    """The newest messages, oldest first."""
    rows = await request.app.state.pool.fetch(
        f"""
        SELECT {MESSAGE}, i.id AS image_id, i.media_type, i.size_bytes
        FROM (SELECT * FROM messages WHERE session_id = $1 AND user_id = $2
              ORDER BY session_id DESC, id DESC LIMIT $3) AS m
        LEFT JOIN images i ON i.message_id = m.id
        ORDER BY m.id DESC, i.id
        """,
        session_id,
        user_id,
        limit + 1,
    )
    found: dict[int, Message] = {}
    for row in rows:
        if row["id"] not in found:
            found[row["id"]] = _message(row)
        if row["image_id"] is not None:
            image = Image(id=row["image_id"], media_type=row["media_type"], bytes=row["size_bytes"])
            found[row["id"]].images.append(image)
    page = list(found.values())
    more = len(page) > limit
    return Page(items=page[:limit][::-1], next_cursor=str(page[limit - 1].id) if more else None)


def _message(row: Any) -> Message:
    usage = None
    if row["prompt_tokens"] is not None:
        prompt, completion = row["prompt_tokens"], row["completion_tokens"] or 0
        usage = Usage(
            prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
        )
    return Message(**{**dict(row), "images": [], "usage": usage})
