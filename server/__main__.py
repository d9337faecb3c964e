"""Runs the service as the settings say: `python -m server`."""

import argparse
import logging
import signal
import sys
from contextlib import suppress
from typing import Any

import uvicorn

import database_adapter
from server.connection import Connection
from server.listening import CantListen, Listening
from server.logs import configure
from server.serving import Server
from server.settings import BadSettings, Settings, get_settings
from server.version import misplaced


def main() -> None:
    """Say which database is used and why, then serve on HOST:PORT."""
    parser = argparse.ArgumentParser(
        prog="clawd-backend", description="Serves on HOST:PORT, as docs/configuration.md says."
    )
    parser.add_argument("--reload", action="store_true", help="start again when a file changes")
    reload = parser.parse_args().reload
    try:
        settings = get_settings()
    except BadSettings as error:
        sys.exit(f"clawd-backend can't start: {error}")
    # The application looks as well; but under --reload its end is not the end of the process.
    if reason := misplaced(settings):
        sys.exit(f"clawd-backend can't start: {reason}")
    configure(settings.log_format, settings.log_level)
    # Of every write to the database it would say that a file has changed.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    print(_database(), file=sys.stderr)
    # uvicorn raises the signal again when it has shut down in order: that is a success.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    options = _options(settings)
    if reload:
        uvicorn.run("app:app", reload=True, **options)
    else:
        _serve(uvicorn.Config("app:app", **options), Listening(settings))


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "host": settings.host,
        "port": settings.port,
        "http": Connection,
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": bool(settings.trusted_proxies),
        "forwarded_allow_ips": settings.trusted_proxies or None,
        # Answers end by themselves after the grace; this is for what doesn't.
        "timeout_graceful_shutdown": int(settings.shutdown_grace) + 5,
    }


def _serve(config: uvicorn.Config, listening: Listening) -> None:
    config.load_app()
    try:
        listening.open()
    except CantListen as error:
        sys.exit(f"clawd-backend can't start: {error}")
    # A second Ctrl-C ends at once.
    with suppress(KeyboardInterrupt):
        Server(config, listening).run(listening.sockets)


def _database() -> str:
    info = database_adapter.get_database_info()
    place = info.get("path") or "{user}@{host}:{port}/{database}".format(**info)
    return f"Database: {info['backend']} ({place}), because {info['reason']}."


if __name__ == "__main__":
    main()
