"""The port's sockets, which processes of one service may share.

With SO_REUSEPORT each process would have a queue of its own, and the connections that wait in it
are reset when the process ends. So there is one socket with one queue: a process that starts gets
it from one that runs, through a unix socket, and no connection notices who comes and goes. Those
sockets have names in Linux's abstract namespace, which go with their process, however it ends, and
belong to one network namespace, as ports do.

Only what is the same service shares: the same user, checkout, address, environment and database.
Two checkouts would answer every other request with other code, two databases lose what was written.
"""

import errno
import hashlib
import logging
import os
import socket
import struct
import threading
import time
from contextlib import suppress

from server.settings import ROOT, Settings

log = logging.getLogger("clawd.startup")

BACKLOG = 2048
# How many processes can share a port.
PLACES = 16
ASK_SECONDS = 1.0
# Of two that start at once one binds, the other asks again.
BIND_SECONDS = 1.0
_CREDENTIALS = struct.Struct("3i")


class CantListen(Exception):
    """One line that says why the address can't be had."""


class Listening:
    """The sockets of this process, and its way to those who share them."""

    def __init__(self, settings: Settings, user: int | None = None) -> None:
        """`user` is whose processes are trusted: this process's, unless another one is named."""
        self._host, self._port = settings.host, settings.port
        self._user = os.geteuid() if user is None else user
        self._names = names(settings) if settings.share_port else []
        self._offer: socket.socket | None = None
        self.sockets: list[socket.socket] = []

    def open(self) -> None:
        """Get the sockets from a process that has them, or bind them; offer them to others.

        Raises `CantListen`.
        """
        deadline = time.monotonic() + (BIND_SECONDS if self._names else 0)
        while not self.sockets:
            self.sockets = self._ask()
            try:
                self.sockets = self.sockets or _bind(self._host, self._port)
            except OSError as error:
                taken = error.errno == errno.EADDRINUSE
                if not taken or time.monotonic() > deadline:
                    raise CantListen(_reason(self._host, self._port, error)) from error
                time.sleep(0.05)
        if self._names:
            self._begin_to_offer()

    def close(self) -> None:
        """Offer the sockets to nobody any more."""
        if self._offer is not None:
            # Closing alone would not wake the thread.
            with suppress(OSError):
                self._offer.shutdown(socket.SHUT_RDWR)
            self._offer.close()
            self._offer = None

    def is_shared(self) -> bool:
        """Whether another process serves the port."""
        for name in self._names:
            with socket.socket(socket.AF_UNIX) as asker, suppress(OSError):
                asker.settimeout(ASK_SECONDS)
                asker.connect(name)
                if self._trusts(asker):
                    return True
        return False

    def _ask(self) -> list[socket.socket]:
        for name in self._names:
            with socket.socket(socket.AF_UNIX) as asker, suppress(OSError):
                asker.settimeout(ASK_SECONDS)
                asker.connect(name)
                if not self._trusts(asker):
                    continue
                _, found, _, _ = socket.recv_fds(asker, 1, PLACES)
                if found:
                    log.info("port shared", extra={"with": credentials(asker)[0]})
                    return [socket.socket(fileno=number) for number in found]
        return []

    def _begin_to_offer(self) -> None:
        offer = socket.socket(socket.AF_UNIX)
        for name in self._names:
            with suppress(OSError):
                offer.bind(name)
                offer.listen()
                self._offer = offer
                # A thread answers while the application still starts, and while it is busy.
                threading.Thread(target=self._give, args=(offer,), name="port", daemon=True).start()
                return
        offer.close()
        log.warning("the port can't be shared: there is no free place for this process")

    def _give(self, offer: socket.socket) -> None:
        """Give the sockets to whoever may have them, until the offer is closed."""
        numbers = [each.fileno() for each in self.sockets]
        while True:
            try:
                asker, _ = offer.accept()
            except OSError:
                return
            # Who only wanted to know whether somebody is here has gone already.
            with asker, suppress(OSError):
                if self._trusts(asker):
                    socket.send_fds(asker, [b"\0"], numbers)

    def _trusts(self, conn: socket.socket) -> bool:
        """Anybody may take such a name or connect to one."""
        return credentials(conn)[1] == self._user


def names(settings: Settings) -> list[bytes]:
    """The names that the unix sockets of this service may have."""
    database = (
        f"{settings.db_host}:{settings.db_port}/{settings.db_name}"
        if settings.postgres
        else settings.db_path
    )
    same = (ROOT, settings.host, settings.port, settings.app_env, database)
    digest = hashlib.sha256(repr([str(part) for part in same]).encode()).hexdigest()[:32]
    return [f"\0clawd-backend-{digest}-{place}".encode() for place in range(PLACES)]


def credentials(conn: socket.socket) -> tuple[int, int]:
    """The other side's process and user, as the kernel knows them."""
    raw = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(raw)
    return process, user


def _bind(host: str, port: int) -> list[socket.socket]:
    """Listen on each address of the host."""
    sockets: list[socket.socket] = []
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            sockets.append(socket.create_server(address, family=family, backlog=BACKLOG))
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets


def _reason(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{host}:{port}: address already in use; `lsof -i :{port}` says by whom"
    return f"can't listen on {host}:{port}: {error.strerror}"
