"""What the gateway reads: HTTP requests, checked and understood as recorded."""

import asyncio
import base64
import binascii
import json
import re
import time
import uuid
from dataclasses import dataclass, field

from tests.gateway.protocol import Json, RecordedError, invalid

MEDIA_TYPES = {"image/png", "image/jpeg", "image/gif", "image/webp", "image/heic", "image/heif"}
# How the bytes of a real image begin; others are dropped without a word.
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF")
MARKER = re.compile(r"\[\[gateway:(.*?)\]\]")
MAX_IMAGES = 8
MAX_IMAGE_BYTES = 10 * 1024 * 1024
JSON_TYPES = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "number",
    float: "number",
    type(None): "null",
}
AGENTS = {"", "openclaw", "openclaw/default", "openclaw/main", "openclaw:main", "agent:main"}


@dataclass
class RecordedRequest:
    """A request as it came; the stub's thread sets the last two while it answers.

    Header names are in lower case; `body` is {} when it was no JSON object; `at` and
    `cancelled_at` (when the client was seen to have closed the connection too early) are
    seconds of time.monotonic().
    """

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes = field(repr=False)
    body: Json = field(default_factory=dict)
    at: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    cancelled_at: float | None = None

    @property
    def closes(self) -> bool:
        """Whether the client wants the connection closed afterwards."""
        return self.headers.get("connection", "").lower() == "close"


@dataclass(frozen=True)
class Prompt:
    """A valid chat request, understood; `text` and `images` are the last user message's.

    `marker` is what a `[[gateway:...]]` in that message says, and is not part of `text`.
    """

    model: str
    streaming: bool
    include_usage: bool
    session: str
    messages: int
    text: str
    images: tuple[str, ...]
    marker: str | None


class TooLarge(Exception):
    """The body is longer than the gateway takes."""


async def read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes, limit: int
) -> RecordedRequest:
    """The request that begins with `first`, read already.

    Raises TooLarge above `limit` bytes of body, EOFError when the client closes in the middle.
    """
    text = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = text.rstrip("\r\n").split("\r\n")
    method, path, _version = request_line.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    raw = await _body(reader, headers, limit)
    return RecordedRequest(method, path, headers, raw, _object(raw))


async def _body(reader: asyncio.StreamReader, headers: dict[str, str], limit: int) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        length = int(headers.get("content-length", "0"))
        if length > limit:
            raise TooLarge
        return await reader.readexactly(length)
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
        if len(body) > limit:
            raise TooLarge
    await reader.readuntil(b"\r\n")
    return bytes(body)


def _object(raw: bytes) -> Json:
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def understand(request: RecordedRequest) -> Prompt | RecordedError:
    """The prompt of a chat request, or the recorded 400."""
    refused = _wrong_json(request) or _wrong_types(request.body) or _wrong_model(request.body)
    if refused:
        return refused
    last = _last_message(request.body)
    images = _images(last)
    if images is None:
        return invalid("Invalid image_url content in `messages`.")
    text = _text(last)
    if not text.strip() and not images:
        return invalid("Missing user message in `messages`.")
    options = request.body.get("stream_options")
    marker = MARKER.search(text)
    return Prompt(
        model=str(request.body.get("model", "openclaw")),
        streaming=request.body.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        session=_session(request),
        messages=len(_messages(request.body)),
        text=MARKER.sub("", text).strip(),
        images=tuple(images),
        marker=marker[1] if marker else None,
    )


def _wrong_json(request: RecordedRequest) -> RecordedError | None:
    if request.body or not request.raw:  # recorded: an empty body is an empty object
        return None
    try:
        body = json.loads(request.raw)
    except ValueError:
        return invalid("Unexpected end of JSON input")
    return None if isinstance(body, dict) else _expected("", "object", body)


def _wrong_types(body: Json) -> RecordedError | None:
    expected = (("model", str, "string"), ("user", str, "string"), ("messages", list, "array"))
    for name, kind, word in expected:
        if name in body and not isinstance(body[name], kind):
            return _expected(name, word, body[name])
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        return _expected("stream", "boolean", stream)
    return None


def _expected(name: str, kind: str, value: object) -> RecordedError:
    got = JSON_TYPES[type(value)]
    return invalid(f"{name}: Invalid input: expected {kind}, received {got}")


def _wrong_model(body: Json) -> RecordedError | None:
    model = str(body.get("model", "openclaw")).lower()
    if model in AGENTS:
        return None
    if model.startswith("agent:"):
        return invalid(f"Unknown agent '{model.removeprefix('agent:')}'.")
    return invalid("Invalid `model`. Use `openclaw` or `openclaw/<agentId>`.")


def _messages(body: Json) -> list[Json]:
    messages = body.get("messages", [])
    assert isinstance(messages, list)
    return [message for message in messages if isinstance(message, dict)]


def _last_message(body: Json) -> Json:
    """The message to answer: the user's last or, recorded, the assistant's if there is no other."""
    for role in ("user", "assistant"):
        of_role = [message for message in _messages(body) if message.get("role") == role]
        if of_role:
            return of_role[-1]
    return {}


def _parts(message: Json) -> list[Json]:
    content = message.get("content") or ""
    if isinstance(content, list):
        return [part for part in content if isinstance(part, dict)]
    return [{"type": "text", "text": content}]


def _text(message: Json) -> str:
    parts = _parts(message)
    return "\n".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")


def _images(message: Json) -> list[str] | None:
    """The media types of the images that reach the model, None when one is refused."""
    parts = [part for part in _parts(message) if part.get("type") == "image_url"]
    if len(parts) > MAX_IMAGES:
        return None
    seen = []
    for part in parts:
        decoded = _image(part.get("image_url"))
        if decoded is None:
            return None
        media_type, data = decoded
        if data.startswith(MAGIC) or data[4:8] == b"ftyp":
            seen.append(media_type)
    return seen


def _image(source: object) -> tuple[str, bytes] | None:
    url = source.get("url") if isinstance(source, dict) else source
    media_type, _, encoded = str(url).removeprefix("data:").partition(";base64,")
    if media_type not in MEDIA_TYPES:
        return None
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return None
    return None if len(data) > MAX_IMAGE_BYTES else (media_type, data)


def _session(request: RecordedRequest) -> str:
    """The session a request belongs to: the header's, the user's, or one of its own."""
    key = request.headers.get("x-openclaw-session-key", "").strip().lower()
    if key:
        return key if key.startswith("agent:") else f"agent:main:{key}"
    return session_of_user(str(request.body.get("user", "")))


def session_of_user(user: str) -> str:
    """The session of a `user`: case and blanks around it do not count, an empty one is no user."""
    user = user.strip().lower()
    return f"agent:main:openai-user:{user}" if user else f"agent:main:openai:{uuid.uuid4()}"
