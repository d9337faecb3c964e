"""A project's life: creating, active, deleting, gone; its row and its database go together.

Whoever moves a project holds the lock of its database's name, which a dying process lets go. So
a row that says `creating` or `deleting` while its lock is free was left by a crash, and `mend`
finishes it: a creation is undone, a deletion is completed.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import database_adapter
from server import audit
from server.errors import Conflicting, Invalid, NotFound, Problem
from server.projects import queries
from server.storage import names
from server.storage.contract import (
    Busy,
    DatabaseError,
    DatabaseExists,
    Row,
    TemplateFailed,
)

log = logging.getLogger("clawd.projects")


class DeletionRefused(Problem):
    """The guard refused: 403 for good, 400 or 409 where `force=true` would help."""

    status = 403
    code = "deletion_refused"

    def __init__(self, refusal: names.Refused, db_name: str) -> None:
        super().__init__(refusal.reason, database=db_name, force_required=not refusal.hard)
        if not refusal.hard:
            self.status = 409 if refusal.in_use else 400
            self.code = "database_in_use" if refusal.in_use else "name_mismatch"


@dataclass
class Deleted:
    """What a deletion removed."""

    database: str
    dropped: bool
    sessions: int
    messages: int
    warnings: list[str] = field(default_factory=list)


def create(user_id: int, name: str, description: str | None, type_name: str) -> Row:
    """Make the project and its database: both or neither."""
    db_name = _new_database_name(name)
    with _locked(db_name):
        project_id, template_sql = _reserve(user_id, name, description, type_name, db_name)
        try:
            database_adapter.create_project_database(name, template_sql, project_id)
        except BaseException as error:
            # Should this fail too, `mend` removes the row.
            with database_adapter.get_db() as conn:
                queries.delete_project(conn, user_id, project_id)
            if isinstance(error, TemplateFailed):
                raise Problem(
                    "The template of this project type failed; nothing was created.",
                    code="template_failed",
                ) from error
            if isinstance(error, DatabaseExists):
                raise _taken() from error
            raise
        with database_adapter.get_db() as conn:
            queries.set_status(conn, user_id, project_id, "active")
            row = queries.find_project(conn, user_id, project_id)
    if row is None:
        raise NotFound()
    log.info("project created", extra={"project_id": project_id, "database": db_name})
    return row


def _new_database_name(name: str) -> str:
    if not names.PROJECT_NAME.fullmatch(name):
        raise Invalid(
            "name: must start with a letter and have at most 59 of a-z, 0-9, - and _",
            loc=("body", "name"),
            code="invalid_name",
        )
    try:
        return database_adapter.new_database_name(name)
    except names.Refused as error:
        raise Conflicting(error.reason, code="reserved_name") from error


def _reserve(
    user_id: int, name: str, description: str | None, type_name: str, db_name: str
) -> tuple[int, str]:
    """Write the row that claims the name, and read the template."""
    with database_adapter.get_db() as conn:
        project_type = queries.find_type(conn, type_name)
        if project_type is None:
            raise Invalid(
                "project_type: is not the name of a project type",
                loc=("body", "project_type"),
                code="unknown_project_type",
            )
        project_id = queries.create_project(
            conn, user_id, name, description, project_type["id"], db_name, datetime.now(UTC)
        )
    if project_id is None:
        raise _taken()
    return project_id, project_type["template_sql"]


def _taken() -> Conflicting:
    return Conflicting(
        "A project with this name, or with one that needs the same database, exists already.",
        code="database_name_taken",
    )


@contextmanager
def _locked(db_name: str) -> Iterator[None]:
    """The lock of a database's name; somebody else's hold on it is a 409."""
    with ExitStack() as stack:
        try:
            stack.enter_context(database_adapter.lock_project_database(db_name))
        except Busy as error:
            raise Conflicting(
                "This project is being created or deleted.", code="project_busy", retry_after=1
            ) from error
        yield


def delete(user_id: int, project_id: int, *, force: bool) -> Deleted:
    """Drop the project's database, then delete its row with all that hangs on it."""
    project = _find(user_id, project_id)
    if force:
        log.warning("FORCE deletion requested for project %d", project_id)
    try:
        return _delete(user_id, project, force)
    except DeletionRefused as error:
        with database_adapter.get_db() as conn:
            audit.record(
                conn,
                user_id,
                "project.delete",
                _target(project_id, project["db_name"]),
                "refused, though forced" if force else "refused",
                error.detail,
                level=logging.CRITICAL if error.status == 403 else logging.WARNING,
            )
        raise


def _find(user_id: int, project_id: int) -> Row:
    with database_adapter.read_db() as conn:
        project = queries.find_project(conn, user_id, project_id)
    if project is None or project["status"] == "creating":
        raise NotFound()
    return project


def _delete(user_id: int, project: Row, force: bool) -> Deleted:
    project_id, db_name = project["id"], project["db_name"]
    refusal = database_adapter.check_deletion(project["name"], db_name)
    if refusal is not None and (refusal.hard or not force):
        raise DeletionRefused(refusal, db_name)
    with _locked(db_name):
        # Another request may have deleted it before we got the lock.
        _find(user_id, project_id)
        dropped = _drop(user_id, project_id, db_name, force)
        warnings = []
        if force:
            warnings.append(f"FORCE deletion requested for project {project_id}")
        if refusal is not None:
            warnings.append(refusal.reason)
        if not dropped:
            warnings.append(f"Database '{db_name}' was already missing")
        return _remove(user_id, project_id, Deleted(db_name, dropped, 0, 0, warnings))


def _drop(user_id: int, project_id: int, db_name: str, force: bool) -> bool:
    """Hide the project, then drop its database; a refusal brings the project back."""
    with database_adapter.get_db() as conn:
        queries.set_status(conn, user_id, project_id, "deleting")
    try:
        return database_adapter.drop_project_database(db_name, project_id, force)
    except names.Refused as refusal:
        with database_adapter.get_db() as conn:
            queries.set_status(conn, user_id, project_id, "active")
        raise DeletionRefused(refusal, db_name) from refusal


def _remove(user_id: int, project_id: int, deleted: Deleted) -> Deleted:
    """Delete the row with all that hangs on it, and write that down in the same transaction."""
    with database_adapter.get_db() as conn:
        counts = queries.count_contents(conn, user_id, project_id)
        deleted.sessions, deleted.messages = counts["sessions"], counts["messages"]
        queries.delete_project(conn, user_id, project_id)
        audit.record(
            conn,
            user_id,
            "project.delete",
            _target(project_id, deleted.database),
            "deleted",
            "; ".join(deleted.warnings) or None,
            level=logging.WARNING if deleted.warnings else logging.INFO,
        )
    return deleted


def _target(project_id: int, db_name: str) -> str:
    return f"project {project_id}, database {db_name}"


def mend() -> None:
    """Finish what crashes left unfinished; what another process is at is left to it."""
    for name in database_adapter.sweep_project_databases():
        log.warning("half-made project database removed", extra={"database": name})
    with database_adapter.read_db() as conn:
        unfinished = queries.list_unfinished(conn)
    for project in unfinished:
        try:
            _mend(project)
        except DatabaseError as error:
            log.warning(
                "project not mended", extra={"project_id": project["id"], "cause": str(error)}
            )


def _mend(project: Row) -> None:
    user_id, project_id, db_name = project["user_id"], project["id"], project["db_name"]
    with database_adapter.lock_project_database(db_name):
        with database_adapter.read_db() as conn:
            now = queries.find_project(conn, user_id, project_id)
        if now is None or now["status"] == "active":
            return
        try:
            if database_adapter.check_deletion(project["name"], db_name) is None:
                database_adapter.drop_project_database(db_name, project_id, force=False)
        except names.Refused as refusal:
            if refusal.in_use:
                raise
            # A database that isn't ours stays; the row that never got one of its own goes.
            log.error("project database kept", extra={"cause": refusal.reason})
        _remove(user_id, project_id, Deleted(db_name, True, 0, 0, [f"Was left {now['status']}"]))
