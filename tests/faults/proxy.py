"""A network between the service and PostgreSQL that breaks when a test says so."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self

HOST = "127.0.0.1"


@dataclass
class _Link:
    """One client's connection and the one that was made for it."""

    client: socket.socket
    server: socket.socket
    left: int | None = None
    matched: bool = False
    committed: bool = False

    def cut(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Proxy:
    """Forwards `port` to another port of this machine, inside `with`.

    `cut_after` is how many bytes of the server's each new connection passes on before it breaks.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.cut_after: int | None = None
        self.cuts = 0
        self._doomed: tuple[bytes, bool] | None = None
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._links: list[_Link] = []

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._flowing.set()
        self._close()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Break every connection and refuse new ones."""
        self._close()
        try:
            yield
        finally:
            self._listen()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Take connections and bytes, and pass nothing on until the end."""
        self._flowing.clear()
        try:
            yield
        finally:
            self._flowing.set()

    def cut_all(self) -> None:
        """Break every connection that there is."""
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            link.cut()

    def cut_commit(self, words: bytes, *, answered: bool) -> None:
        """Break the next transaction that says `words`, at its COMMIT.

        The server has committed it when `answered`, else it never hears of the COMMIT.
        """
        self._doomed = words, answered

    def overhear(self, link: int, data: bytes, *, client: bool) -> None:
        """Called with what a connection is about to pass on, for those who listen in."""

    def _listen(self) -> None:
        self._listener = socket.create_server((HOST, self.port), backlog=256)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((HOST, self.target))
            except OSError:
                client.close()
                continue
            link = _Link(client, server, self.cut_after)
            with self._lock:
                self._links.append(link)
            for pump in (self._ask, self._answer):
                threading.Thread(target=self._pump, args=(pump, link), daemon=True).start()

    def _pump(self, move: Callable[[_Link], bool], link: _Link) -> None:
        with suppress(OSError):
            while move(link):
                pass
        link.cut()

    def _ask(self, link: _Link) -> bool:
        data = link.client.recv(65536)
        self._flowing.wait()
        if self._doomed is not None:
            words, answered = self._doomed
            link.matched = link.matched or words in data
            if link.matched and b"COMMIT\0" in data:
                self._doomed, self.cuts = None, self.cuts + 1
                if not answered:
                    return False
                link.committed = True
        self.overhear(id(link), data, client=True)
        link.server.sendall(data)
        return bool(data)

    def _answer(self, link: _Link) -> bool:
        data = link.server.recv(65536)
        self._flowing.wait()
        if link.committed:
            return False
        if link.left is not None:
            data, link.left = data[: link.left], link.left - len(data)
        self.overhear(id(link), data, client=False)
        link.client.sendall(data)
        if link.left is not None and link.left <= 0:
            self.cuts += 1
            return False
        return bool(data)
