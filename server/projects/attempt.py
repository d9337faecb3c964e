"""What every attempt on a project has: the lock of its database's name, a row in the audit log."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import database_adapter
from server import audit
from server.errors import Conflicting, Forbidden, NotFound, Problem
from server.storage import names
from server.storage.contract import DatabaseError, Locked

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
    """What a deletion took away; it can be undone `until` then, None: it can't."""

    database: str
    dropped: bool
    sessions: int = 0
    messages: int = 0
    warnings: list[str] = field(default_factory=list)
    until: datetime | str | None = None


def taken() -> Conflicting:
    """The project can't have its name."""
    return Conflicting(
        "A project with this name, or with one that needs the same database, exists already.",
        code="database_name_taken",
    )


@contextmanager
def locked(db_name: str) -> Iterator[None]:
    """The lock of a database's name; somebody else's hold on it is a 409."""
    with ExitStack() as stack:
        try:
            stack.enter_context(database_adapter.lock_project_database(db_name))
        except Locked as error:
            raise busy() from error
        yield


def busy() -> Conflicting:
    """Somebody else is at the project."""
    return Conflicting(
        "This project is being created or deleted.", code="project_busy", retry_after=1
    )


def target(project_id: int, db_name: str = "unknown") -> str:
    """What an attempt was on, for the audit log."""
    return f"project {project_id}, database {db_name}"


def record_failure(
    user_id: int, action: str, on: str, error: Exception, *, force: bool = False
) -> None:
    """Write the attempt down; a database that is away leaves the log line alone."""
    outcome, level = _outcome(error)
    if force:
        outcome += ", though forced"
    try:
        with database_adapter.get_db() as conn:
            audit.record(conn, user_id, action, on, outcome, str(error), level=level)
    except DatabaseError as trouble:
        log.warning(
            "attempt not in the audit log",
            extra={"target": on, "outcome": outcome, "cause": str(trouble)},
        )


def _outcome(error: Exception) -> tuple[str, int]:
    match error:
        case DeletionRefused():
            return "refused", logging.CRITICAL if error.status == 403 else logging.WARNING
        case Forbidden():
            return "refused", logging.CRITICAL
        case NotFound():
            return "not found", logging.INFO
        case Conflicting():
            return "busy", logging.INFO
    return "failed", logging.ERROR
