"""Proves that a backup can be restored: does it in a scratch place, and compares."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from server.backups import archive, digests, folder, postgres_scratch, sqlite_databases, state
from server.backups.manifest import Damaged, Entry, Impossible, Manifest
from server.backups.postgres_databases import PostgresDatabases
from server.backups.state import Verified
from server.migration.report import Screen
from server.settings import Settings


@dataclass(frozen=True)
class Result:
    """What came of it; the manifest is None for a backup that hasn't got one."""

    path: Path
    verified: Verified
    manifest: Manifest | None


def verify(settings: Settings, path: Path | None, screen: Screen) -> Result:
    """Verify the backup, the newest without one; the result is kept beside the backups.

    Raises where it could not be tried: that says nothing of the backup.
    """
    with folder.working(settings.backup_dir) as work, folder.full_disks():
        chosen = path or _newest(settings)
        begun = time.monotonic()
        screen.say(f"Verifying {chosen.name}")
        manifest, problem = None, ""
        try:
            folder.check_room(work, archive.read_manifest(chosen).size)
            manifest = unpack(chosen, lambda entry: work / entry.file, screen)
            _check(settings, manifest, work, screen)
        except Damaged as error:
            problem = str(error)
        earlier = state.read_verified(settings.backup_dir)
        verified = Verified(
            file=chosen.name,
            at=datetime.now(UTC).replace(microsecond=0),
            ok=not problem,
            seconds=round(time.monotonic() - begun, 1),
            problem=problem,
            good=(earlier.good if earlier else "") if problem else chosen.name,
        )
        state.write_verified(settings.backup_dir, verified)
        return Result(chosen, verified, manifest)


def _newest(settings: Settings) -> Path:
    newest = state.read(settings).newest
    if newest is None:
        raise Impossible(f"there is no backup in {settings.backup_dir}: ./clawd backup makes one")
    return newest.path


def unpack(path: Path, place: archive.Place, screen: Screen) -> Manifest:
    """Unpack a backup, and show how far it is."""
    with screen.bar("bytes", archive.read_manifest(path).size) as bar:
        return archive.unpack(path, place, lambda count: bar.advance(bar.task_ids[0], count))


def _check(settings: Settings, manifest: Manifest, work: Path, screen: Screen) -> None:
    if manifest.backend == "sqlite":
        for entry in manifest.databases:
            check_file(entry, work / entry.file)
        return
    if not settings.names_postgres and not settings.postgres:
        raise Impossible("it is a backup of PostgreSQL, and no PostgreSQL is named")
    postgres_scratch.check(PostgresDatabases(settings), manifest, work, screen)


def check_file(entry: Entry, file: Path) -> None:
    """Raise `Damaged` where SQLite finds something wrong, or other rows than were packed."""
    if problem := sqlite_databases.check(file):
        raise Damaged(f"{entry.name} is damaged: {problem}")
    if different := digests.differences(entry.tables, digests.of_sqlite(file)):
        raise Damaged(f"{entry.name} comes out different: {', '.join(different)}")
