"""Takes a backup: every database at one moment of its own, the master's the one that counts."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from server.backups import archive, folder, state
from server.backups.manifest import Entry, Manifest, Tables
from server.backups.wanted import Wanted
from server.migration.report import Screen
from server.settings import Settings
from server.storage import contract
from server.version import VERSION

TRIES = 20
LOOKS, LOOK_SECONDS = 5, 0.1


@dataclass(frozen=True)
class Copied:
    """A database that was copied into a file."""

    tables: Tables | None
    encoding: str = ""


@dataclass(frozen=True)
class Master:
    """The master at the moment at which it was copied."""

    copied: Copied
    projects: list[Wanted]
    steps: list[tuple[str, str]]
    schema: str = ""


class Unreadable(Exception):
    """A project's database that is there and can't be copied; one line."""


class Databases(Protocol):
    """What a backup needs of the database that is in use."""

    backend: str
    ending: str
    level: int  # gzip's: less where the files are compressed already
    master: str

    @property
    def server(self) -> str:
        """Which version it is."""

    def wanted(self) -> list[Wanted]:
        """The projects' databases that there are now, or should be."""

    def copy_master(self, file: Path) -> Master:
        """Copy it while others go on writing."""

    def copy_project(self, project_id: int, name: str, file: Path) -> Copied | None:
        """The same of a project's; None where there is none of its own."""


@dataclass
class Taking:
    """One backup in the making, in a folder of its own."""

    databases: Databases
    work: Path
    screen: Screen
    taken: dict[Wanted, tuple[str, Copied]] = field(default_factory=dict)
    problems: dict[Wanted, str] = field(default_factory=dict)

    def take(self, at: datetime) -> Manifest:
        """Copy everything; the manifest has the projects of the master's moment, no others."""
        master = self._copy_all()
        self._remove_others(master.projects)
        entries = [self._entry(self.databases.master, None, self._master_file, master.copied)]
        for project in master.projects:
            if project in self.taken:
                name, copied = self.taken[project]
                entries.append(self._entry(name, project.project_id, self._file(project), copied))
        return Manifest(
            backend=self.databases.backend,
            version=VERSION,
            server=self.databases.server,
            at=at.isoformat(),
            schema=master.schema,
            steps=master.steps,
            databases=entries,
            problems=[self.problems[one] for one in master.projects if one in self.problems],
        )

    def _remove_others(self, projects: list[Wanted]) -> None:
        """Remove the copies of projects that the master doesn't have."""
        wanted = {self._file(project) for project in projects if project in self.taken}
        for project in self.taken:
            if self._file(project) not in wanted:
                self._file(project).unlink(missing_ok=True)

    def _copy_all(self) -> Master:
        """Projects first: little is left to copy once the master's moment is known."""
        now = self.databases.wanted()
        with self.screen.bar("databases", len(now) + 1) as bar:
            for project in now:
                self._copy(project)
                bar.advance(bar.task_ids[0])
            for _ in range(TRIES):
                master = self.databases.copy_master(self._master_file)
                bar.advance(bar.task_ids[0])
                if all(self._is_settled(project) for project in master.projects):
                    return master
        raise contract.Busy("projects are deleted faster than they can be copied; try again")

    def _is_settled(self, project: Wanted) -> bool:
        """Whether it is copied, or known to be lost; False where it went since the master."""
        for _ in range(LOOKS):
            if project not in self.taken and project not in self.problems:
                self._copy(project)
            if project in self.taken or project in self.problems:
                return True
            if project not in self.databases.wanted():
                return False
            # A deletion takes the database a moment before its row says so.
            time.sleep(LOOK_SECONDS)
        if project.required:
            self.problems[project] = f"{project.names[0]} isn't there, or isn't the project's"
        return True

    def _copy(self, project: Wanted) -> None:
        try:
            for name in project.names:
                copied = self.databases.copy_project(project.project_id, name, self._file(project))
                if copied:
                    self.taken[project] = name, copied
                    return
        except Unreadable as error:
            self._file(project).unlink(missing_ok=True)
            self.problems[project] = str(error)

    @property
    def _master_file(self) -> Path:
        return self.work / f"master{self.databases.ending}"

    def _file(self, project: Wanted) -> Path:
        return self.work / f"project-{project.project_id}{self.databases.ending}"

    def _entry(self, name: str, project_id: int | None, file: Path, copied: Copied) -> Entry:
        size, digest = file.stat().st_size, archive.digest(file)
        return Entry(name, project_id, file.name, size, digest, copied.encoding, copied.tables)


@dataclass(frozen=True)
class Taken:
    """A backup that was made, and the old ones that were removed for it."""

    path: Path
    manifest: Manifest
    removed: list[Path]


def take(databases: Databases, settings: Settings, screen: Screen) -> Taken:
    """Make a backup in BACKUP_DIR; the old ones stay until it is there, whole."""
    with folder.working(settings.backup_dir) as work, folder.full_disks():
        at = datetime.now(UTC).replace(microsecond=0)
        screen.say("Copying the databases")
        manifest = Taking(databases, work, screen).take(at)
        path = _free(settings.backup_dir, databases.backend, at)
        screen.say("Packing")
        with screen.bar("bytes", manifest.size) as bar:
            archive.write(
                path,
                manifest,
                work,
                databases.level,
                lambda count: bar.advance(bar.task_ids[0], count),
            )
        return Taken(path, manifest, folder.prune(settings.backup_dir, settings.backup_keep))


def _free(place: Path, backend: str, at: datetime) -> Path:
    """A name that no backup has."""
    while (path := place / state.file_name(backend, at)).exists():
        at += timedelta(seconds=1)
    return path
