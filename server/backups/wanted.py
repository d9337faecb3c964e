"""Which databases belong to a master: its projects', and those of what was deleted and is kept."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import database
from server.storage import names

# By the master's rows: id, db_name, status; and of what was deleted: id, kept_name, status.
PROJECTS = "SELECT id, db_name, status FROM projects ORDER BY id"
DELETED = "SELECT id, kept_name, status FROM deleted_projects ORDER BY id"
TABLE = "deleted_projects"

Row = tuple[int, str, str]


@dataclass(frozen=True)
class Wanted:
    """A project's database, under the first of these names that there is.

    While a deletion or its undoing is under way it may be gone already, or not be there yet.
    """

    project_id: int
    names: tuple[str, ...]
    required: bool


def find(projects: Iterable[Row], deleted: Iterable[tuple[int, str | None, str]]) -> list[Wanted]:
    """What a master's rows say."""
    kept = {project_id: (name, status) for project_id, name, status in deleted}
    return [*_of_projects(projects, kept), *_of_deleted(kept)]


def _of_projects(
    projects: Iterable[Row], kept: dict[int, tuple[str | None, str]]
) -> Iterator[Wanted]:
    for project_id, name, status in projects:
        if status == "active":
            yield Wanted(project_id, (name,), True)
        elif project_id in kept:
            # On its way from one name to the other; whoever mends it knows both.
            other = kept.pop(project_id)[0]
            yield Wanted(project_id, (other, name) if other else (name,), False)


def _of_deleted(kept: dict[int, tuple[str | None, str]]) -> Iterator[Wanted]:
    for project_id, (name, status) in kept.items():
        if name:
            yield Wanted(project_id, (name,), status == "deleted")


def refusal(name: str, project_id: int, master: str) -> str:
    """Why this is no name of the project's database, empty where it is one."""
    kept = names.KEPT_DATABASE.fullmatch(name)
    refused = (
        names.find_kept_refusal(name, project_id) if kept else names.find_refusal(name, master)
    )
    return refused.reason if refused else ""


def file(folder: Path, name: str) -> Path:
    """Where SQLite has the database."""
    kept = names.KEPT_DATABASE.fullmatch(name)
    return (folder / database.KEPT if kept else folder) / f"{name}.sqlite3"
