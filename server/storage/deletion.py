"""Drops a project's database by the project's name, the way scripts and documents do it."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from server.storage.contract import Connection, DatabaseError, DeletionResult, Row, fetch_one
from server.storage.names import Refused, check_deletion, database_name


def delete_by_name(
    project_name: str,
    force: bool,
    *,
    master: str,
    read_db: Callable[[], AbstractContextManager[Connection]],
    lock: Callable[[str], AbstractContextManager[None]],
    drop: Callable[[str, int | None, bool], bool],
) -> DeletionResult:
    """Drop the database that the project of this name has, within the guard."""
    row = _find_project(read_db, name=str(project_name))
    db_name = row["db_name"] if row else database_name(project_name)
    result: DeletionResult = {"success": False, "database": db_name}
    refusal = check_deletion(project_name, db_name, master)
    if refusal is not None and (refusal.hard or not force):
        return {**result, "error": refusal.reason}
    try:
        with lock(db_name):
            dropped = drop(db_name, row["id"] if row else None, force)
    except Refused as error:
        return {**result, "error": error.reason}
    except DatabaseError as error:
        return {**result, "error": str(error)}
    result["success"] = True
    if force:
        result["warning"] = f"FORCE deletion requested for database {db_name}"
    elif not dropped:
        result["warning"] = f"Database '{db_name}' did not exist"
    return result


def find_owner(
    read_db: Callable[[], AbstractContextManager[Connection]], db_name: str
) -> int | None:
    """The id of the project whose row names the database."""
    row = _find_project(read_db, db_name=db_name)
    return row["id"] if row else None


def _find_project(
    read_db: Callable[[], AbstractContextManager[Connection]],
    *,
    name: str | None = None,
    db_name: str | None = None,
) -> Row | None:
    try:
        with read_db() as conn:
            return fetch_one(
                conn,
                "SELECT id, db_name FROM projects WHERE name = %s OR db_name = %s",
                (name, db_name),
            )
    except DatabaseError:
        # A master without tables has no projects; one that is away fails again at the drop.
        return None
