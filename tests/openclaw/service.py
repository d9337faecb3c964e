"""The service as a child process in front of the real gateway, used over HTTP alone."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.openclaw.gateway import answers, free_port

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 30.0
STOPPED_WITHIN_S = 20.0
# Longer than the service waits for the gateway's first word: it is the service that gives up.
ANSWER_WITHIN_S = 200.0
PASSWORD = "a long walk along the river"

Json = dict[str, Any]


@dataclass(frozen=True)
class Transcript:
    """What went to the service and what came back; written only when there is a path."""

    path: Path | None

    def heading(self, text: str) -> None:
        """Opens a part of the text."""
        self._write(f"\n## {text}\n")

    def exchange(self, request: str, body: Json, status: int, answer: str) -> None:
        """Notes one request with its answer, passwords, tokens and the bytes of images removed."""
        sent = json.dumps(body, ensure_ascii=False)
        received = answer.strip()
        self._write(f"\n**{request}**\n\n```\n{sent}\n```\n\n{status}\n\n```\n{received}\n```\n")

    def _write(self, text: str) -> None:
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_without_secrets(text))


def _without_secrets(text: str) -> str:
    text = re.sub(r'("(?:access_token|password)": ?")[^"]*', r"\1<removed>", text)
    return re.sub(r"(base64,[\w+/]{12})[\w+/=]*", r"\1...", text)


@dataclass(frozen=True)
class Answer:
    """An answer of POST /chat, in one shape for both ways of asking."""

    status: int
    media_type: str
    raw: str
    events: list[tuple[str, Json]] = field(default_factory=list)

    @property
    def body(self) -> Json:
        """The JSON body; of a stream, the data of its last event."""
        body: Json = self.events[-1][1] if self.events else json.loads(self.raw)
        return body

    @property
    def text(self) -> str:
        """What the assistant said, as the finished message has it."""
        text: str = self.body["message"]["content"]
        return text

    @property
    def deltas(self) -> list[str]:
        """The pieces in which a stream brought the text."""
        return [data["content"] for name, data in self.events if name == "delta"]


@dataclass(frozen=True)
class Session:
    """One conversation of one user of the service."""

    id: int
    key: str
    http: httpx.Client
    transcript: Transcript

    def ask(self, message: str, *images: str, stream: bool = False) -> Answer:
        """Sends a message, with images as data URLs, and waits for the whole answer."""
        body = {"session_id": self.id, "message": message, "images": images, "stream": stream}
        response = self.http.post("/chat", json=body)
        self.transcript.exchange("POST /chat", body, response.status_code, response.text)
        media_type = response.headers["content-type"].partition(";")[0]
        events = list(_events(response.text)) if media_type == "text/event-stream" else []
        return Answer(response.status_code, media_type, response.text, events)

    def messages(self) -> list[Json]:
        """The conversation as the service keeps it, oldest first."""
        response = self.http.get(f"/sessions/{self.id}/messages", params={"limit": 200})
        items: list[Json] = response.raise_for_status().json()["items"]
        return items


def _events(text: str) -> Iterator[tuple[str, Json]]:
    # Not str.splitlines: it also cuts at U+2028, which may stand in JSON as it is.
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if re.match(r"\w+: ", line))
        if "event" in fields:
            yield fields["event"], json.loads(fields["data"])


@dataclass
class Service:
    """A running service, with a user who is signed up and owns a project."""

    http: httpx.Client
    transcript: Transcript
    project_id: int = 0

    def sign_up(self) -> None:
        """Makes the user and the project that `session` uses."""
        user = {"email": "ada@example.com", "password": PASSWORD}
        token = self._post("/auth/signup", user)["access_token"]
        self.http.headers["Authorization"] = f"Bearer {token}"
        self.project_id = self._post("/projects", {"name": "engine"})["id"]

    def session(self) -> Session:
        """A new conversation."""
        created = self._post(f"/projects/{self.project_id}/sessions", {"title": "A test"})
        return Session(created["id"], created["session_key"], self.http, self.transcript)

    def _post(self, path: str, body: Json) -> Json:
        response = self.http.post(path, json=body)
        self.transcript.exchange(f"POST {path}", body, response.status_code, response.text)
        created: Json = response.raise_for_status().json()
        return created


@contextmanager
def running_service(
    folder: Path, gateway_url: str, token: str, transcript: Transcript
) -> Iterator[Service]:
    """The service on SQLite in `folder`, talking to that gateway with that token."""
    port = free_port()
    log = folder / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port)],
            cwd=ROOT,
            env=_environment(folder, port, gateway_url, token),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, url, log)
        with httpx.Client(base_url=url, timeout=ANSWER_WITHIN_S) as http:
            service = Service(http, transcript)
            service.sign_up()
            yield service
    finally:
        _stop(process)


def _environment(folder: Path, port: int, gateway_url: str, token: str) -> dict[str, str]:
    # The environment wins over a developer's .env files, so all that matters is in it.
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "APP_ENV": "development",
        "USE_POSTGRES": "false",
        "DB_PATH": str(folder / "master.db"),
        "PROJECT_DB_DIR": str(folder / "project_databases"),
        "PORT": str(port),
        "AUTH_RATE_LIMIT": "off",
        "OPENCLAW_URL": gateway_url,
        "OPENCLAW_TOKEN": token,
        "OPENCLAW_MODEL": "agent:main",
        "OPENCLAW_SESSION_HEADER": "false",
        "GATEWAY_HISTORY": "session",
    }


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not answers(f"{url}/health/live"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"The service did not start. Its log:\n{log.read_text()[-4000:]}")
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOPPED_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
