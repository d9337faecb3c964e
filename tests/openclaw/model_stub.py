"""An OpenAI-compatible model provider that answers from nothing but the messages it is sent.

So when it can say a name that was told three turns ago, the gateway has put those turns into the
request.
"""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

MODEL = "stub-1"
CHUNK_PAUSE_S = 0.02

Message = dict[str, Any]


@dataclass(frozen=True)
class ProviderRequest:
    """One request as it reached the provider."""

    path: str
    authorization: str
    body: dict[str, Any]

    @property
    def messages(self) -> list[Message]:
        """The conversation, the gateway's own system prompt included."""
        messages: list[Message] = self.body["messages"]
        return messages

    @property
    def user_texts(self) -> list[str]:
        """What the user said, one text per turn, oldest first."""
        return [text_of(message) for message in user_turns(self.messages)]

    @property
    def session(self) -> str:
        """The name of the gateway's session, which it tells the model with the first turn."""
        found = re.search(r"\bsession=(\S+)", "\n".join(self.user_texts))
        return found[1] if found else ""


@dataclass
class ModelStub:
    """A provider on a loopback port, from `with ModelStub() as model` to the end of the block."""

    requests: list[ProviderRequest] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The base URL that the gateway is given, `/v1` included."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"


def reply(messages: list[Message]) -> str:
    """The answer to the last turn: what it asks back from all turns, which images came with it."""
    turns = user_turns(messages)
    question = text_of(turns[-1]).lower()
    told = "\n".join(text_of(turn) for turn in turns)
    answers = []
    if "what is my name" in question:
        answers.append(_recall(told, r"my name is (\w+)", "Your name is {}."))
    if "which word" in question:
        answers.append(_recall(told, r"remember the word (\w+)", "The word is {}."))
    if images := media_types(turns[-1]):
        plural = "image" if len(images) == 1 else "images"
        answers.append(f"I see {len(images)} {plural}: {', '.join(images)}.")
    return " ".join(answers) or f"Noted, that was turn {len(turns)}."


def _recall(told: str, pattern: str, sentence: str) -> str:
    found: list[str] = re.findall(pattern, told, re.IGNORECASE)
    return sentence.format(found[-1]) if found else "I was never told."


def user_turns(messages: list[Message]) -> list[Message]:
    """The user's messages, without those in which the gateway talks to the model about itself."""
    return [
        message
        for message in messages
        if message["role"] == "user" and "OPENCLAW_INTERNAL_CONTEXT" not in text_of(message)
    ]


def text_of(message: Message) -> str:
    """A message's text, its parts joined."""
    return "\n".join(part["text"] for part in _parts(message) if part["type"] == "text")


def media_types(message: Message) -> list[str]:
    """The media types of a message's images, in order."""
    urls = [part["image_url"]["url"] for part in _parts(message) if part["type"] == "image_url"]
    return [url.removeprefix("data:").partition(";")[0] for url in urls]


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message.get("content") or ""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, stub: ModelStub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stub = stub


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Answers a chat completion, streamed when asked for; any other path is 404."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert isinstance(self.server, _Server)
        authorization = self.headers.get("Authorization", "")
        self.server.stub.requests.append(ProviderRequest(self.path, authorization, body))
        if self.path != "/v1/chat/completions":
            self.send_error(404)
        elif body.get("stream"):
            self._stream(reply(body["messages"]))
        else:
            self._answer(reply(body["messages"]))

    def _answer(self, text: str) -> None:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self._head("application/json")
        body = {**_envelope(""), "choices": [choice], "usage": _usage(text)}
        self.wfile.write(json.dumps(body).encode())

    def _stream(self, text: str) -> None:
        self._head("text/event-stream")
        # The gateway drops the connection when its run is cancelled; then nobody wants the rest.
        with suppress(ConnectionError):
            for chunk in _chunks(text):
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                time.sleep(CHUNK_PAUSE_S)
            self.wfile.write(b"data: [DONE]\n\n")

    def _head(self, media_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silence: what matters is in the list of requests."""


def _chunks(text: str) -> Iterator[dict[str, Any]]:
    for word in re.findall(r"\S+\s*", text):
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        yield {**_envelope(".chunk"), "choices": [choice]}
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    yield {**_envelope(".chunk"), "choices": [end]}
    yield {**_envelope(".chunk"), "choices": [], "usage": _usage(text)}


def _envelope(suffix: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-stub",
        "object": f"chat.completion{suffix}",
        "created": int(time.time()),
        "model": MODEL,
    }


def _usage(text: str) -> dict[str, int]:
    words = len(text.split())
    return {"prompt_tokens": 100, "completion_tokens": words, "total_tokens": 100 + words}
