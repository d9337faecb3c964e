"""Server-sent events going out: `start`, `delta`s, then `done` or `error`.

An event's id is the place after it, in characters of the answer; the last one's is one more. So a
client that comes again with `Last-Event-ID` says exactly how much it has.
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
        first = {**assistant, "content": "", "status": "streaming", "error": None}
        first |= {"prompt_tokens": None, "completion_tokens": None}
        message = _plain(Message.from_row(first, []))
        yield _event("start", {"user_message": asked and _plain(asked), "message": message}, 0)
    async for place, text in transcript.deltas(last_event_id or 0, HEARTBEAT_SECONDS):
        yield _event("delta", {"content": text}, place) if text else KEEPALIVE_COMMENT
    end = transcript.length + 1
    if transcript.final is None or (last_event_id is not None and last_event_id >= end):
        return
    final = _plain(transcript.final)
    if transcript.problem is not None:
        yield _event("error", {**transcript.problem.body(), "message": final}, end)
    else:
        yield _event("done", {"message": final}, end)


def _plain(message: Message) -> dict[str, Any]:
    return message.model_dump(mode="json")


def _event(event: str, data: dict[str, Any], place: int) -> bytes:
    # ASCII only: some clients take U+2028 for the end of a line.
    return format_sse_event(event=event, data_str=json.dumps(data), id=str(place))
