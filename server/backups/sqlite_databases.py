"""The SQLite databases of the service, as a backup copies them."""

import sqlite3
from pathlib import Path

from server.backups import digests, wanted
from server.backups.folder import full_disks
from server.backups.manifest import Impossible
from server.backups.taking import Copied, Master, Unreadable
from server.backups.wanted import Wanted
from server.migration import snapshot, source
from server.settings import Settings


class SqliteDatabases:
    """The master's file and the projects'; each is copied by SQLite itself."""

    backend = "sqlite"
    ending = ".sqlite3"
    level = 6
    master = snapshot.MASTER

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def server(self) -> str:
        """SQLite's version."""
        return f"SQLite {sqlite3.sqlite_version}"

    def wanted(self) -> list[Wanted]:
        """What the master's file says now."""
        return self._read(self._settings.db_path)

    def _read(self, path: Path) -> list[Wanted]:
        try:
            with source.opened(path) as conn:
                conn.execute("BEGIN")
                known = "SELECT 1 FROM sqlite_master WHERE name = ?"
                deleted = conn.execute(known, (wanted.TABLE,)).fetchone() is not None
                return wanted.find(
                    conn.execute(wanted.PROJECTS).fetchall(),
                    conn.execute(wanted.DELETED).fetchall() if deleted else [],
                )
        except sqlite3.Error as error:
            raise Impossible(f"{path} is no master of this service: {error}") from error

    def copy_master(self, file: Path) -> Master:
        """Copy the master's file as it is at one moment."""
        copied = self._copy(self._settings.db_path, file)
        with source.opened(file) as conn:
            steps = conn.execute("SELECT name, checksum FROM schema_migrations").fetchall()
        return Master(copied, self._read(file), steps)

    def copy_project(self, project_id: int, name: str, file: Path) -> Copied | None:
        """Copy a project's file; None where it isn't there."""
        if wanted.refusal(name, project_id, self._settings.db_name):
            raise Unreadable(f"{name} is no name of a project's database")
        path = wanted.file(self._settings.project_databases, name)
        if not path.is_file():
            return None
        try:
            return self._copy(path, file)
        except (Impossible, OSError) as error:
            if path.is_file():
                raise Unreadable(str(error)) from error
            return None

    def _copy(self, path: Path, file: Path) -> Copied:
        try:
            with full_disks():
                source.back_up(path, file, lambda done, total: None)
            return Copied(digests.of_sqlite(file))
        except sqlite3.Error as error:
            raise Impossible(f"{path.name} can't be copied: {error}") from error


def check(file: Path) -> str:
    """What is wrong with a file that was unpacked, empty where nothing is."""
    try:
        with source.opened(file) as conn:
            found = conn.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        found = str(error)
    return "" if found == "ok" or "no such module" in found else str(found)
