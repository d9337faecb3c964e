"""Bringing a deleted project back: its database first, which may be refused, then its rows.

It is seen again when all of it is there. What a crash breaks off is finished by mending.
"""

import logging

import database_adapter
from server import audit
from server.errors import Conflicting, Forbidden, NotFound, Problem
from server.projects import deleted_queries, queries, rows
from server.projects.attempt import busy, locked, record_failure, taken, target
from server.storage import names
from server.storage.contract import DatabaseExists, Row

log = logging.getLogger("clawd.projects")

ACTION = "project.restore"


def restore(user_id: int, project_id: int) -> Row:
    """The project as it was, with its database, sessions and messages.

    Every attempt, however it ends, is in the audit log.
    """
    on = target(project_id)
    try:
        kept = _find(user_id, project_id)
        on = target(project_id, kept["db_name"])
        with locked(kept["db_name"]):
            # Another request may have restored or purged it before we got the lock.
            kept = _find(user_id, project_id)
            if kept["status"] == "deleted":
                kept = _begin(user_id, kept)
            if kept["status"] != "restoring":
                raise busy()
            return finish(user_id, kept)
    except Exception as error:
        record_failure(user_id, ACTION, on, error)
        raise


def _find(user_id: int, project_id: int) -> Row:
    with database_adapter.read_db() as conn:
        kept = deleted_queries.find_deleted(conn, user_id, project_id)
    if kept is None or kept["status"] == "purging":
        raise NotFound()
    return kept


def _begin(user_id: int, kept: Row) -> Row:
    """Take the name again, with a row that nobody sees yet."""
    project_id = kept["id"]
    if database_adapter.project_database_exists(kept["db_name"]):
        raise taken()
    with database_adapter.get_db() as conn:
        if not deleted_queries.set_status(conn, user_id, project_id, "deleted", "restoring"):
            raise NotFound()
        if not deleted_queries.give_back_project(conn, user_id, project_id):
            raise taken()
    return {**kept, "status": "restoring"}


def finish(user_id: int, kept: Row) -> Row:
    """Bring back what isn't back yet, then show the project; whoever calls has the lock."""
    project_id, db_name = kept["id"], kept["db_name"]
    detail = _bring_database_back(user_id, kept)
    rows.give_back(user_id, project_id)
    with database_adapter.get_db() as conn:
        if queries.set_status(conn, user_id, project_id, "creating", "active"):
            deleted_queries.forget_project(conn, user_id, project_id)
            audit.record(conn, user_id, ACTION, target(project_id, db_name), "restored", detail)
        project = queries.find_project(conn, user_id, project_id)
    if project is None:
        raise NotFound()
    log.info("project restored", extra={"project_id": project_id, "database": db_name})
    return project


def _bring_database_back(user_id: int, kept: Row) -> str:
    """What became of the database; a refusal leaves all as it was, since no row has moved yet."""
    project_id, db_name, kept_name = kept["id"], kept["db_name"], kept["kept_name"]
    if kept_name is None:
        return "no database was kept"
    try:
        back = database_adapter.bring_project_database_back(kept_name, db_name, project_id)
    except DatabaseExists as error:
        _keep_on(user_id, project_id)
        raise taken() from error
    except names.Refused as refusal:
        _keep_on(user_id, project_id)
        raise _refused(refusal) from refusal
    with database_adapter.get_db() as conn:
        deleted_queries.forget_database(conn, user_id, project_id)
    return "database brought back" if back else f"{kept_name} was missing"


def _refused(refusal: names.Refused) -> Problem:
    if refusal.in_use:
        return Conflicting(refusal.reason, code="database_in_use")
    return Forbidden(refusal.reason, code="restoration_refused")


def _keep_on(user_id: int, project_id: int) -> None:
    with database_adapter.get_db() as conn:
        queries.delete_project(conn, user_id, project_id)
        deleted_queries.set_status(conn, user_id, project_id, "restoring", "deleted")
