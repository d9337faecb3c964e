"""What the service has acknowledged, to be held against its database at the end."""

from collections import Counter
from typing import NamedTuple

from tests.service import Json
from tests.sql import Sql


class Said(NamedTuple):
    """Where the service says that it has stored a message."""

    message_id: int
    session_id: int


class Ledger:
    """Messages that must be there, and answers that must be stored as they were told."""

    def __init__(self) -> None:
        self.said: dict[str, Said] = {}
        self.told: dict[int, Json] = {}
        self._left: set[int] = set()

    def acknowledge(self, text: str, message_id: int, session_id: int) -> None:
        """The service has taken this message; each has a text of its own."""
        self.said[text] = Said(message_id, session_id)

    def tell(self, answer: Json) -> None:
        """The service has told the end of this answer."""
        self.told[answer["id"]] = answer

    def leave(self, session_id: int) -> None:
        """The session is being deleted: nothing in it needs to be there any more."""
        self._left.add(session_id)

    def kept(self) -> dict[str, Said]:
        """What must be in the database."""
        return {text: said for text, said in self.said.items() if said.session_id not in self._left}

    def differences(self, sql: Sql) -> list[str]:
        """What isn't in the database exactly once and as it was told."""
        rows = sql.rows("SELECT id, session_id, role, content, status FROM messages")
        asked = [row for row in rows if row["role"] == "user"]
        times = Counter(row["content"] for row in asked)
        there = {row["content"]: Said(row["id"], row["session_id"]) for row in asked}
        stored = {row["id"]: (row["status"], row["content"]) for row in rows}
        return [
            *(f"stored {n} times: {text[:40]!r}" for text, n in times.items() if n > 1),
            *(
                f"acknowledged as {said}, stored as {there.get(text)}: {text[:40]!r}"
                for text, said in self.kept().items()
                if there.get(text) != said
            ),
            *(
                f"told and stored differently: the answer {answer['id']}"
                for answer in self.told.values()
                if answer["session_id"] not in self._left
                and stored.get(answer["id"]) != (answer["status"], answer["content"])
            ),
        ]
