"""Chat completions of OpenAI's protocol, whole and streamed, from bytes to an answer."""

import json
import logging
from typing import Any, Protocol

from server.chat.gateway import Sink
from server.errors import GatewayFailed, Problem

log = logging.getLogger("clawd.gateway")

MAX_ANSWER = 8 * 1024 * 1024
# After the finish, for the usage; after the end mark, for the end of the response, so that the
# connection can be used again.
FINISH_SECONDS = 2.0
DONE_SECONDS = 0.25


class Patience(Protocol):
    """Whoever watches the deadlines, and must hear how far an answer is."""

    finished: bool

    def content_came(self) -> None:
        """The first or next piece of the answer."""

    def finish_came(self, seconds: float) -> None:
        """The answer is whole; what may still come has this long."""


class StreamedCompletion:
    """A streamed completion. Only a `finish_reason` or `[DONE]` without an error ends it well."""

    def __init__(self, sink: Sink, patience: Patience) -> None:
        self._sink = sink
        self._patience = patience
        self._size = 0
        self._done = False

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return self._patience.finished

    def take(self, name: str, data: str) -> None:
        """Take one event; raises a `Problem` when it says that the gateway failed."""
        if data.strip() == "[DONE]":
            # With nothing before it, it proves nothing.
            if self._size:
                self._patience.finish_came(DONE_SECONDS)
            self._done = True
        if self._done:
            return
        chunk = parse(data)
        if name == "error" or chunk.get("error") is not None:
            raise _said_error(chunk.get("error"))
        for choice in _choices(chunk):
            self._choice(choice)
        _take_usage(chunk, self._sink)

    def _choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        text = delta.get("content") if isinstance(delta, dict) else None
        if isinstance(text, str) and text:
            self._size += len(text)
            if self._size > MAX_ANSWER:
                raise nonsense("an answer without end")
            self._patience.content_came()
            self._sink.add_text(clean(text))
        if choice.get("finish_reason"):
            self._patience.finish_came(FINISH_SECONDS)


def _choices(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    """The first of the answers that a chunk carries; we asked for one."""
    choices = chunk.get("choices")
    found = choices if isinstance(choices, list) else []
    return [one for one in found if isinstance(one, dict) and not one.get("index")]


def clean(text: str) -> str:
    """Text that both databases can store: NUL and lone surrogates become U+FFFD."""
    return (
        text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def read_whole(body: bytes, sink: Sink) -> None:
    """Put a whole completion into the sink; raises a `Problem` when it is none."""
    completion = parse(body)
    if completion.get("error") is not None:
        raise _said_error(completion["error"])
    try:
        text = completion["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise nonsense("no choices") from error
    if isinstance(text, list):
        parts = [part.get("text") for part in text if isinstance(part, dict)]
        text = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(text, str):
        raise nonsense("no text")
    sink.add_text(clean(text[:MAX_ANSWER]))
    _take_usage(completion, sink)


def parse(data: str | bytes) -> dict[str, Any]:
    """A JSON object; raises a `Problem` for anything else."""
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise nonsense("no JSON") from error
    if not isinstance(parsed, dict):
        raise nonsense("no JSON object")
    return parsed


def _take_usage(completion: dict[str, Any], sink: Sink) -> None:
    usage = completion.get("usage")
    if not isinstance(usage, dict):
        return
    prompt, answer = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(answer) is not int:
        return
    # Zeros are what a gateway sends when its model didn't count.
    if min(prompt, answer) >= 0 and 0 < max(prompt, answer) < 2**53:
        sink.set_usage(prompt, answer)


class SaidError(GatewayFailed):
    """The gateway says itself that it failed, which outweighs everything before."""


def _said_error(error: object) -> Problem:
    kind = error.get("type") if isinstance(error, dict) else None
    log.warning("gateway reported an error", extra={"gateway_error": str(kind)[:100]})
    return SaidError("The AI gateway reported an error.")


def nonsense(what: str) -> Problem:
    """The gateway answered something that is no answer."""
    log.warning("gateway answered nonsense", extra={"what": what})
    return GatewayFailed("The AI gateway gave an unusable answer.", code="gateway_nonsense")


def broken_off() -> Problem:
    """The gateway ended before the answer did."""
    return GatewayFailed("The AI gateway broke off.", code="gateway_interrupted")
