"""Where a development instance has its SQLite databases, and that they are not production's."""

import os
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from server.migration import source
from server.settings import ROOT, Settings
from server.storage import environment
from server.storage.contract import Misconfigured

SCRIPT = "start-backend-dev.sh"
# What that script says where the folder's .env doesn't.
MASTER, PROJECTS = "clawdbot_adapter_dev.db", "project_databases_dev"


class Occupied(Exception):
    """There is something in the clone's place; one line."""


@dataclass(frozen=True)
class Place:
    """The file of the master, and the folder of the projects' files."""

    master: Path
    projects: Path

    def check_apart(self, settings: Settings) -> None:
        """Raise `Misconfigured` where a part of it is production's, by whatever name."""
        for ours in (self.master, self.projects):
            for theirs in (settings.db_path, settings.project_databases):
                if _is_same(ours, theirs):
                    raise Misconfigured(
                        f"{ours} is {theirs}, which is to be cloned: name the development "
                        "instance's folder; scripts/dev-tree makes one"
                    )
        if self.master.exists() and _is_marked(self.master):
            raise Misconfigured(f"{self.master} is marked as production's own: it stays as it is")

    def check_free(self) -> None:
        """Raise `Occupied` where a database is there already."""
        there = [path for path in (self.master, *self.files()) if os.path.lexists(path)]
        if there:
            raise Occupied(f"{there[0]} is there already; --replace puts the clone in its place")

    def files(self) -> list[Path]:
        """The projects' files."""
        return sorted(self.projects.glob("*_db.sqlite3"))


def default() -> Path:
    """The folder that scripts/dev-tree makes."""
    return ROOT.parent / f"{ROOT.name}-development"


def place_of(tree: Path) -> Place:
    """Where the instance of a folder has its databases, as its .env says."""
    if not (tree / SCRIPT).exists():
        raise Misconfigured(
            f"{tree} is no folder of this service: scripts/dev-tree makes one, or name yours"
        )
    values = dotenv_values(tree / ".env")
    if _uses_postgres(values):
        raise Misconfigured(f"{tree}/.env names a PostgreSQL: a clone is of SQLite")
    master = tree / Path(values.get("DB_PATH") or MASTER).expanduser()
    projects = values.get("PROJECT_DB_DIR")
    return Place(
        master, tree / Path(projects).expanduser() if projects else master.with_name(PROJECTS)
    )


def _uses_postgres(values: Mapping[str, str | None]) -> bool:
    chosen = (values.get("USE_POSTGRES") or "").lower()
    if chosen:
        return chosen in ("true", "1", "yes", "on", "t", "y")
    return bool(values.get("DATABASE_URL") or values.get("DB_HOST"))


def _is_same(one: Path, other: Path) -> bool:
    """Whether both are one file or folder, through links of either kind."""
    with suppress(OSError):
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)


def _is_marked(master: Path) -> bool:
    with suppress(sqlite3.Error), source.opened(master) as conn:
        return conn.execute(f"SELECT 1 FROM {environment.TABLE}").fetchone() is not None
    return False
