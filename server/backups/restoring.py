"""Brings a backup back: into a fresh place, checked there, then swapped in."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from server.backups import (
    archive,
    folder,
    postgres_scratch,
    postgres_swap,
    sqlite_swap,
    state,
    verifying,
    wanted,
)
from server.backups.manifest import Damaged, Impossible, Manifest
from server.backups.postgres_databases import PostgresDatabases
from server.migration.report import Screen
from server.settings import Settings
from server.storage import migrate


@dataclass(frozen=True)
class Restored:
    """What was brought back, and under which names the old databases or files are kept."""

    manifest: Manifest
    kept: list[str]


def restore(settings: Settings, path: Path, admin_url: str, screen: Screen) -> Restored:
    """Put the backup in the place of the databases in use; until the swap nothing is touched."""
    manifest = archive.read_manifest(path)
    _check_fits(settings, manifest)
    restoring = _Restoring(settings, path, manifest, screen, datetime.now(UTC).strftime(state.TIME))
    with folder.working(settings.backup_dir) as work, folder.full_disks():
        if manifest.backend == "sqlite":
            return Restored(manifest, restoring.files())
        databases = PostgresDatabases(settings, admin_url)
        return Restored(manifest, restoring.databases(databases, work))


def _check_fits(settings: Settings, manifest: Manifest) -> None:
    ours = settings.backend_choice[0]
    if manifest.backend != ours:
        raise Impossible(
            f"the backup is of {manifest.backend}, and the settings name {ours}: set USE_POSTGRES, "
            "and move with python3 migrate_to_postgres.py afterwards"
        )
    for entry in manifest.projects:
        if reason := wanted.refusal(entry.name, entry.project_id or 0, settings.db_name):
            raise Impossible(reason)
    migrate.pending(manifest.steps, migrate.steps(manifest.backend))


@dataclass(frozen=True)
class _Restoring:
    """One run; `time` is in the names under which the old is kept."""

    settings: Settings
    path: Path
    manifest: Manifest
    screen: Screen
    time: str

    def files(self) -> list[str]:
        """On SQLite: files beside the old ones, then in their place."""
        swap = sqlite_swap.Swap(self.settings, self.time)
        folder.check_room(self.settings.db_path.parent, self.manifest.size)
        swap.prepare()
        try:
            self.screen.say("Unpacking beside what is there")
            self._unchanged(verifying.unpack(self.path, swap.place, self.screen))
            self.screen.say("Checking")
            for entry in self.manifest.databases:
                verifying.check_file(entry, swap.place(entry))
            self.screen.say("Swapping")
            return [str(old) for old in swap.swap()]
        finally:
            swap.clear()

    def databases(self, databases: PostgresDatabases, work: Path) -> list[str]:
        """On PostgreSQL: databases beside the old ones, then under their names."""
        tools = databases.tools()
        with postgres_scratch.opened(databases) as scratch:
            swap = postgres_swap.Swap(databases, scratch.conn, self.time)
            swap.prepare(self.manifest)
            self.screen.say("Unpacking")
            folder.check_room(work, self.manifest.size)
            self._unchanged(
                verifying.unpack(self.path, lambda entry: work / entry.file, self.screen)
            )
            swap.make_roles()
            self.screen.say("Restoring beside what is there, and checking")
            restored = []
            with self.screen.bar("databases", len(self.manifest.databases)) as bar:
                for entry in self.manifest.databases:
                    name = scratch.fill(entry, work / entry.file, tools)
                    swap.finish(entry, name, self.manifest.schema)
                    restored.append((entry, name))
                    bar.advance(bar.task_ids[0])
            self.screen.say("Swapping")
            kept = swap.swap(restored)
            scratch.made.clear()
        return sorted(kept.values())

    def _unchanged(self, manifest: Manifest) -> None:
        if manifest != self.manifest:
            raise Damaged(f"{self.path.name} was changed meanwhile")
