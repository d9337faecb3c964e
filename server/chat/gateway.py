"""What a gateway is to the rest of the service."""

from typing import Any, Protocol


class Sink(Protocol):
    """Where an answer goes as it comes."""

    def add_text(self, text: str) -> None:
        """The next piece of the answer."""

    def set_usage(self, prompt_tokens: int, completion_tokens: int) -> None:
        """The tokens that the gateway counted."""


class Gateway(Protocol):
    """What answers."""

    kind: str
    model: str

    async def answer(self, body: dict[str, Any], sink: Sink) -> None:
        """Put the answer into the sink; raises a `Problem` when it didn't come to its end.

        Empties `body` as soon as it is sent: it may hold images of many megabytes.
        """
        ...

    async def probe(self) -> None:
        """Raise a `Problem` unless the gateway can take requests."""
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...
