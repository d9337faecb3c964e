"""The processes of this instance: each gives its numbers to the others over a socket of its own.

Several processes serve one port, and a scrape meets any of them.
"""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from prometheus_client.metrics_core import Metric

from server.listening import credentials, names
from server.monitoring import families
from server.settings import Settings

log = logging.getLogger("clawd.monitoring")

# A process that hasn't said its numbers by then is shown as silent.
SECONDS = 0.7


class Processes:
    """Those that serve the same port as the same service, of which this is one."""

    def __init__(
        self, settings: Settings, read: Callable[[], list[Metric]], user: int | None = None
    ) -> None:
        """`user` is whose processes are believed: this process's, unless another one is named."""
        self._names = [name + b"-metrics" for name in names(settings)]
        self._user = os.geteuid() if user is None else user
        self._own = b""
        self._read = read
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """From now on the others get this process's numbers."""
        with suppress(OSError):
            offer = socket.socket(socket.AF_UNIX)
            for name in self._names:
                with suppress(OSError):
                    offer.bind(name)
                    offer.listen()
                    self._own, self._socket = name, offer
                    # A thread answers also while the event loop is busy.
                    threading.Thread(target=self._serve, name="metrics", daemon=True).start()
                    return
            offer.close()
        log.warning("only this process itself sees its metrics")

    def close(self) -> None:
        """No longer."""
        if self._socket is not None:
            # Closing alone would not wake the thread.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    async def ask_others(self) -> list[list[Metric] | str]:
        """Each other's numbers, or the name of the process that didn't say them in time."""
        others = [name for name in self._names if name != self._own]
        answers = await asyncio.gather(*(self._ask(name) for name in others))
        return [answer for answer in answers if answer is not None]

    def _serve(self) -> None:
        while self._socket is not None:
            try:
                asker, _ = self._socket.accept()
            except OSError:
                return
            with asker, suppress(OSError):
                asker.settimeout(SECONDS)
                if self._trusts(asker):
                    asker.sendall(families.pack(self._read()))

    async def _ask(self, name: bytes) -> list[Metric] | str | None:
        """The numbers of the process that has the name; None where there is none, or not ours."""
        with socket.socket(socket.AF_UNIX) as conn:
            conn.setblocking(False)
            try:
                conn.connect(name)
            except BlockingIOError:
                return "unknown"
            except OSError:
                return None
            return await self._read_from(conn) if self._trusts(conn) else None

    async def _read_from(self, conn: socket.socket) -> list[Metric] | str | None:
        """What it says; None where it ended just now."""
        process = str(credentials(conn)[0])
        try:
            async with asyncio.timeout(SECONDS):
                packed = await _read_all(conn)
            return families.unpack(packed) if packed else None
        except ConnectionError:
            return None
        except (TimeoutError, OSError, ValueError) as error:
            log.warning("a process is silent", extra={"pid": process, "cause": repr(error)})
            return process

    def _trusts(self, conn: socket.socket) -> bool:
        """Anybody may take such a name or connect to one."""
        return credentials(conn)[1] == self._user


async def _read_all(conn: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    read = bytearray()
    while chunk := await loop.sock_recv(conn, 65536):
        read += chunk
    return bytes(read)
