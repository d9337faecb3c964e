"""Files as `./clawd backup` and `./clawd backup verify` leave them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from server.backups import state


def back_up(folder: Path, backend: str, *, hours: float = 0, content: bytes = b"x") -> Path:
    """A backup of so many hours ago."""
    folder.mkdir(exist_ok=True)
    path = folder / state.file_name(backend, datetime.now(UTC) - timedelta(hours=hours))
    path.write_bytes(content)
    return path


def verify(folder: Path, name: str, *, minutes: float = 0, problem: str = "") -> None:
    """A verification so many minutes ago, with this result."""
    verified = state.Verified(
        file=name,
        at=datetime.now(UTC) - timedelta(minutes=minutes),
        ok=not problem,
        seconds=1.0,
        problem=problem,
        good="" if problem else name,
    )
    state.write_verified(folder, verified)


def clear(folder: Path) -> None:
    """As if there had never been any."""
    for path in folder.iterdir():
        path.unlink()
