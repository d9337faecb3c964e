"""Finishes what crashes have left half done in the lives of projects.

A project is creating, active, deleting, then gone or kept; its row and its database go together.
Whoever moves a project holds the lock of its database's name, which a dying process lets go. So
a row that says `creating` or `deleting` while its lock is free was left by a crash. `mend`
finishes it, and so does whoever wants the name next: a creation is undone, a restoration is
completed, a deletion too or, where the guard refuses it, undone.
"""

import logging

import database_adapter
from server import audit
from server.projects import deleted_queries, deletion, queries, restoration, rows
from server.projects.attempt import target
from server.storage import names
from server.storage.contract import DatabaseError, Locked, Row

log = logging.getLogger("clawd.projects")


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
            finish(left)


def finish(left: Row) -> None:
    """Bring a project to the end of what a crash broke off; whoever calls has the lock."""
    user_id, project_id = left["user_id"], left["id"]
    if left["status"] == "deleting":
        deletion.finish(user_id, left)
        return
    with database_adapter.read_db() as conn:
        kept = deleted_queries.find_deleted(conn, user_id, project_id)
    if kept is not None and kept["status"] == "restoring":
        restoration.finish(user_id, kept)
    else:
        _undo_creation(user_id, left)


def _undo_creation(user_id: int, project: Row) -> None:
    """Drop the database if this creation made it; the row goes whatever the guard says."""
    project_id, db_name, details = project["id"], project["db_name"], ["Was left creating"]
    dropped = False
    try:
        if database_adapter.made_project_database(db_name, project_id):
            dropped = database_adapter.drop_project_database(db_name, project_id, force=False)
    except names.Refused as refusal:
        if not refusal.hard:
            raise
        log.error("project database kept", extra={"cause": refusal.reason})
        details.append(refusal.reason)
    rows.delete(user_id, project_id)
    details.append("database dropped" if dropped else "no database dropped")
    with database_adapter.get_db() as conn:
        if queries.delete_project(conn, user_id, project_id):
            on, level = target(project_id, db_name), logging.WARNING
            detail = "; ".join(details)
            audit.record(conn, user_id, deletion.ACTION, on, "deleted", detail, level=level)
