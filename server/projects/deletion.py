"""Deleting a project: it hides, its database and its rows are set aside, or go for good.

What is set aside comes back by `restoration`, and goes by `purging` when its days are over.
"""

import logging
import time
from datetime import UTC, datetime, timedelta

import database_adapter
from server import audit
from server.errors import NotFound
from server.projects import deleted_queries, purging, queries, rows
from server.projects.attempt import Deleted, DeletionRefused, locked, record_failure, target
from server.settings import get_settings
from server.storage import names
from server.storage.contract import Row

log = logging.getLogger("clawd.projects")

ACTION = "project.delete"
# The processes that generate look for a request to stop every 0.2 s.
STOP_SECONDS = 1.0


def delete(user_id: int, project_id: int, *, force: bool, purge: bool = False) -> Deleted:
    """Take the project away with all that hangs on it, for good or so that it can come back.

    To purge one that is deleted already ends its days early. Every attempt, however it ends, is in
    the audit log.
    """
    if force:
        log.warning("FORCE deletion requested for project %d", project_id)
    on = target(project_id)
    try:
        project = _find(user_id, project_id)
        if project is None and purge:
            return purging.purge(user_id, project_id, force=force)
        if project is None:
            raise NotFound()
        on = target(project_id, project["db_name"])
        return _delete(user_id, project, force=force, purge=purge)
    except Exception as error:
        record_failure(user_id, ACTION, on, error, force=force)
        raise


def _find(user_id: int, project_id: int) -> Row | None:
    with database_adapter.read_db() as conn:
        project = queries.find_project(conn, user_id, project_id)
    return None if project is None or project["status"] == "creating" else project


def _delete(user_id: int, project: Row, *, force: bool, purge: bool) -> Deleted:
    project_id, db_name = project["id"], project["db_name"]
    refusal = database_adapter.check_deletion(project["name"], db_name)
    if refusal is not None and (refusal.hard or not force):
        raise DeletionRefused(refusal, db_name)
    with locked(db_name):
        # Another request may have deleted it before we got the lock.
        if _find(user_id, project_id) is None:
            raise NotFound()
        kept = _hide(user_id, project_id, keep=not purge)
        try:
            dropped = _take_database(user_id, project_id, db_name, kept, force=force)
        except names.Refused as refused:
            _show_again(user_id, project_id)
            raise DeletionRefused(refused, db_name) from refused
        warnings = []
        if force:
            warnings.append(f"FORCE deletion requested for project {project_id}")
        if refusal is not None:
            warnings.append(refusal.reason)
        if not dropped:
            warnings.append(f"Database '{db_name}' was already missing")
        deleted = _remove(user_id, project_id, kept, Deleted(db_name, dropped, warnings=warnings))
        if purge and kept is not None:
            # A crash had broken off a deletion that keeps, and this one came to its end first.
            purging.finish(user_id, project_id, force=force)
            deleted.until = None
        return deleted


def _hide(user_id: int, project_id: int, *, keep: bool) -> Row | None:
    """Hide the project and stop what generates in it; what is kept of it, None: nothing.

    A deletion that a crash broke off goes on as it was begun.
    """
    now, days = datetime.now(UTC), get_settings().undo_days
    with database_adapter.get_db() as conn:
        if queries.set_status(conn, user_id, project_id, "active", "deleting") and keep and days:
            kept_name, due = names.new_kept_name(project_id), now + timedelta(days=days)
            deleted_queries.keep_project(conn, user_id, project_id, kept_name, now, due)
        kept = deleted_queries.find_deleted(conn, user_id, project_id)
        generating = queries.stop_generations(conn, user_id, project_id)
    if generating:
        _wait_for_generations(user_id, project_id)
    return kept


def _wait_for_generations(user_id: int, project_id: int) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        with database_adapter.read_db() as conn:
            if not queries.is_generating(conn, user_id, project_id):
                return
        time.sleep(0.05)


def finish(user_id: int, project: Row) -> None:
    """Go on with a deletion that a crash broke off, also one that needed force.

    The project is back where the guard refuses it for good. Raises `Refused` while it is in use.
    """
    project_id, db_name, warnings = project["id"], project["db_name"], ["Was left deleting"]
    refusal = database_adapter.check_deletion(project["name"], db_name)
    with database_adapter.read_db() as conn:
        kept = deleted_queries.find_deleted(conn, user_id, project_id)
    try:
        if refusal is not None and refusal.hard:
            raise refusal
        dropped = _take_database(user_id, project_id, db_name, kept, force=False)
    except names.Refused as refused:
        if not refused.hard:
            raise
        _show_again(user_id, project_id)
        error = DeletionRefused(refused, db_name)
        record_failure(user_id, ACTION, target(project_id, db_name), error)
        return
    if refusal is not None:
        warnings.append(refusal.reason)
    _remove(user_id, project_id, kept, Deleted(db_name, dropped, warnings=warnings))


def _take_database(
    user_id: int, project_id: int, db_name: str, kept: Row | None, *, force: bool
) -> bool:
    """Set the project's database aside, or drop it; whether it is gone from under its name."""
    if kept is None:
        return database_adapter.drop_project_database(db_name, project_id, force)
    if kept["status"] != "deleting":
        return kept["kept_name"] is not None
    aside = database_adapter.set_project_database_aside(
        db_name, kept["kept_name"], project_id, force
    )
    # From now on rows may go: nothing refuses the rest any more.
    with database_adapter.get_db() as conn:
        deleted_queries.set_status(conn, user_id, project_id, "deleting", "emptying")
        if not aside:
            deleted_queries.forget_database(conn, user_id, project_id)
    return aside


def _show_again(user_id: int, project_id: int) -> None:
    """Bring a project back that has lost nothing yet."""
    with database_adapter.get_db() as conn:
        queries.set_status(conn, user_id, project_id, "deleting", "active")
        deleted_queries.forget_project(conn, user_id, project_id)


def _remove(user_id: int, project_id: int, kept: Row | None, deleted: Deleted) -> Deleted:
    """Take the rows away and the project's own last, and write that down with its end."""
    take_rows = rows.delete if kept is None else rows.keep
    deleted.sessions, deleted.messages = take_rows(user_id, project_id)
    deleted.until = None if kept is None else kept["due_at"]
    with database_adapter.get_db() as conn:
        if not queries.delete_project(conn, user_id, project_id):
            # We lost the lock with its connection, and whoever came next was quicker.
            return deleted
        deleted_queries.set_status(conn, user_id, project_id, "emptying", "deleted")
        audit.record(
            conn,
            user_id,
            ACTION,
            target(project_id, deleted.database),
            "deleted",
            "; ".join([*deleted.warnings, _fate(deleted.dropped, kept)]),
            level=logging.WARNING if deleted.warnings else logging.INFO,
        )
    return deleted


def _fate(dropped: bool, kept: Row | None) -> str:
    if kept is not None:
        return f"database kept as {kept['kept_name']}" if dropped else "no database kept"
    return "database dropped" if dropped else "no database dropped"
