"""What there is of backups: the newest, and the last that was verified.

Metrics and `./clawd doctor` read it: a look at a folder, no database is asked.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from server.settings import Settings

TIME = "%Y%m%dT%H%M%SZ"
VERIFIED = "verified.json"
_NAME = re.compile(r"clawd-(sqlite|postgresql)-(\d{8}T\d{6}Z)\.tar\.gz")


@dataclass(frozen=True)
class Backup:
    """One backup, as its file shows it."""

    path: Path
    backend: str
    at: datetime
    size: int


@dataclass(frozen=True)
class Verified:
    """The result of the last verification; `problem` is empty where all was equal.

    `good` is the backup that was last found equal, empty where none was.
    """

    file: str
    at: datetime
    ok: bool
    seconds: float
    problem: str
    good: str


@dataclass(frozen=True)
class State:
    """The newest backup and the last verification, each None where there was none."""

    newest: Backup | None
    verified: Verified | None


def read(settings: Settings) -> State:
    """What is in BACKUP_DIR now; raises `OSError` where that can't be read."""
    found = list_backups(settings.backup_dir)
    return State(found[-1] if found else None, read_verified(settings.backup_dir))


def list_backups(folder: Path) -> list[Backup]:
    """The backups in the folder, the oldest first."""
    return sorted(_backups(folder), key=lambda backup: (backup.at, backup.path.name))


def _backups(folder: Path) -> Iterator[Backup]:
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            # One that another run removes meanwhile is none.
            if (match := _NAME.fullmatch(path.name)) and path.is_file():
                with suppress(FileNotFoundError):
                    at = datetime.strptime(match[2], TIME).replace(tzinfo=UTC)
                    yield Backup(path, match[1], at, path.stat().st_size)


def file_name(backend: str, at: datetime) -> str:
    """The name of a backup that was begun at the time."""
    return f"clawd-{backend}-{at.astimezone(UTC).strftime(TIME)}.tar.gz"


def read_verified(folder: Path) -> Verified | None:
    """The last verification's result, None where there was none or it can't be read."""
    try:
        found = json.loads((folder / VERIFIED).read_text("utf-8"))
        return Verified(
            str(found["file"]),
            datetime.fromisoformat(found["at"]),
            bool(found["ok"]),
            float(found["seconds"]),
            str(found["problem"]),
            str(found["good"]),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_verified(folder: Path, verified: Verified) -> None:
    """Keep the result, whole or not at all."""
    part = folder / f"{VERIFIED}.part"
    part.write_text(json.dumps(asdict(verified) | {"at": verified.at.isoformat()}) + "\n", "utf-8")
    part.chmod(0o600)
    part.replace(folder / VERIFIED)
