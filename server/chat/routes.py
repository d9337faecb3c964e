"""HTTP of the chat."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool, WithJsonSchema, model_validator
from starlette.responses import JSONResponse

from server.auth.guard import CurrentCaller
from server.chat import events, outcome, service
from server.chat.generations import Generation
from server.chat.service import Chat
from server.chat.turns import Replay, Wanted
from server.errors import BadRequest, Invalid, problems
from server.fields import BodyId, PathId, Text
from server.images import checks
from server.messages.message import EXAMPLE, Message

router = APIRouter(tags=["chat"])

MAX_BODY_BYTES = 24 * 1024 * 1024
MAX_CHARACTERS = 100_000


class ImageData(BaseModel):
    """An image as base64; its type is taken from its bytes."""

    media_type: Text | None = None
    data: Text


class ChatRequest(BaseModel):
    """What the user says."""

    session_id: BodyId = Field(examples=[1])
    message: Annotated[Text, Field(max_length=MAX_CHARACTERS, examples=["Hello!"])] = ""
    stream: StrictBool = False
    images: list[Text | ImageData] = Field(
        default=[],
        description="`data:image/...;base64,` URLs, or objects.",
        examples=[[]],
        json_schema_extra={"maxItems": checks.MAX_IMAGES},
    )

    parent_id: BodyId | None = Field(
        default=None,
        description="Where the message goes that doesn't go to the end: after this message, or, "
        "given as null, to the beginning.",
    )
    regenerate_of: BodyId | None = Field(
        default=None, description="Instead of a message: ask for another answer than this one."
    )

    @model_validator(mode="after")
    def _say_something(self) -> "ChatRequest":
        says = bool(self.message.strip() or self.images)
        if self.regenerate_of is None and not says:
            raise ValueError("message must not be empty when there are no images")
        if self.regenerate_of is not None and (says or "parent_id" in self.model_fields_set):
            raise ValueError("regenerate_of goes without message, images and parent_id")
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
    'event: delta\ndata: {"content": "Hello"}\nid: 10\n\n'
    'event: done\ndata: {"message": {...}}\nid: 11\n\n'
)
_EVENT = {
    "type": "object",
    "required": ["event", "data", "id"],
    "properties": {
        "event": {"type": "string", "enum": ["start", "delta", "done", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "id": {"type": "string", "pattern": "^[0-9]+$"},
    },
}
_STREAM = {"text/event-stream": {"itemSchema": _EVENT, "example": _STREAM_EXAMPLE}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": _STREAM},
    **problems(400, 401, 404, 409, 413, 415, 422, 502, 504),
}


def _chat(request: Request) -> Chat:
    chat: Chat = request.app.state.chat
    return chat


IdempotencyKey = Annotated[
    str | None,
    WithJsonSchema({"type": "string", "pattern": "^[!-~]{1,255}$"}),
    Header(description="The same key and body within 24 hours get the same messages."),
]
LastEventId = Annotated[
    str | None,
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{0,10}$"}),
    Header(description="The id of the last event that the client has."),
]


@router.post("/chat", response_model=ChatAnswer, responses=_RESPONSES, max_body_size=MAX_BODY_BYTES)
async def say(
    request: Request,
    body: ChatRequest,
    caller: CurrentCaller,
    idempotency_key: IdempotencyKey = None,
) -> ChatAnswer | Response:
    """Say something in a session; the agent's answer comes whole, or as an event stream."""
    sent = [image if isinstance(image, str) else image.data for image in body.images]
    images = await run_in_threadpool(checks.read_all, sent) if sent else []
    # Many megabytes, which must not be held for as long as the answer comes.
    sent.clear()
    body.images.clear()
    wanted = Wanted(
        body.session_id,
        body.message,
        images,
        parent=(body.parent_id,) if "parent_id" in body.model_fields_set else None,
        regenerate_of=body.regenerate_of,
        key=_check_key(idempotency_key),
    )
    chat = _chat(request)
    turn = await chat.generations.start(caller.id, wanted, stream=body.stream)
    if not isinstance(turn, Generation):
        return await _replay(chat, caller.id, turn, stream=body.stream)
    if body.stream:
        return EventSourceResponse(chat.listen(turn), headers=events.HEADERS)
    message = await turn.finished()
    asked = turn.turn.user_message
    if turn.problem is not None:
        raise service.located(turn.problem, asked, message)
    return ChatAnswer(session_id=body.session_id, user_message=asked, message=message)


async def _replay(chat: Chat, user_id: int, replayed: Replay, *, stream: bool) -> Response:
    """Tell again what a turn with this key has led to; the gateway is not asked."""
    asked, row = await chat.find_turn(user_id, replayed)
    headers = {"Idempotent-Replayed": "true"}
    if stream:
        told = chat.tell_again(asked, row)
        return EventSourceResponse(told, headers={**events.HEADERS, **headers})
    message = Message.from_row(row, [])
    problem = outcome.problem_of(row)
    if problem is not None:
        problem.headers |= headers
        raise service.located(problem, asked, message)
    answer = ChatAnswer(session_id=row["session_id"], user_message=asked, message=message)
    return JSONResponse(answer.model_dump(mode="json"), headers=headers)


def _check_key(key: str | None) -> str | None:
    if key is not None and not re.fullmatch(r"[!-~]{1,255}", key, re.ASCII):
        raise BadRequest(
            "Idempotency-Key: must be 1 to 255 printable ASCII characters without spaces.",
            code="bad_idempotency_key",
        )
    return key


@router.get(
    "/chat/{message_id}/stream",
    response_class=Response,
    responses={200: {"content": _STREAM}, **problems(400, 401, 404, 422)},
)
async def follow(
    request: Request,
    message_id: PathId,
    caller: CurrentCaller,
    last_event_id: LastEventId = None,
) -> Response:
    """Follow an answer from its beginning, or from where the client has it; see it end.

    Any process can be asked. An answer that has ended is told again.
    """
    place = _check_place(last_event_id)
    chat = _chat(request)
    row = await chat.find(caller.id, message_id)
    return EventSourceResponse(await chat.follow(row, place), headers=events.HEADERS)


def _check_place(last_event_id: str | None) -> int | None:
    if not last_event_id:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", last_event_id, re.ASCII):
        raise Invalid(
            "Last-Event-ID: is not an id of these events.", loc=("header", "Last-Event-ID")
        )
    return int(last_event_id)


@router.post("/chat/{message_id}/stop", responses=problems(400, 401, 404, 413, 422))
async def stop(request: Request, message_id: PathId, caller: CurrentCaller) -> Message:
    """End an answer now and keep its text; one that has ended stays as it is."""
    return await _chat(request).stop(caller.id, message_id)
