"""Runs the service as the settings say: `python -m server`."""

import argparse
import logging
import signal
import sys

import uvicorn

import database_adapter
from server.connection import Connection
from server.logs import configure
from server.settings import BadSettings, get_settings


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
    configure(settings.log_format, settings.log_level)
    # Of every write to the database it would say that a file has changed.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    print(_database(), file=sys.stderr)
    # uvicorn raises the signal again when it has shut down in order: that is a success.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        "app:app",
        host=settings.host,
        port=settings.port,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        reload=reload,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
        # Answers end by themselves after the grace; this is for what doesn't.
        timeout_graceful_shutdown=int(settings.shutdown_grace) + 5,
    )


def _database() -> str:
    info = database_adapter.get_database_info()
    place = info.get("path") or "{user}@{host}:{port}/{database}".format(**info)
    return f"Database: {info['backend']} ({place}), because {info['reason']}."


if __name__ == "__main__":
    main()
