"""The folder of one run: the backup, what was copied, what stayed behind, the report."""

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.migration.project_leftovers import Leftover

PREFIX = "migration-"


@dataclass(frozen=True)
class Folder:
    """`backup/` is the source as it was, `copied/` what differs from it by the options."""

    path: Path

    @property
    def backup(self) -> Path:
        """The master and the projects' databases, as the source had them."""
        return self.path / "backup"

    @property
    def settled(self) -> Path:
        """The databases in which findings were settled."""
        return self.path / "copied"

    @property
    def quarantine(self) -> Path:
        """The rows that were taken out, one JSON object a line."""
        return self.path / "quarantine.jsonl"

    @property
    def leftovers(self) -> Path:
        """What of the projects' schemas has no counterpart, a file for each database."""
        return self.path / "leftovers"

    def database(self, name: str) -> Path:
        """What is copied of the database: the settled one where there is one."""
        settled = self.settled / f"{name}.sqlite3"
        return settled if settled.exists() else self.backup / f"{name}.sqlite3"

    def read(self) -> dict[str, Any]:
        """What is known of the run; nothing of one that never began."""
        try:
            state: dict[str, Any] = json.loads((self.path / "run.json").read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return state

    def write(self, **state: Any) -> None:
        """Note more of the run, whole or not at all."""
        part = self.path / "run.json.part"
        part.write_text(json.dumps(self.read() | state, indent=2) + "\n", "utf-8")
        part.replace(self.path / "run.json")

    def remove_databases(self) -> None:
        """Leave only the report."""
        shutil.rmtree(self.backup, ignore_errors=True)
        shutil.rmtree(self.settled, ignore_errors=True)

    def keep_leftovers(self, name: str, leftovers: Iterable[Leftover]) -> None:
        """Keep what of a project's schema stays behind, where there is such."""
        texts = [
            f"-- {leftover.kind} {leftover.name}: {leftover.reason}\n{leftover.sql};\n"
            for leftover in leftovers
        ]
        if texts:
            self.leftovers.mkdir(exist_ok=True)
            (self.leftovers / f"{name}.sql").write_text("\n".join(texts), "utf-8")

    def remove(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.path, ignore_errors=True)


def new(backups: Path) -> Folder:
    """A folder for a run that begins now, for nobody else's eyes."""
    name = f"{PREFIX}{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while True:
        path = backups / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True, mode=0o700)
        except FileExistsError:
            number += 1
        else:
            break
    folder = Folder(path)
    folder.backup.mkdir(mode=0o700)
    folder.settled.mkdir(mode=0o700)
    return folder


def earlier(backups: Path, source: str, target: str) -> list[Folder]:
    """The runs from this source into this target that have begun to copy, the newest first."""
    if not backups.is_dir():
        return []
    found = [Folder(path) for path in backups.glob(f"{PREFIX}*")]
    same = [
        folder
        for folder in found
        if (state := folder.read()).get("source") == source
        and state.get("target") == target
        and state.get("state") in ("copying", "done")
    ]
    return sorted(same, key=lambda folder: folder.read()["started"], reverse=True)
