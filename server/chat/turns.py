"""A turn of a conversation: what the user says, committed before anybody is asked for an answer."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import database_adapter
from server.chat import queries
from server.chat.request import Said
from server.errors import Conflicting, Invalid, NotFound
from server.images import queries as images
from server.images.checks import MAX_TOTAL_BYTES, Image
from server.messages import branches
from server.messages import queries as messages
from server.messages.message import Message, from_joined
from server.messages.queries import Generator, Place
from server.sessions import queries as sessions
from server.storage.contract import Conflict, Connection, OutcomeUnknown, Row

KEY_LIFETIME = timedelta(hours=24)
END: Place = Place(forked=False, parent_id=None)


@dataclass(frozen=True)
class Wanted:
    """What the user asks for.

    `parent` is where a message goes that doesn't go to the end: after that message, or, with
    None in it, to the beginning. `regenerate_of` asks for another answer instead of a message.
    """

    session_id: int
    text: str
    images: list[Image]
    parent: tuple[int | None] | None = None
    regenerate_of: int | None = None
    key: str | None = None

    def fingerprint(self) -> str:
        """The same for the same wish, however the answer is to come."""
        pictures = [hashlib.sha256(image.data).hexdigest() for image in self.images]
        wish = [self.session_id, self.text, pictures, self.parent, self.regenerate_of]
        return hashlib.sha256(json.dumps(wish).encode()).hexdigest()


@dataclass
class Turn:
    """The user's message, the assistant's row that awaits its text, what was said before."""

    user_id: int
    session_key: str
    user_message: Message
    assistant: Row
    said: list[Said] = field(default_factory=list)


class InDoubt(OutcomeUnknown):
    """The connection broke during the COMMIT of this turn: it may be stored."""

    def __init__(self, turn: Turn) -> None:
        super().__init__("the connection broke while a turn was stored")
        self.turn = turn


@dataclass(frozen=True)
class Replay:
    """The messages that an idempotency key stands for already."""

    user_message_id: int
    message_id: int


def begin(
    user_id: int, wanted: Wanted, generator: Generator, *, full_history: bool
) -> Turn | Replay:
    """Store the user's message and a row for the answer, in one transaction.

    Raises 409 while the session's last answer is still being generated, and `InDoubt`.
    """
    while True:
        try:
            return _begin(user_id, wanted, generator, full_history=full_history)
        except Conflict:
            with database_adapter.read_db() as conn:
                running = queries.find_running(conn, user_id, wanted.session_id)
        if running is None:
            # It ended between the two: the session is free.
            continue
        raise Conflicting(
            "The agent is still answering in this session.",
            code="session_busy",
            retry_after=1,
            message_id=running,
        )


def _begin(
    user_id: int, wanted: Wanted, generator: Generator, *, full_history: bool
) -> Turn | Replay:
    turn: Turn | Replay | None = None
    try:
        with database_adapter.get_db() as conn:
            turn = _store(conn, user_id, wanted, generator, full_history=full_history)
    except OutcomeUnknown as error:
        if isinstance(turn, Turn):
            raise InDoubt(turn) from error
        raise
    return turn


def _store(
    conn: Connection, user_id: int, wanted: Wanted, generator: Generator, *, full_history: bool
) -> Turn | Replay:
    now = datetime.now(UTC)
    if wanted.key is not None:
        replay = _claim_key(conn, user_id, wanted.key, wanted.fingerprint(), now)
        if replay is not None:
            return replay
    session_key = sessions.touch(conn, user_id, wanted.session_id, now)
    if session_key is None:
        raise NotFound()
    say = _say if wanted.regenerate_of is None else _say_again
    asked, said, answer = say(conn, user_id, wanted, generator, now, full_history=full_history)
    if wanted.key is not None:
        queries.fill_key(conn, user_id, wanted.key, asked.id, answer["id"])
    return Turn(user_id, session_key, asked, answer, said)


def _claim_key(
    conn: Connection, user_id: int, key: str, fingerprint: str, now: datetime
) -> Replay | None:
    known = queries.claim_key(conn, user_id, key, fingerprint, now, now - KEY_LIFETIME)
    if known["message_id"] is None:
        return None
    if known["fingerprint"] != fingerprint:
        raise Invalid(
            "This Idempotency-Key was used for another request.",
            loc=("header", "Idempotency-Key"),
            code="idempotency_key_reused",
        )
    answer = queries.find_answer(conn, user_id, known["message_id"])
    if answer is not None and answer["status"] == "streaming":
        raise Conflicting(
            "The first request with this Idempotency-Key is still running.",
            code="idempotency_in_progress",
            retry_after=1,
            message_id=answer["id"],
        )
    return Replay(known["user_message_id"], known["message_id"])


def _say(
    conn: Connection,
    user_id: int,
    wanted: Wanted,
    generator: Generator,
    now: datetime,
    *,
    full_history: bool,
) -> tuple[Message, list[Said], Row]:
    """Store what the user says; it, all that the gateway is told, and the answer's row."""
    session_id = wanted.session_id
    place = _place(conn, user_id, wanted)
    before = _before(conn, user_id, session_id, place) if full_history else []
    row, answer = messages.add_turn(conn, user_id, session_id, wanted.text, place, generator, now)
    stored = [images.add_image(conn, user_id, row["id"], image) for image in wanted.images]
    said = Said("user", wanted.text, wanted.images)
    return Message.from_row(row, stored), [*before, said], answer


def _before(conn: Connection, user_id: int, session_id: int, place: Place) -> list[Said]:
    """What was said on the way to a message that is to be stored."""
    leaf = place.parent_id if place.forked else messages.find_newest(conn, user_id, session_id)
    if leaf is None:
        return []
    return _said(conn, user_id, session_id, branches.spans(conn, user_id, session_id, leaf))


def _say_again(
    conn: Connection,
    user_id: int,
    wanted: Wanted,
    generator: Generator,
    now: datetime,
    *,
    full_history: bool,
) -> tuple[Message, list[Said], Row]:
    """The same for another answer to what the user has said before."""
    answer = messages.find_message(conn, user_id, wanted.session_id, wanted.regenerate_of or 0)
    asked_id = answer and branches.parent(conn, user_id, answer)
    asked = asked_id and messages.find_message(conn, user_id, wanted.session_id, asked_id)
    if not answer or not asked or answer["role"] != "assistant" or asked["role"] != "user":
        raise Invalid(
            "regenerate_of: is not an answer in this session",
            loc=("body", "regenerate_of"),
            code="unknown_message",
        )
    leaf = asked["id"]
    spans = (
        branches.spans(conn, user_id, wanted.session_id, leaf) if full_history else [(leaf, leaf)]
    )
    said = _said(conn, user_id, wanted.session_id, spans)
    described = images.describe_images(conn, user_id, leaf)
    sessions.mark_forked(conn, user_id, wanted.session_id)
    other = messages.add_answer(conn, user_id, wanted.session_id, leaf, generator, now)
    return Message.from_row(asked, described), said, other


def _place(conn: Connection, user_id: int, wanted: Wanted) -> Place:
    if wanted.parent is None:
        return END
    (parent_id,) = wanted.parent
    if parent_id == messages.find_newest(conn, user_id, wanted.session_id):
        return END
    if parent_id is not None and not messages.find_message(
        conn, user_id, wanted.session_id, parent_id
    ):
        raise Invalid(
            "parent_id: is not a message of this session",
            loc=("body", "parent_id"),
            code="unknown_message",
        )
    sessions.mark_forked(conn, user_id, wanted.session_id)
    return Place(forked=True, parent_id=parent_id)


def _said(
    conn: Connection, user_id: int, session_id: int, spans: list[messages.Span]
) -> list[Said]:
    """What was said within the spans, with the newest images that fit into one request."""
    rows = messages.list_conversation(conn, user_id, session_id, spans)
    pictures: dict[int, list[Image]] = {row["id"]: [] for row in rows}
    room = MAX_TOTAL_BYTES
    for low, high in spans:
        for found in images.list_sizes(conn, user_id, session_id, low, high):
            room -= found["size_bytes"]
            row = images.find_image(conn, user_id, found["id"]) if room >= 0 else None
            if row is not None and found["message_id"] in pictures:
                image = Image(row["media_type"], bytes(row["data"]))
                pictures[found["message_id"]].insert(0, image)
    return [
        Said(row["role"], row["content"], pictures[row["id"]])
        for row in rows
        if row["content"] or pictures[row["id"]]
    ]


def find_messages(user_id: int, replay: Replay) -> tuple[Message, Row] | None:
    """The two messages of a turn that was taken before; None when they are gone."""
    with database_adapter.read_db() as conn:
        answer = queries.find_answer(conn, user_id, replay.message_id)
        asked = messages.list_joined(conn, user_id, replay.user_message_id)
    return (from_joined(asked)[0], answer) if answer is not None and asked else None


def find_asked(user_id: int, answer: Row) -> Message | None:
    """The user's message that an answer answers, if there is one."""
    with database_adapter.read_db() as conn:
        asked_id = branches.parent(conn, user_id, answer)
        joined = messages.list_joined(conn, user_id, asked_id) if asked_id else []
    asked = from_joined(joined)
    return asked[0] if asked and asked[0].role == "user" else None


def forget_keys() -> None:
    """Remove idempotency keys that no longer count."""
    with database_adapter.change_db() as conn:
        queries.forget_keys(conn, datetime.now(UTC) - KEY_LIFETIME)
