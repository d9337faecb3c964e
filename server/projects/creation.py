"""Making a project with its database: both or neither."""

import logging
from datetime import UTC, datetime

import database_adapter
from server.errors import Conflicting, Invalid, NotFound, Overloaded, Problem
from server.projects import mending, queries
from server.projects.attempt import locked, taken
from server.storage import names
from server.storage.contract import (
    DatabaseError,
    DatabaseExists,
    Misconfigured,
    Row,
    TemplateFailed,
)

log = logging.getLogger("clawd.projects")


def create(user_id: int, name: str, description: str | None, type_name: str) -> Row:
    """Make the project and its database: both or neither."""
    db_name = _new_database_name(name)
    with locked(db_name):
        _finish_what_was_left(db_name)
        # Before there is a row: whatever a row that stays `creating` names is the project's own.
        if database_adapter.project_database_exists(db_name):
            raise taken()
        project_id, template_sql = _reserve(user_id, name, description, type_name, db_name)
        _make_database(user_id, project_id, name, template_sql)
        with database_adapter.get_db() as conn:
            queries.set_status(conn, user_id, project_id, "creating", "active")
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
            mending.finish(left)
        except (names.Refused, Problem) as error:
            # Whatever stands against it is none of this user's business.
            raise taken() from error


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
    return taken()


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
        raise taken()
    return project_id, project_type["template_sql"]
