"""The server: uvicorn's, on a port that it may share, which tells PM2 when it serves."""

import logging
import os
import socket
import stat
from contextlib import suppress

import uvicorn

from server.connection import Connections
from server.listening import Listening

log = logging.getLogger("clawd.startup")


class Server(uvicorn.Server):
    """A server that leaves the port to those who share it when it is asked to end."""

    def __init__(self, config: uvicorn.Config, listening: Listening) -> None:
        super().__init__(config)
        self._connections = self.server_state = Connections()
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, accept connections, and say so."""
        await super().startup(sockets)
        log.info("serving", extra={"host": self.config.host, "port": self.config.port})
        _tell_pm2()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, see the connections through, end the application."""
        self._listening.close()
        self._connections.handed_over = self._listening.is_shared()
        await super().shutdown(sockets)


def _tell_pm2() -> None:
    """Send what `wait_ready` waits for, a message of node's on the channel that PM2 has opened."""
    channel = os.environ.pop("NODE_CHANNEL_FD", "")
    with suppress(OSError, ValueError):
        if stat.S_ISSOCK(os.fstat(int(channel)).st_mode):
            os.write(int(channel), b'"ready"\n')
