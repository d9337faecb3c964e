"""HTTP over a plain socket: what no client library would send."""

import http.client
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from tests.service import Service


@dataclass(frozen=True)
class Answer:
    """One response, read whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether the server ends the connection after it."""
        return self.headers.get("connection", "").lower() == "close"


class Wire:
    """One connection that is kept alive from request to request."""

    def __init__(self, service: Service) -> None:
        self._port = service.port
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the next request connects anew."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @property
    def connected(self) -> bool:
        """Whether the last answer left the connection open."""
        return self._socket is not None

    def send(
        self, method: str, path: str, headers: Iterable[tuple[str, str]] = (), body: bytes = b""
    ) -> Answer:
        """A request with a Content-Length of its own, unless the headers say how long it is."""
        given = [("Host", "127.0.0.1"), *headers]
        names = {name.lower() for name, _ in given}
        if not names & {"content-length", "transfer-encoding"} and body:
            given.append(("Content-Length", str(len(body))))
        head = "".join(f"{name}: {value}\r\n" for name, value in given)
        return self.send_raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)

    def send_raw(self, request: bytes) -> Answer:
        """These very bytes."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=20)
        self._socket.sendall(request)
        method = request.partition(b" ")[0].decode("latin-1")
        response = http.client.HTTPResponse(self._socket, method=method)
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        answer = Answer(response.status, headers, response.read())
        response.close()
        if answer.closes:
            self.close()
        return answer


def chunked(body: bytes, size: int = 8192) -> bytes:
    """The body in chunks (RFC 9112, 7.1)."""
    parts = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
