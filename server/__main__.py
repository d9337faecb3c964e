"""Runs the service as the settings say: `python -m server`."""

import signal
import sys

import uvicorn

import database_adapter
from server.logs import configure
from server.settings import BadSettings, get_settings


def main() -> None:
    """Say which database is used and why, then serve on HOST:PORT."""
    try:
        settings = get_settings()
    except BadSettings as error:
        sys.exit(f"clawd-backend can't start: {error}")
    configure(settings.log_format, settings.log_level)
    print(_database(), file=sys.stderr)
    # uvicorn raises the signal again when it has shut down in order: that is a success.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        "app:app",
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        reload="--reload" in sys.argv[1:],
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
