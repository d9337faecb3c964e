"""What the gateway writes: HTTP heads, JSON bodies, stream events."""

import json
import re
import time
import uuid
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Literal

Json = dict[str, object]
Headers = tuple[tuple[str, str], ...]

JSON_TYPE = "application/json; charset=utf-8"
TEXT_TYPE = "text/plain; charset=utf-8"
STREAM_TYPE = "text/event-stream; charset=utf-8"
SECURITY: Headers = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Permissions-Policy", "camera=(), microphone=(self), geolocation=()"),
)
NO_STORE: Headers = (("Cache-Control", "no-store"),)
DONE = "[DONE]"
# What http.STATUS_CODES of Node calls them, where Python's names are different.
REASONS = {413: "Payload Too Large"}


@dataclass(frozen=True)
class RecordedError:
    """A failure as the gateway words it; `streamed` is its message in a stream, if different."""

    status: int
    message: str
    type: str = "api_error"
    code: str | None = None
    headers: Headers = ()
    streamed: str | None = None

    def json(self, *, streamed: bool = False) -> Json:
        """The body, or the data of the event that ends a stream."""
        message = self.streamed if streamed and self.streamed else self.message
        error: Json = {"message": message, "type": self.type}
        if self.code:
            error["code"] = self.code
        return {"error": error}


def invalid(message: str) -> RecordedError:
    """The answer to a request that the gateway itself refuses to run."""
    return RecordedError(400, message, "invalid_request_error")


ERRORS: dict[str, RecordedError] = {
    # The gateway's own.
    "unauthorized": RecordedError(401, "Unauthorized", "unauthorized"),
    "rate-limited": RecordedError(
        429,
        "Too many failed authentication attempts. Please try again later.",
        "rate_limited",
        headers=(("Retry-After", "20"),),
    ),
    "bad-request": invalid("Missing user message in `messages`."),
    "too-large": RecordedError(413, "Payload too large", "invalid_request_error"),
    "draining": RecordedError(
        503,
        "Gateway is temporarily unavailable while suspending or restarting",
        "service_unavailable",
        "gateway_unavailable",
        headers=(*NO_STORE, ("Retry-After", "1")),
    ),
    "internal": RecordedError(500, "internal error"),
    # The model provider's, as the gateway passes them on.
    "provider-error": RecordedError(502, "upstream provider error"),
    "provider-overloaded": RecordedError(503, "upstream provider overloaded"),
    "provider-timeout": RecordedError(408, "upstream provider timeout"),
    "provider-rate-limit": RecordedError(429, "429 stub rate limit", "rate_limit_error"),
    "provider-key": RecordedError(401, "401 Incorrect API key provided", "authentication_error"),
    "provider-refused": invalid("400 stub bad request"),
    "breaker": RecordedError(
        500,
        "internal error",
        streamed=(
            'Inline API key for provider "stub" is temporarily disabled after a provider'
            " auth/billing failure. Retry after about 1 minute, or switch to a different"
            " auth profile/API key."
        ),
    ),
    # Only in streams: without one the same run is a success.
    "append-only": RecordedError(
        200, "Assistant output cannot be represented as an append-only response stream."
    ),
}


def json_text(value: object, indent: int | None = None) -> str:
    """What JSON.stringify writes, which escapes only control characters and lone surrogates."""
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(value, ensure_ascii=False, separators=separators, indent=indent)
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def head(status: int, headers: Headers) -> bytes:
    """A status line and headers, with the blank line after them."""
    reason = REASONS.get(status, HTTPStatus(status).phrase)
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def whole_head(
    status: int, length: int, content_type: str, extra: Headers = (), *, close: bool = False
) -> bytes:
    """The head of an answer whose length is known."""
    stay: Headers = (("Connection", "keep-alive"), ("Keep-Alive", "timeout=5"))
    return head(
        status,
        (
            *SECURITY,
            ("Content-Type", content_type),
            *extra,
            ("Date", formatdate(usegmt=True)),
            *((("Connection", "close"),) if close else stay),
            ("Content-Length", str(length)),
        ),
    )


def chunked_head(content_type: str, extra: Headers = (), *, close: bool = False) -> bytes:
    """The head of an answer that comes in HTTP chunks."""
    return head(
        200,
        (
            *SECURITY,
            ("Content-Type", content_type),
            ("Cache-Control", "no-cache"),
            *extra,
            ("Connection", "close" if close else "keep-alive"),
            ("Date", formatdate(usegmt=True)),
            ("Transfer-Encoding", "chunked"),
        ),
    )


def http_chunk(data: bytes) -> bytes:
    """One HTTP chunk; an empty one ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(frozen=True)
class Completion:
    """One answer: what all its chunks have in common."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl_{uuid.uuid4()}")
    created: int = field(default_factory=lambda: int(time.time()))

    def role(self) -> Json:
        """The first chunk, sent before the model is called."""
        return self._chunk([self._choice({"role": "assistant"}, None)])

    def content(self, text: str) -> Json:
        """A piece of the answer."""
        return self._chunk([self._choice({"content": text}, None)])

    def finish(self, reason: str) -> Json:
        """The chunk that says why the answer is over."""
        return self._chunk([self._choice({}, reason)])

    def usage(self, usage: Json) -> Json:
        """The chunk that only `stream_options.include_usage` brings."""
        return {**self._chunk([]), "usage": usage}

    def whole(self, text: str, reason: str | None, usage: Json | None) -> Json:
        """The answer in one body; without `usage` when that is None."""
        message: Json = {"role": "assistant", "content": text}
        choices = [{"index": 0, "message": message, "finish_reason": reason}]
        body = {**self._chunk(choices), "object": "chat.completion"}
        return body if usage is None else {**body, "usage": usage}

    def _chunk(self, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _choice(self, delta: Json, reason: str | None) -> Json:
        return {"index": 0, "delta": delta, "finish_reason": reason}


@dataclass(frozen=True)
class Wire:
    """How events are written; everything but the default is allowed by SSE, not done by OpenClaw.

    `split` sends every character of more than one byte in two HTTP chunks and two TCP writes,
    `noise` puts comments, ids, retries, unknown events and unknown fields between the events.
    """

    line_ends: Literal["lf", "crlf", "cr"] = "lf"
    bom: bool = False
    multi_line: bool = False
    split: bool = False
    noise: bool = False

    def lines(self, *lines: str) -> bytes:
        """The lines, ended as this wire ends them."""
        end = {"lf": "\n", "crlf": "\r\n", "cr": "\r"}[self.line_ends]
        return "".join(line + end for line in lines).encode()

    def event(self, data: Json | str) -> bytes:
        """One event with this data."""
        before = self.lines(*NOISE) if self.noise else b""
        if isinstance(data, str):
            return before + self.lines(f"data: {data}", "")
        if self.noise:
            data = {**data, "system_fingerprint": None, "x_unknown": {"choices": "no"}}
        text = json_text(data, indent=1 if self.multi_line else None)
        return before + self.lines(*(f"data: {line}" for line in text.split("\n")), "")

    def writes(self, data: bytes) -> list[bytes]:
        """The data as the writes to make of it, one normally."""
        return SECOND_BYTE.split(data) if self.split else [data]


PLAIN = Wire()
# Cuts between the first byte of a UTF-8 sequence and the second.
SECOND_BYTE = re.compile(rb"(?<=[\xc2-\xf4])(?=[\x80-\xbf])")
NOISE = (
    ": a comment",
    "id: 7",
    "retry: 100000",
    "unknown: field",
    "nothing",
    "",
    "event: progress",
    'data: {"step":"thinking"}',
    "",
)
