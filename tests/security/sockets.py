"""A connection that sends what it likes, when it likes, and sees how it ends."""

import contextlib
import json
import re
import socket
import time
from dataclasses import dataclass
from typing import Any

from tests.service import Service


@dataclass(frozen=True)
class Reply:
    """One answer as it stood on the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def problem(self) -> dict[str, Any]:
        """The body, which must be a problem with the headers that every answer has."""
        assert self.headers["content-type"] == "application/problem+json", self
        body: dict[str, Any] = json.loads(self.body)
        assert (body["status"], body["success"]) == (self.status, False)
        assert body["request_id"] == self.headers["x-request-id"]
        check_headers(self.headers)
        return body


def check_headers(headers: dict[str, str]) -> None:
    """Hold an answer to the headers that every answer has (reliability, 2.1)."""
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"]
    assert headers["x-request-id"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "server" not in headers


class Peer:
    """One end of a connection to the service."""

    def __init__(self, service: Service, seconds: float = 15) -> None:
        self.socket = socket.create_connection(("127.0.0.1", service.port), timeout=seconds)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> "Peer":
        """These very bytes; a service that has hung up already is no failure."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)
        return self

    def read_to_end(self) -> tuple[list[Reply], float]:
        """All answers until the service closes the connection, and the seconds that took."""
        started, data = time.monotonic(), b""
        while True:
            try:
                more = self.socket.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                return parse(data), time.monotonic() - started
            data += more

    def read_one(self) -> Reply:
        """The one answer that is on its way."""
        data = b""
        while not whole(data):
            more = self.socket.recv(65536)
            assert more, f"the answer was cut: {data!r}"
            data += more
        (reply,) = parse(data)
        return reply

    def is_open(self, seconds: float = 0.3) -> bool:
        """Whether the service keeps the connection without saying anything for so long."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(1) != b""
        except TimeoutError:
            return True
        except ConnectionResetError:
            return False
        finally:
            self.socket.settimeout(15)


def whole(data: bytes) -> bool:
    """Whether an answer has come to its end."""
    head, end, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


def parse(data: bytes) -> list[Reply]:
    """The answers in what came, each with a Content-Length."""
    replies = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, f"not an answer: {head[:200]!r}"
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, *_ = first.split(" ")
        assert version == "HTTP/1.1", first
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"twice: {name}"
            headers[name.lower()] = value
        size = int(headers.get("content-length", 0))
        assert len(data) >= size, "the answer was cut"
        replies.append(Reply(int(status), headers, data[:size]))
        data = data[size:]
    return replies


def get(path: str = "/health/live", *lines: str, version: str = "HTTP/1.1") -> bytes:
    """A GET with these header lines after Host."""
    head = [f"GET {path} {version}", "Host: x", *lines]
    return ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")


def ask(service: Service, data: bytes) -> Reply:
    """The one answer to these bytes, after which the connection is given up by us."""
    with Peer(service) as peer:
        return peer.send(data).read_one()
