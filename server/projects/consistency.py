"""Compares the projects' rows with the databases that there are."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import database_adapter
from server.projects import deleted_queries, queries
from server.storage.contract import FoundDatabase, Locked, Row, Unavailable

log = logging.getLogger("clawd.projects")

Kind = Literal[
    "orphan_database",
    "missing_database",
    "foreign_database",
    "half_made_database",
    "invalid_database",
    "unfinished_project",
    "protected_name",
    "no_creation",
]

_MEANINGS: dict[Kind, str] = {
    "orphan_database": "it is ours and no project names it: its row was deleted by hand, or the "
    "master comes from a backup that is older",
    "missing_database": "its project, or its deleted project, names it and it is not there: "
    "somebody dropped it",
    "foreign_database": "it doesn't carry the mark of the project that names it: somebody else "
    "made it, or put it back from a backup without its mark",
    "half_made_database": "its creation died half-way",
    "invalid_database": "a DROP of it was interrupted: nobody can connect to it again",
    "unfinished_project": "its creation or deletion died half-way",
    "protected_name": "a project's row names it, and it can never be a project's",
}


@dataclass(frozen=True)
class Finding:
    """A row or a database that isn't as it should be, and what mends it."""

    kind: Kind
    database: str
    project_id: int | None
    meaning: str
    cure: str


def check() -> list[Finding]:
    """What doesn't fit, without what is being created or deleted at this moment; [] is well."""
    first = _compare()
    if not first:
        return _obstacle()
    settled = [finding for finding in _compare() if finding in first]
    return [*_obstacle(), *(finding for finding in settled if not _is_being_moved(finding))]


def report() -> None:
    """Log what doesn't fit; nothing is dropped here, since it may be somebody's only copy."""
    for finding in check():
        log.warning(
            "inconsistent: %s",
            finding.kind,
            extra={
                "database": finding.database,
                "project_id": finding.project_id,
                "cause": finding.meaning,
                "cure": finding.cure,
            },
        )


def _obstacle() -> list[Finding]:
    obstacle = database_adapter.creation_obstacle()
    if obstacle is None:
        return []
    meaning, _, cure = obstacle.partition("; to mend it: ")
    return [Finding("no_creation", "", None, meaning, cure)]


def _is_being_moved(finding: Finding) -> bool:
    if finding.kind in ("protected_name", "half_made_database"):
        return False
    try:
        with database_adapter.lock_project_database(finding.database):
            return False
    except Locked:
        return True
    except Unavailable:  # a folder that can't be written: nobody can
        return False


def _compare() -> list[Finding]:
    databases = {found["name"]: found for found in database_adapter.list_project_databases()}
    with database_adapter.read_db() as conn:
        projects = queries.list_databases(conn)
        kept = deleted_queries.list_kept(conn)
    pairs = [(project, databases.get(project["db_name"])) for project in projects]
    kept_pairs = [(project, databases.get(project["kept_name"])) for project in kept]
    named = {project["db_name"] for project in projects} | {row["kept_name"] for row in kept}
    return [
        *(finding for pair in pairs for finding in _check_project(*pair)),
        *(finding for pair in kept_pairs for finding in _check_kept(*pair)),
        *(
            finding
            for name, found in databases.items()
            if name not in named
            for finding in _check_unnamed(found)
        ),
    ]


def _check_project(project: Row, found: FoundDatabase | None) -> Iterator[Finding]:
    name, project_id = project["db_name"], project["id"]
    refusal = database_adapter.check_deletion(project["name"], name)
    if refusal is not None and refusal.hard:
        cure = "put the right db_name into the row by SQL"
        yield _finding("protected_name", name, project_id, cure)
    elif project["status"] != "active":
        cure = "nothing to do: a running service finishes it within a minute"
        yield _finding("unfinished_project", name, project_id, cure)
    elif found is None:
        cure = f"put it back from a backup, or DELETE /projects/{project_id}"
        yield _finding("missing_database", name, project_id, cure)
    elif not found["valid"]:
        cure = f"DELETE /projects/{project_id}"
        yield _finding("invalid_database", name, project_id, cure)
    elif not _is_marked(found, project_id):
        cure = "find out whose it is; where it is the project's, give it the mark"
        yield _finding("foreign_database", name, project_id, cure)


def _check_kept(deleted: Row, found: FoundDatabase | None) -> Iterator[Finding]:
    """What a deletion set aside; while a project moves, its row among the projects is found."""
    name, project_id = deleted["kept_name"], deleted["id"]
    if deleted["status"] == "purging":
        cure = "nothing to do: a running service finishes it within a minute"
        yield _finding("unfinished_project", deleted["db_name"], project_id, cure)
    elif deleted["status"] == "deleted" and name is not None and found is None:
        cure = f"put it back from a backup, or DELETE /projects/{project_id}?purge=true"
        yield _finding("missing_database", name, project_id, cure)
    elif found is not None and not _is_marked(found, project_id):
        cure = "find out whose it is; where it is the project's, give it the mark"
        yield _finding("foreign_database", name, project_id, cure)


def _is_marked(found: FoundDatabase, project_id: int) -> bool:
    return found["marked"] and found["project_id"] in (None, project_id)


def _check_unnamed(found: FoundDatabase) -> Iterator[Finding]:
    name, project_id = found["name"], found["project_id"]
    if found["half_made"]:
        cure = "nothing to do: a running service removes it within a minute"
        yield _finding("half_made_database", name, project_id, cure)
    elif found["marked"]:
        cure = "put its row back, or drop it where nobody needs what is in it"
        yield _finding("orphan_database", name, project_id, cure)
        if not found["valid"]:
            yield _finding("invalid_database", name, project_id, "drop it: nothing is left in it")
    elif database_adapter.current().BACKEND == "sqlite":
        cure = "move it out of the folder of the projects' databases"
        yield _finding("foreign_database", name, None, cure)


def _finding(kind: Kind, database: str, project_id: int | None, cure: str) -> Finding:
    return Finding(kind, database, project_id, _MEANINGS[kind], cure)
