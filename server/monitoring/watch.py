"""What scripts/monitor.sh runs: looks from outside and says what is down."""

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from server.backups import state
from server.monitoring.measured import folders, measure_disk, newest_backup
from server.settings import BadSettings, Settings, get_settings

# Each part of /health answers in less than two.
SECONDS = 5.0


def main() -> int:
    """Print a line for each thing that is down; 1 where there is one."""
    parser = argparse.ArgumentParser(
        prog="scripts/monitor.sh",
        description="Prints a line for each thing that is down, and then ends with 1.",
    )
    parser.add_argument("url", nargs="?", type=_url, default="http://127.0.0.1:8002")
    parser.add_argument(
        "--backup-hours",
        type=float,
        default=26,
        help="the age from which the newest backup is too old (26); 0: it isn't looked at",
    )
    parser.add_argument(
        "--disk-percent",
        type=float,
        default=10,
        help="how much of each disk must be free (10)",
    )
    options = parser.parse_args()
    down = list(_down(options))
    for line in down:
        print(line)
    return 1 if down else 0


def _url(given: str) -> str:
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise argparse.ArgumentTypeError("must be an http:// or https:// URL")
    return given


def _down(options: argparse.Namespace) -> Iterator[str]:
    yield from _service(options.url)
    try:
        settings = get_settings()
    except BadSettings as error:
        yield f"settings: {error}"
        return
    yield from _disk(settings, options.disk_percent)
    if options.backup_hours:
        yield from _backup(settings, options.backup_hours)


def _service(url: str) -> Iterator[str]:
    for part in ("live", "db", "gateway"):
        reason = _ask(url, f"/health/{part}")
        if reason is not None:
            yield f"{part}: {reason}"
            if part == "live":
                # The others could only say the same.
                return


def _ask(url: str, path: str) -> str | None:
    """Why the part is down; None when it is up."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=SECONDS)
    try:
        connection.request("GET", parts.path.rstrip("/") + path)
        response = connection.getresponse()
        body = _parse(response.read())
    except (OSError, HTTPException, ValueError) as error:
        return f"{url} does not answer: {error}"
    finally:
        connection.close()
    if response.status == 200 and body.get("status") == "ok":
        return None
    return str(body.get("reason") or f"{url}{path} answered {response.status}")


def _parse(text: bytes) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _disk(settings: Settings, percent: float) -> Iterator[str]:
    for name, folder in folders(settings):
        try:
            disk = measure_disk(name, folder)
        except OSError as error:
            yield f"disk: {folder}: {error.strerror}"
            continue
        free = 100 * disk.free / disk.size
        if free < percent:
            yield f"disk: {free:.0f} % free under {folder} ({name})"


def _backup(settings: Settings, hours: float) -> Iterator[str]:
    try:
        newest = newest_backup(settings)
        verified = state.read_verified(settings.backup_dir)
    except OSError as error:
        yield f"backup: {settings.backup_dir}: {error.strerror}"
        return
    if newest is None:
        yield f"backup: there is none in {settings.backup_dir}; ./clawd backup makes one"
    elif (age := (datetime.now(UTC) - newest.at).total_seconds() / 3600) > hours:
        yield f"backup: the newest is {age:.0f} hours old; ./clawd backup makes one"
    if verified is not None and not verified.ok:
        yield f"backup: {verified.file} is not as it should be: {verified.problem}"


if __name__ == "__main__":
    sys.exit(main())
