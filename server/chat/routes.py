"""HTTP of the chat."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from server.auth.guard import CurrentCaller
from server.chat import turns
from server.chat.generations import Generation, Generations
from server.errors import problems
from server.fields import BodyId, Text
from server.images import checks
from server.messages.message import EXAMPLE, Message
from server.settings import Settings, get_settings

router = APIRouter(tags=["chat"])

MAX_BODY_BYTES = 24 * 1024 * 1024
MAX_CHARACTERS = 100_000
HEARTBEAT_SECONDS = 15


class ImageData(BaseModel):
    """An image as base64; its type is taken from its bytes."""

    media_type: Text | None = None
    data: Text


class ChatRequest(BaseModel):
    """What the user says."""

    session_id: BodyId = Field(examples=[1])
    message: Annotated[Text, Field(max_length=MAX_CHARACTERS, examples=["Hello!"])]
    stream: StrictBool = False
    images: list[Text | ImageData] = Field(
        default=[], description="`data:image/...;base64,` URLs, or objects.", examples=[[]]
    )

    @model_validator(mode="after")
    def _say_something(self) -> "ChatRequest":
        if not self.message.strip() and not self.images:
            raise ValueError("message must not be empty when there are no images")
        return self


_USER_EXAMPLE: dict[str, Any] = {
    **EXAMPLE,
    "id": 1,
    "role": "user",
    "content": "Hello!",
    "model": None,
    "usage": None,
}


class ChatAnswer(BaseModel):
    """The user's message as it was stored, and the assistant's."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"session_id": 1, "user_message": _USER_EXAMPLE, "message": EXAMPLE}
        }
    )

    session_id: int
    user_message: Message
    message: Message


_STREAM_EXAMPLE = (
    'event: start\ndata: {"user_message": {...}, "message": {...}}\nid: 0\n\n'
    'event: delta\ndata: {"content": "Hello"}\nid: 5\n\n'
    'event: done\ndata: {"message": {...}}\nid: 6\n\n'
)
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _STREAM_EXAMPLE}}
    },
    **problems(400, 401, 404, 413, 415, 422, 502, 504),
}


def _generations(request: Request) -> Generations:
    generations: Generations = request.app.state.generations
    return generations


@router.post("/chat", response_model=ChatAnswer, responses=_RESPONSES, max_body_size=MAX_BODY_BYTES)
async def chat(
    body: ChatRequest,
    caller: CurrentCaller,
    generations: Annotated[Generations, Depends(_generations)],
    settings: Annotated[Settings, Depends(get_settings)],
) -> ChatAnswer | Response:
    """Say something in a session; the agent's answer comes whole, or as an event stream."""
    sent = [image if isinstance(image, str) else image.data for image in body.images]
    images = await run_in_threadpool(checks.read_all, sent)
    turn = await run_in_threadpool(
        turns.begin,
        caller.id,
        body.session_id,
        body.message,
        images,
        generations.gateway.model,
        full_history=settings.gateway_history == "full",
    )
    generation = generations.start(turn, stream=body.stream)
    if body.stream:
        return EventSourceResponse(
            _events(generation),
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
    message = await generation.finished()
    if generation.problem is not None:
        generation.problem.members |= {
            "session_id": body.session_id,
            "message_id": generation.id,
            "user_message_id": turn.user_message.id,
        }
        raise generation.problem
    return ChatAnswer(session_id=body.session_id, user_message=turn.user_message, message=message)


async def _events(generation: Generation) -> AsyncIterator[bytes]:
    """The answer as events; each id is the number of characters up to there."""
    waiting = Message.from_row(generation.turn.assistant, [])
    user_message = generation.turn.user_message
    yield _event("start", {"user_message": _plain(user_message), "message": _plain(waiting)}, 0)
    async for place, text in generation.deltas(HEARTBEAT_SECONDS):
        yield _event("delta", {"content": text}, place) if text else KEEPALIVE_COMMENT
    message = _plain(await generation.finished())
    last = generation.length + 1
    if generation.problem is not None:
        yield _event("error", {**generation.problem.body(), "message": message}, last)
    else:
        yield _event("done", {"message": message}, last)


def _plain(message: Message) -> dict[str, Any]:
    return message.model_dump(mode="json")


def _event(event: str, data: dict[str, Any], place: int) -> bytes:
    # ASCII only: some clients take U+2028 for the end of a line.
    return format_sse_event(event=event, data_str=json.dumps(data), id=str(place))
