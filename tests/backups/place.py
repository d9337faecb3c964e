"""A place where the service keeps its data, and the commands that back it up, in this process."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

import database_adapter
from server.backups import archive, state
from server.backups.manifest import Manifest, Tables
from server.cli.__main__ import build
from server.settings import get_settings
from tests.service import Json, environment
from tests.sql import Sql


@dataclass(frozen=True)
class Done:
    """What a command ended with: its exit code, its JSON, what it said besides."""

    code: int
    found: Json
    said: str


@dataclass(frozen=True)
class Place:
    """The settings that name the databases and the folder of the backups."""

    settings: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """Where the backups are."""
        return Path(self.settings["BACKUP_DIR"])

    @property
    def sql(self) -> Sql:
        """SQL on the master."""
        return Sql(self.settings)

    @property
    def names(self) -> list[str]:
        """The backups, the oldest first."""
        return [backup.path.name for backup in state.list_backups(self.folder)]

    def clawd(self, *words: str, **settings: str) -> Done:
        """A command to its end, with no other settings than this place's."""
        only = dict.fromkeys(os.environ) | environment({**self.settings, **settings})
        get_settings.cache_clear()
        try:
            done = CliRunner().invoke(
                build(words), [*words, "--json"], env=only, catch_exceptions=False
            )
        finally:
            database_adapter.close_pool()
            get_settings.cache_clear()
        return Done(done.exit_code, json.loads(done.stdout), done.stderr)

    def backup(self, **settings: str) -> Path:
        """A backup that has everything in it."""
        done = self.clawd("backup", **settings)
        assert done.code == 0, done
        return Path(done.found["file"])

    def holds(self) -> dict[int | None, Tables | None]:
        """What all databases hold now, by project."""
        path = self.backup()
        manifest = archive.read_manifest(path)
        path.unlink()
        return holds(manifest)

    def work_left(self) -> list[str]:
        """What a run has left that is no backup."""
        there = sorted(path.name for path in self.folder.iterdir())
        return [name for name in there if name not in (*self.names, state.VERIFIED)]


def holds(manifest: Manifest) -> dict[int | None, Tables | None]:
    """What a backup says that its databases hold, by project."""
    return {entry.project_id: entry.tables for entry in manifest.databases}
