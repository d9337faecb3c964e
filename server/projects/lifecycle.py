"""A project's life: creating, active, deleting, gone; its row and its database go together.

Whoever moves a project holds the lock of its database's name, which a dying process lets go. So
a row that says `creating` or `deleting` while its lock is free was left by a crash. `mend`
finishes it, and so does whoever wants the name next: a creation is undone, a deletion is completed
or, where the guard refuses it, undone.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import database_adapter
from server import audit
from server.errors import Conflicting, Invalid, NotFound, Overloaded, Problem
from server.projects import queries
from server.storage import names
from server.storage.contract import (
    Connection,
    DatabaseError,
    DatabaseExists,
    Locked,
    Misconfigured,
    Row,
    TemplateFailed,
)

log = logging.getLogger("clawd.projects")

BATCH = 2000
# The processes that generate look for a request to stop every 0.2 s.
STOP_SECONDS = 1.0


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
        _finish_what_was_left(db_name)
        # Before there is a row: whatever a row that stays `creating` names is the project's own.
        if database_adapter.project_database_exists(db_name):
            raise _taken()
        project_id, template_sql = _reserve(user_id, name, description, type_name, db_name)
        _make_database(user_id, project_id, name, template_sql)
        with database_adapter.get_db() as conn:
            queries.set_status(conn, user_id, project_id, "active")
            row = queries.find_project(conn, user_id, project_id)
    if row is None:
        raise NotFound()
    log.info("project created", extra={"project_id": project_id, "database": db_name})
    return row


def _finish_what_was_left(db_name: str) -> None:
    """Bring to its end what a crash left under the name; our lock says that nobody is at it."""
    with database_adapter.read_db() as conn:
        left = queries.find_unfinished(conn, db_name)
    if left is not None:
        try:
            _finish(left)
        except names.Refused as refusal:
            raise _taken() from refusal


def _make_database(user_id: int, project_id: int, name: str, template_sql: str) -> None:
    """Make the database; the row goes where it is certain that there is none.

    After any other error, such as a connection that broke while the database got its name, the
    row stays `creating`: `mend` looks whether there is one.
    """
    try:
        database_adapter.create_project_database(name, template_sql, project_id)
    except (DatabaseExists, TemplateFailed, Misconfigured, names.Refused) as error:
        # Should this fail too, `mend` removes the row.
        with database_adapter.get_db() as conn:
            queries.delete_project(conn, user_id, project_id)
        raise _not_created(error) from error


def _not_created(error: DatabaseError) -> Problem:
    match error:
        case names.Refused():
            return Conflicting(error.reason, code="reserved_name")
        case TemplateFailed():
            return Problem(
                "The template of this project type failed; nothing was created.",
                code="template_failed",
            )
        case Misconfigured():
            log.error("no project database can be made", extra={"cause": str(error)})
            return Overloaded(
                "No databases for projects can be made at the moment.",
                code="provisioning_unavailable",
            )
    return _taken()


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
        except Locked as error:
            raise Conflicting(
                "This project is being created or deleted.", code="project_busy", retry_after=1
            ) from error
        yield


def delete(user_id: int, project_id: int, *, force: bool) -> Deleted:
    """Drop the project's database, then delete its row with all that hangs on it.

    Every attempt, however it ends, is in the audit log.
    """
    if force:
        log.warning("FORCE deletion requested for project %d", project_id)
    target = _target(project_id, "unknown")
    try:
        project = _find(user_id, project_id)
        target = _target(project_id, project["db_name"])
        return _delete(user_id, project, force)
    except Exception as error:
        _record_failure(user_id, target, error, force)
        raise


def _record_failure(user_id: int, target: str, error: Exception, force: bool) -> None:
    """Write the attempt down; a database that is away leaves the log line alone."""
    outcome, level = _outcome(error)
    if force:
        outcome += ", though forced"
    try:
        with database_adapter.get_db() as conn:
            audit.record(conn, user_id, "project.delete", target, outcome, str(error), level=level)
    except DatabaseError as trouble:
        log.warning(
            "attempt not in the audit log",
            extra={"target": target, "outcome": outcome, "cause": str(trouble)},
        )


def _outcome(error: Exception) -> tuple[str, int]:
    match error:
        case DeletionRefused():
            return "refused", logging.CRITICAL if error.status == 403 else logging.WARNING
        case NotFound():
            return "not found", logging.INFO
        case Conflicting():
            return "busy", logging.INFO
    return "failed", logging.ERROR


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
    """Hide the project, stop what generates in it, drop its database.

    A refusal brings the project back.
    """
    with database_adapter.get_db() as conn:
        queries.set_status(conn, user_id, project_id, "deleting")
        generating = queries.stop_generations(conn, user_id, project_id)
    if generating:
        _wait_for_generations(user_id, project_id)
    try:
        return database_adapter.drop_project_database(db_name, project_id, force)
    except names.Refused as refusal:
        with database_adapter.get_db() as conn:
            queries.set_status(conn, user_id, project_id, "active")
        raise DeletionRefused(refusal, db_name) from refusal


def _wait_for_generations(user_id: int, project_id: int) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        with database_adapter.read_db() as conn:
            if not queries.is_generating(conn, user_id, project_id):
                return
        time.sleep(0.05)


def _remove(user_id: int, project_id: int, deleted: Deleted) -> Deleted:
    """Delete the row with all that hangs on it, and write that down with the row's end."""
    deleted.messages = _delete_batches(queries.delete_messages, user_id, project_id)
    deleted.sessions = _delete_batches(queries.delete_sessions, user_id, project_id)
    dropped = "database dropped" if deleted.dropped else "no database dropped"
    with database_adapter.get_db() as conn:
        if not queries.delete_project(conn, user_id, project_id):
            # We lost the lock with its connection, and whoever came next was quicker.
            return deleted
        audit.record(
            conn,
            user_id,
            "project.delete",
            _target(project_id, deleted.database),
            "deleted",
            "; ".join([*deleted.warnings, dropped]),
            level=logging.WARNING if deleted.warnings else logging.INFO,
        )
    return deleted


def _delete_batches(
    delete_some: Callable[[Connection, int, int, int], int], user_id: int, project_id: int
) -> int:
    """Delete in short transactions: none meets the statement's limit, others write in between."""
    total = 0
    while True:
        with database_adapter.get_db() as conn:
            deleted = delete_some(conn, user_id, project_id, BATCH)
        total += deleted
        if deleted < BATCH:
            return total
        # SQLite's lock is not fair: let those who wait for it have it.
        time.sleep(0.005)


def _target(project_id: int, db_name: str) -> str:
    return f"project {project_id}, database {db_name}"


def mend() -> None:
    """Finish what crashes left unfinished; what another process is at is left to it."""
    try:
        for name in database_adapter.sweep_project_databases():
            log.warning("half-made project database removed", extra={"database": name})
    except DatabaseError as error:
        log.warning("half-made project databases not swept", extra={"cause": str(error)})
    with database_adapter.read_db() as conn:
        unfinished = queries.list_unfinished(conn)
    for project in unfinished:
        try:
            _mend(project)
        except Locked:
            log.debug("left to whoever is at it", extra={"project_id": project["id"]})
        except Exception as error:  # one that can't be mended must not stop the others
            log.warning(
                "project not mended", extra={"project_id": project["id"], "cause": str(error)}
            )


def _mend(project: Row) -> None:
    with database_adapter.lock_project_database(project["db_name"]):
        with database_adapter.read_db() as conn:
            # Another one may have finished it before we got the lock.
            left = queries.find_unfinished(conn, project["db_name"])
        if left is not None:
            _finish(left)


def _finish(left: Row) -> None:
    if left["status"] == "creating":
        _undo_creation(left["user_id"], left)
    elif left["status"] == "deleting":
        _finish_deletion(left["user_id"], left)


def _undo_creation(user_id: int, project: Row) -> None:
    """Drop the database if this creation made it; the row goes whatever the guard says."""
    project_id, db_name, warnings = project["id"], project["db_name"], ["Was left creating"]
    dropped = False
    try:
        if database_adapter.made_project_database(db_name, project_id):
            dropped = database_adapter.drop_project_database(db_name, project_id, force=False)
    except names.Refused as refusal:
        if not refusal.hard:
            raise
        log.error("project database kept", extra={"cause": refusal.reason})
        warnings.append(refusal.reason)
    _remove(user_id, project_id, Deleted(db_name, dropped, 0, 0, warnings))


def _finish_deletion(user_id: int, project: Row) -> None:
    """Drop the database, also one that needed force; the project is back where none helps."""
    project_id, db_name, warnings = project["id"], project["db_name"], ["Was left deleting"]
    refusal = database_adapter.check_deletion(project["name"], db_name)
    try:
        if refusal is not None and refusal.hard:
            raise refusal
        dropped = database_adapter.drop_project_database(db_name, project_id, force=False)
    except names.Refused as refused:
        if not refused.hard:
            raise
        with database_adapter.get_db() as conn:
            queries.set_status(conn, user_id, project_id, "active")
        _record_failure(
            user_id, _target(project_id, db_name), DeletionRefused(refused, db_name), force=False
        )
        return
    if refusal is not None:
        warnings.append(refusal.reason)
    _remove(user_id, project_id, Deleted(db_name, dropped, 0, 0, warnings))
