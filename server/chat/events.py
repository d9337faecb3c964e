"""Server-sent events going out: `start`, `delta`s, then `done` or `error`.

An event's id is twice its place, in characters of the answer up to its end; the last event's is
one more than that, and so the only odd one. A client that comes again with `Last-Event-ID` says
how much it has, and whether it has heard the end; also after a crash that lost what it had seen.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from server.chat.transcript import Transcript
from server.messages.message import Message
from server.storage.contract import Row

HEARTBEAT_SECONDS = 15.0
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def listen(
    transcript: Transcript, assistant: Row, asked: Message | None, last_event_id: int | None
) -> AsyncIterator[bytes]:
    """The answer as events, from the beginning or after the last event that the client has."""
    if last_event_id is None:
        yield _event("start", _start(assistant, asked), 0)
    elif last_event_id % 2:
        return
    async for place, text in transcript.deltas((last_event_id or 0) // 2, HEARTBEAT_SECONDS):
        yield _event("delta", {"content": text}, 2 * place) if text else KEEPALIVE_COMMENT
    if transcript.final is None:
        return
    final, end = _plain(transcript.final), 2 * transcript.length + 1
    if transcript.problem is not None:
        yield _event("error", {**transcript.problem.body(), "message": final}, end)
    else:
        yield _event("done", {"message": final}, end)


def _start(assistant: Row, asked: Message | None) -> dict[str, Any]:
    """Both messages as they were when the answer began."""
    begun = {**assistant, "content": "", "status": "streaming", "error": None}
    begun |= {"prompt_tokens": None, "completion_tokens": None}
    return {
        "user_message": asked and _plain(asked),
        "message": _plain(Message.from_row(begun, [])),
    }


def _plain(message: Message) -> dict[str, Any]:
    return message.model_dump(mode="json")


def _event(event: str, data: dict[str, Any], place: int) -> bytes:
    # ASCII only: some clients take U+2028 for the end of a line.
    return format_sse_event(event=event, data_str=json.dumps(data), id=str(place))
