"""The end of what deletions have kept: when its days are over, or its owner says so."""

import logging
from datetime import UTC, datetime

import database_adapter
from server import audit
from server.errors import Conflicting, NotFound
from server.projects import deleted_queries, rows
from server.projects.attempt import Deleted, DeletionRefused, busy, locked, target
from server.storage import names
from server.storage.contract import Locked, Row

log = logging.getLogger("clawd.projects")

ACTION = "project.purge"


def purge(user_id: int, project_id: int, *, force: bool) -> Deleted:
    """Drop what is kept of the deleted project, for good."""
    with locked(_find(user_id, project_id)["db_name"]):
        return finish(user_id, project_id, force=force)


def _find(user_id: int, project_id: int) -> Row:
    with database_adapter.read_db() as conn:
        kept = deleted_queries.find_deleted(conn, user_id, project_id)
    if kept is None:
        raise NotFound()
    return kept


def sweep() -> None:
    """Purge what is due, and what a crash has left half purged; others may do so as well."""
    with database_adapter.read_db() as conn:
        due = deleted_queries.list_due(conn, datetime.now(UTC))
    for kept in due:
        try:
            with database_adapter.lock_project_database(kept["db_name"]):
                finish(kept["user_id"], kept["id"], force=False, why="Its days were over")
        except (Locked, NotFound, Conflicting):
            log.debug("left to whoever is at it", extra={"project_id": kept["id"]})
        except Exception as error:  # one that can't be purged must not stop the others
            log.warning(
                "deleted project not purged",
                extra={"project_id": kept["id"], "cause": str(error)},
            )


def finish(user_id: int, project_id: int, *, force: bool, why: str = "") -> Deleted:
    """Drop the database that was set aside, then delete the rows; whoever calls has the lock."""
    with database_adapter.get_db() as conn:
        deleted_queries.set_status(conn, user_id, project_id, "deleted", "purging")
        kept = deleted_queries.find_deleted(conn, user_id, project_id)
    if kept is None:
        raise NotFound()
    if kept["status"] != "purging":
        raise busy()
    deleted = Deleted(kept["db_name"], _drop(kept, force))
    deleted.sessions, deleted.messages = rows.delete_kept(user_id, project_id)
    with database_adapter.get_db() as conn:
        if deleted_queries.forget_project(conn, user_id, project_id):
            detail = "database dropped" if deleted.dropped else "no database dropped"
            on = target(project_id, kept["db_name"])
            audit.record(
                conn, user_id, ACTION, on, "purged", "; ".join(filter(None, [why, detail]))
            )
    return deleted


def _drop(kept: Row, force: bool) -> bool:
    """Drop the database; a refusal leaves all as it was, since no row has gone yet."""
    user_id, project_id, kept_name = kept["user_id"], kept["id"], kept["kept_name"]
    if kept_name is None:
        return False
    try:
        dropped = database_adapter.drop_kept_database(kept_name, project_id, force)
    except names.Refused as refusal:
        with database_adapter.get_db() as conn:
            deleted_queries.set_status(conn, user_id, project_id, "purging", "deleted")
        raise DeletionRefused(refusal, kept["db_name"]) from refusal
    with database_adapter.get_db() as conn:
        deleted_queries.forget_database(conn, user_id, project_id)
    return dropped
