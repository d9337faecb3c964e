"""A turn of a conversation: what the user says, committed before anybody is asked for an answer."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import database_adapter
from server.chat.request import Said
from server.errors import NotFound
from server.images import queries as images
from server.images.checks import MAX_TOTAL_BYTES, Image
from server.messages import queries as messages
from server.messages.message import Message
from server.sessions import queries as sessions
from server.storage.contract import Connection, Row


@dataclass
class Turn:
    """The user's message, the assistant's row that awaits its text, what was said before."""

    user_id: int
    session_key: str
    user_message: Message
    assistant: Row
    said: list[Said] = field(default_factory=list)


def begin(
    user_id: int, session_id: int, text: str, sent: list[Image], model: str, *, full_history: bool
) -> Turn:
    """Store the user's message and a row for the answer, in one transaction."""
    now = datetime.now(UTC)
    with database_adapter.get_db() as conn:
        session = sessions.find_session(conn, user_id, session_id)
        if session is None:
            raise NotFound()
        sessions.touch(conn, user_id, session_id, now)
        before = _history(conn, user_id, session_id) if full_history else []
        row = messages.add_message(conn, user_id, session_id, "user", text, "complete", None, now)
        stored = [images.add_image(conn, user_id, row["id"], image) for image in sent]
        assistant = messages.add_message(
            conn, user_id, session_id, "assistant", "", "streaming", model, now
        )
    return Turn(
        user_id,
        session["session_key"],
        Message.from_row(row, stored),
        assistant,
        [*before, Said("user", text, sent)],
    )


def _history(conn: Connection, user_id: int, session_id: int) -> list[Said]:
    """What was said before, with the newest images that fit into one request."""
    kept: dict[int, list[Image]] = {}
    room = MAX_TOTAL_BYTES
    for row in reversed(images.list_session_images(conn, user_id, session_id)):
        data = bytes(row["data"])
        room -= len(data)
        if room < 0:
            break
        kept.setdefault(row["message_id"], []).insert(0, Image(row["media_type"], data))
    return [
        Said(row["role"], row["content"], kept.get(row["id"], []))
        for row in messages.list_conversation(conn, user_id, session_id)
    ]
