"""The service as its users meet it: a process of its own, spoken to over HTTP."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "correct horse battery"
Json = dict[str, Any]

# Settings of the machine's own environment must not reach the service under test.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV")


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child process: only what it needs, and the settings."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "PYTHONUNBUFFERED": "1", **settings}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Service:
    """One process of the service, with its log."""

    def __init__(
        self, settings: Mapping[str, str], folder: Path, within: Sequence[str] = ()
    ) -> None:
        """`within` is a command that runs another one, which then is the service."""
        self.within = within
        self.port = int(settings.get("PORT", 0)) or free_port()
        self.settings = {"LOG_LEVEL": "INFO", **settings, "PORT": str(self.port)}
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = folder / f"service-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        self.wait_until_up()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process without waiting for it."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.within, sys.executable, "-m", "server"],
                cwd=ROOT,
                env=environment(self.settings),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_up(self, seconds: float = 20, path: str = "/health/ready") -> None:
        """Wait until it serves."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"the service ended:\n{self.log[-3000:]}")
            try:
                if httpx.get(self.url + path, timeout=3, verify=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"the service did not come up:\n{self.log[-3000:]}")

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 20) -> int:
        """End it; its exit status."""
        process = self.process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return process.returncode

    def kill(self) -> None:
        """kill -9."""
        self.stop(signal.SIGKILL)

    @property
    def log(self) -> str:
        """Everything it has printed."""
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    def log_lines(self) -> list[Json]:
        """Its structured log."""
        lines = (line for line in self.log.splitlines() if line.startswith("{"))
        return [json.loads(line) for line in lines]

    def openapi(self) -> Json:
        """The service's own description of its API."""
        description: Json = httpx.get(self.url + "/openapi.json").json()
        return description


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str
    data: Json
    id: str


def parse_events(text: str) -> list[Event]:
    """The events of a stream that has been read whole; comments are left out."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":")
        )
        if fields:
            events.append(Event(fields["event"], json.loads(fields["data"]), fields["id"]))
    return events


class Api:
    """A client of one user, which also holds the service to its OpenAPI description.

    Every answer must have a status and a media type that the description declares for its route:
    so every test of any feature is a test that the description tells the truth.
    """

    def __init__(self, service: Service, token: str | None = None) -> None:
        self.service = service
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # There is no TLS: loading the authorities' certificates would only take time.
        self.http = httpx.Client(base_url=service.url, headers=headers, timeout=30, verify=False)
        _clients.append(self.http)
        self.token = token
        self.user: Json = {}

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request and check the answer against the description."""
        response = self.http.request(method, path, **options)
        check_declared(self.service, response)
        return response

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET."""
        return self.request("GET", path, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> httpx.Response:
        """POST."""
        return self.request("POST", path, json=json, **options)

    def patch(self, path: str, json: Any = None, **options: Any) -> httpx.Response:
        """PATCH."""
        return self.request("PATCH", path, json=json, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        """DELETE."""
        return self.request("DELETE", path, **options)

    def project(self, name: str | None = None, **fields: Any) -> Json:
        """A new project."""
        response = self.post("/projects", {"name": name or new_name(), **fields})
        assert response.status_code == 201, response.text
        made: Json = response.json()
        return made

    def session(self, project_id: int | None = None, **fields: Any) -> Json:
        """A new session, in a new project unless one is named."""
        owner = project_id or self.project()["id"]
        response = self.post(f"/projects/{owner}/sessions", fields)
        assert response.status_code == 201, response.text
        made: Json = response.json()
        return made

    def chat(self, session_id: int, message: str, **fields: Any) -> httpx.Response:
        """One turn, not streamed unless `stream` says so."""
        return self.post("/chat", {"session_id": session_id, "message": message, **fields})

    def chat_events(self, session_id: int, message: str, **fields: Any) -> list[Event]:
        """One streamed turn, read to its end."""
        response = self.chat(session_id, message, stream=True, **fields)
        assert response.status_code == 200, response.text
        return parse_events(response.text)

    @contextmanager
    def stream(self, session_id: int, message: str, **fields: Any) -> Iterator[httpx.Response]:
        """One streamed turn, to be read or left by the caller."""
        body = {"session_id": session_id, "message": message, "stream": True, **fields}
        with self.http.stream("POST", "/chat", json=body) as response:
            yield response

    def messages(self, session_id: int, **params: Any) -> list[Json]:
        """The newest page of a session's messages."""
        response = self.get(f"/sessions/{session_id}/messages", params=params)
        assert response.status_code == 200, response.text
        items: list[Json] = response.json()["items"]
        return items


_clients: list[httpx.Client] = []


def close_clients() -> None:
    """Close every client that the test opened."""
    while _clients:
        _clients.pop().close()


def sign_up(service: Service, **fields: Any) -> Api:
    """A new user's client."""
    email = fields.pop("email", f"{secrets.token_hex(6)}@example.com")
    body = {"email": email, "password": PASSWORD, **fields}
    response = httpx.post(service.url + "/auth/signup", json=body, timeout=30, verify=False)
    assert response.status_code == 201, response.text
    api = Api(service, response.json()["access_token"])
    api.user = response.json()["user"]
    return api


def new_name() -> str:
    """A project name that no other test has."""
    return f"p{secrets.token_hex(6)}"


_descriptions: dict[str, Json] = {}


def check_declared(service: Service, response: httpx.Response) -> None:
    """Raise unless the service's OpenAPI declares the answer's status and media type."""
    if service.url not in _descriptions:
        _descriptions[service.url] = service.openapi()
    description = _descriptions[service.url]
    operation = _operation(description, response.request.method, response.request.url.path)
    if operation is None:
        return
    declared = operation["responses"].get(str(response.status_code))
    where = f"{response.request.method} {response.request.url.path} -> {response.status_code}"
    assert declared is not None, f"{where} is not declared in OpenAPI"
    kind = response.headers.get("content-type", "").partition(";")[0]
    if kind:
        assert kind in declared.get("content", {}), f"{where}: {kind} is not declared"


def _operation(description: Json, method: str, path: str) -> Json | None:
    for template, operations in description["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            operation: Json | None = operations.get(method.lower())
            return operation
    return None
