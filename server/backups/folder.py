"""The folder of the backups: who works in it, what a killed run has left, which ones are kept."""

import errno
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.backups import state
from server.storage import contract

# Where a run keeps what isn't a backup yet; the next run removes what is left there.
WORK = "clawd-work.part"
_LEFT = "clawd-*.tar.gz.part"


@contextmanager
def working(folder: Path) -> Iterator[Path]:
    """An empty folder for one run, removed at its end; a second run is refused meanwhile."""
    with full_disks():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(folder):
            _clear(folder)
            work = folder / WORK
            work.mkdir(mode=0o700)
            try:
                yield work
            finally:
                _clear(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder itself, which a dying process lets go."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise contract.Busy(f"another backup, restore or verify works in {folder}") from error
        yield
    finally:
        os.close(handle)


def _clear(folder: Path) -> None:
    """Remove what is no backup: of this run, or of one that was killed."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
    for path in folder.glob(_LEFT):
        path.unlink(missing_ok=True)


@contextmanager
def full_disks() -> Iterator[None]:
    """Turn every way of finding no room into `StorageFull`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise contract.StorageFull(NO_ROOM) from error
        raise
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
            raise contract.StorageFull(NO_ROOM) from error
        raise


NO_ROOM = "no room on the disk; what was there is as it was"


def check_room(folder: Path, needed: int) -> None:
    """Raise `StorageFull` where so many bytes can't fit."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise contract.StorageFull(
            f"no room on the disk: {needed >> 20:,} MB are needed in {there}, {free >> 20:,} free"
        )


def prune(folder: Path, keep: int) -> list[Path]:
    """Remove the oldest beyond `keep`, but never the one that was last found good."""
    verified = state.read_verified(folder)
    good = verified.good if verified else ""
    there = [backup.path for backup in state.list_backups(folder)]
    gone = [path for path in there[:-keep] if path.name != good]
    for path in gone:
        path.unlink(missing_ok=True)
    return gone
