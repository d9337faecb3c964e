"""Server-sent events going out: what clients read, whatever the answer holds."""

import asyncio
from datetime import UTC, datetime

import pytest

from server.chat import events
from server.chat.transcript import Transcript
from server.messages.message import Message
from tests.service import parse_events

ROW = {
    "id": 2,
    "session_id": 1,
    "role": "assistant",
    "status": "complete",
    "error": None,
    "model": "agent:main",
    "prompt_tokens": None,
    "completion_tokens": None,
    "created_at": datetime(2026, 11, 21, tzinfo=UTC),
}


@pytest.mark.parametrize(
    "text",
    [
        "hi\n\nevent: error\ndata: {}\n\n",
        "a\r\rdata: {}\r\r",
        "a\u2028\u2029\x85b",
        "id: 7\n",
        "\ufeff",
    ],
)
def test_no_text_begins_an_event(text: str) -> None:
    """An answer that spells an event is text; ASCII alone, as some clients end lines at U+2028."""
    transcript, row = Transcript(), {**ROW, "content": text}
    transcript.add_text(text)
    transcript.end(Message.from_row(row, []), None)

    async def listen() -> bytes:
        return b"".join([event async for event in events.listen(transcript, row, None, None)])

    told = parse_events(asyncio.run(listen()).decode("ascii"))
    assert [event.name for event in told] == ["start", "delta", "done"]
    assert told[1].data == {"content": text}
    assert told[2].data["message"]["content"] == text


def test_a_silent_answer_shows_that_it_lives() -> None:
    """At least every 15 seconds, so that no proxy takes a stream for dead."""
    assert events.HEARTBEAT_SECONDS <= 15
    transcript = Transcript()

    async def listen() -> tuple[int, str]:
        async with asyncio.timeout(5):
            return await anext(transcript.deltas(0, 0.05))

    assert asyncio.run(listen()) == (0, "")
