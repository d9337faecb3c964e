"""Puts restored files in the place of the service's SQLite databases, and keeps the old ones."""

import os
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

from server.backups import wanted
from server.backups.manifest import Entry, Impossible
from server.migration import sqlite_files
from server.settings import Settings

MARK = ".restoring"


class Swap:
    """The files of one restore: beside the service's own, then in their place.

    At every moment a master lies in its place, the old one or the new.
    """

    def __init__(self, settings: Settings, time: str) -> None:
        self._master = settings.db_path
        self._projects = settings.project_databases
        self._new_master = self._beside(self._master, MARK)
        self._new_projects = self._beside(self._projects, MARK)
        ending = self._free(f".before-{time}")
        self._old_master = self._beside(self._master, ending)
        self._old_projects = self._beside(self._projects, ending)

    def _free(self, ending: str) -> str:
        """An ending that no restore before has used."""
        number, free = 1, ending
        while any(self._beside(path, free).exists() for path in (self._master, self._projects)):
            number += 1
            free = f"{ending}-{number}"
        return free

    @staticmethod
    def _beside(path: Path, ending: str) -> Path:
        return path.with_name(f"{path.name}{ending}")

    def prepare(self) -> None:
        """Make room for the new files; raises `Busy` while somebody has the master open."""
        if self._projects.is_mount():
            raise Impossible(f"{self._projects} is a mount: set PROJECT_DB_DIR to a folder in it")
        self._check_unused()
        self.clear()
        self._master.parent.mkdir(parents=True, exist_ok=True)
        self._new_projects.mkdir(parents=True, mode=0o700)

    def _check_unused(self) -> None:
        if self._master.exists():
            # A damaged one can't be asked; it may be why one restores.
            with suppress(sqlite3.DatabaseError):
                sqlite_files.check_unused(self._master)

    def clear(self) -> None:
        """Remove new files that never got into their place, also those of a killed run."""
        sqlite_files.remove(self._new_master)
        shutil.rmtree(self._new_projects, ignore_errors=True)

    def place(self, entry: Entry) -> Path:
        """Where the entry's file is to be unpacked."""
        if entry.project_id is None:
            return self._new_master
        path = wanted.file(self._new_projects, entry.name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return path

    def swap(self) -> list[Path]:
        """Put everything in its place; the old files, under the names that they are kept by."""
        self._check_unused()
        self._give_to_owner()
        kept = [*self._keep_master(), *self._exchange_projects()]
        self._new_master.replace(self._master)
        sqlite_files.sync(self._master.parent)
        return kept

    def _keep_master(self) -> list[Path]:
        """Give the old master a second name; a log of a lost or damaged one goes with it."""
        kept = []
        if self._master.exists():
            os.link(self._master, self._old_master)
            kept.append(self._old_master)
        for ending in ("-wal", "-journal"):
            log = self._beside(self._master, ending)
            if log.exists():
                kept.append(log.rename(self._beside(self._old_master, ending)))
        self._beside(self._master, "-shm").unlink(missing_ok=True)
        return kept

    def _exchange_projects(self) -> list[Path]:
        kept = []
        if self._projects.exists():
            kept.append(self._projects.rename(self._old_projects))
        self._new_projects.rename(self._projects)
        sqlite_files.sync(self._projects.parent)
        return kept

    def _give_to_owner(self) -> None:
        """What root restores must still be the service's, else it can't be read."""
        if os.geteuid() != 0:
            return
        owner = (self._master if self._master.exists() else self._master.parent).stat()
        for path in (self._new_master, self._new_projects, *self._new_projects.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
