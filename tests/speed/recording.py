"""What the service says to its database: every statement, written down as it goes."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.faults.proxy import Proxy

CONNECT, PASSWORD = "(connect)", "(password)"
FRAMES = ("BEGIN", "COMMIT", "ROLLBACK", "PREPARE", "PRAGMA", CONNECT, PASSWORD)
# What the service does by itself now and then: of each such transaction a statement's beginning.
BACKGROUND = (
    # It shows that it lives, and looks after the others.
    "INSERT INTO workers",
    "DELETE FROM workers",
    "SELECT id, beat, process FROM workers",
    "UPDATE messages SET status = 'interrupted'",
    # It saves what has streamed, and looks who wants an end.
    "UPDATE messages SET content = saved.column2",
    "SELECT id, stop_requested FROM messages",
    # The chores of every minute.
    "SELECT id, user_id, name, db_name, status FROM projects WHERE status <> 'active'",
    "SELECT id, user_id, name, description, db_name, status, deleted_at, due_at, kept_name "
    "FROM deleted_projects WHERE status = 'purging'",
    "SELECT id, user_id FROM sessions WHERE deleting",
    "DELETE FROM auth_attempts WHERE at <",
    "DELETE FROM auth_tokens WHERE token_hash IN",
    "DELETE FROM idempotency_keys WHERE created_at <=",
)
# The same of what has a connection of its own: the chore that looks for databases left half made.
BACKGROUND_CONNECTIONS = ("SELECT datname FROM pg_database WHERE starts_with",)
_AUTHENTICATED = bytes(4)
_MESSAGE = re.compile(r"(?:(BEGIN[\w ]*); )?(.*?)(?:; (COMMIT|ROLLBACK);?)?")


@dataclass(frozen=True)
class Statement:
    """A text that a connection sent; `waited` unless it went on before the last was answered."""

    connection: int
    text: str
    waited: bool = True

    @property
    def frames(self) -> bool:
        """Whether it only begins, ends or prepares what others do."""
        return self.text.startswith(FRAMES)


class Recorder(Protocol):
    """Where a service's statements are written down."""

    def said(self) -> list[Statement]:
        """All of them up to now, in their order."""
        ...


def without_background(said: Sequence[Statement]) -> list[Statement | None]:
    """The same, with None for what is the service's own business, whole transactions of it."""
    own = {one.connection for one in said if one.text.startswith(BACKGROUND_CONNECTIONS)}
    kept = [None if one.connection in own else one for one in said]
    for transaction in _transactions(said):
        if any(said[at].text.startswith(BACKGROUND) for at in transaction):
            for at in transaction:
                kept[at] = None
    return kept


def _transactions(said: Sequence[Statement]) -> Iterator[list[int]]:
    """The places of what a connection said from a BEGIN to its end, and of all else by itself."""
    open_ones: dict[int, list[int]] = {}
    for at, one in enumerate(said):
        begins, ends = one.text.startswith("BEGIN"), one.text.startswith(("COMMIT", "ROLLBACK"))
        if begins or one.connection in open_ones:
            open_ones.setdefault(one.connection, []).append(at)
        else:
            yield [at]
        if ends:
            yield open_ones.pop(one.connection, [])
    yield from open_ones.values()


@dataclass
class _Talk:
    """One connection, as far as it has been heard (PostgreSQL's protocol 3.0)."""

    number: int
    asked: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)
    begun: bool = False
    waiting: bool = False

    def ask(self, data: bytes) -> Iterator[Statement]:
        """Take bytes of the client; the statements in them."""
        self.asked += data
        if not self.begun and self.asked:
            # The first message, of a user and a database, has no kind.
            del self.asked[: int.from_bytes(self.asked[:4])]
            self.begun = True
            yield self._say(CONNECT)
        for kind, body in _messages(self.asked):
            match kind:
                case b"Q":
                    yield from map(self._say, _statements(body[:-1].decode()))
                case b"p":
                    yield self._say(PASSWORD)
                case b"X":  # a goodbye has no answer
                    pass
                case _:
                    yield self._say(f"a message of the kind {kind.decode()}")

    def _say(self, text: str) -> Statement:
        waited, self.waiting = not self.waiting, True
        return Statement(self.number, text, waited)

    def answer(self, data: bytes) -> None:
        """Take bytes of the server: whether it waits for the client again."""
        self.answered += data
        for kind, body in _messages(self.answered):
            if kind == b"Z" or (kind == b"R" and body[:4] != _AUTHENTICATED):
                self.waiting = False


def _statements(text: str) -> list[str]:
    """A text without its line ends; what begins or ends a transaction may share its message."""
    found = _MESSAGE.fullmatch(" ".join(text.split()))
    return [part for part in found.groups() if part] if found else []


def _messages(buffer: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """The whole messages at the start of the buffer, which they leave."""
    while len(buffer) >= 5 and len(buffer) > (size := int.from_bytes(buffer[1:5])):
        kind, body = bytes(buffer[:1]), bytes(buffer[5 : 1 + size])
        del buffer[: 1 + size]
        yield kind, body


class Wire(Proxy):
    """A network to PostgreSQL that writes down what its clients say."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self._talks: dict[int, _Talk] = {}
        self._said: list[Statement] = []

    def said(self) -> list[Statement]:
        """All that went over it up to now."""
        return list(self._said)

    def overhear(self, link: int, data: bytes, *, client: bool) -> None:
        """Write down what it means."""
        talk = self._talks.setdefault(link, _Talk(link))
        if client:
            self._said += talk.ask(data)
        else:
            talk.answer(data)


class Trace:
    """The file into which `traced` writes what is said to SQLite."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def said(self) -> list[Statement]:
        """All that was said up to now."""
        pairs = (json.loads(line) for line in self.path.read_text("utf-8").splitlines())
        return [Statement(number, " ".join(text.split())) for number, text in pairs]
