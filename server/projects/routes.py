"""HTTP of projects, their types and their databases."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

import database_adapter
from server import cursors
from server.auth.guard import CurrentCaller
from server.errors import Invalid, NotFound, problems
from server.fields import Cursor, Instant, Limit, Page, PathId, Text
from server.projects import creation, deleted_queries, deletion, queries, restoration
from server.storage.contract import Row

router = APIRouter(tags=["projects"])

# One spelling of what overrides a guard, or keeps nothing.
Flag = Literal["true", "false"]
Description = Annotated[Text, Field(max_length=10_000, examples=["Books and records."])]

_PROJECT: dict[str, Any] = {
    "id": 1,
    "name": "amazon",
    "description": "Books and records.",
    "project_type": "ecommerce",
    "db_name": "amazon_db",
    "created_at": "2026-11-21T09:00:00.000000Z",
    "updated_at": "2026-11-21T09:00:00.000000Z",
}


class ProjectType(BaseModel):
    """A template for a new project's database."""

    id: int
    name: str = Field(examples=["ecommerce"])
    description: str


class Project(BaseModel):
    """A workspace with a database of its own."""

    model_config = ConfigDict(json_schema_extra={"example": _PROJECT})

    id: int
    name: str
    description: str | None
    project_type: str
    db_name: str
    created_at: Instant
    updated_at: Instant


class NewProject(BaseModel):
    """A project to make; the name also names its database."""

    name: Annotated[
        Text,
        Field(
            description="Lower-cased; a-z, 0-9, - and _.",
            examples=["amazon"],
            json_schema_extra={"pattern": "^[A-Za-z][A-Za-z0-9_-]{0,58}$"},
        ),
    ]
    description: Description | None = None
    project_type: Annotated[Text, Field(examples=["ecommerce"])] = "blank"


class ProjectChanges(BaseModel):
    """What to change of a project."""

    description: Description | None = None


class DatabaseInfo(BaseModel):
    """A project's database, read from itself."""

    name: str = Field(examples=["amazon_db"])
    backend: Literal["sqlite", "postgresql"]
    size_bytes: int
    tables: list[str] = Field(examples=[["customers", "orders"]])


class Cleanup(BaseModel):
    """What went with the project."""

    database_dropped: bool
    sessions: int
    messages: int


class Deletion(BaseModel):
    """A project that is gone; `warning` only when it was forced or something was unusual."""

    success: Literal[True]
    status: Literal["deleted"]
    message: str = Field(examples=["Project deleted"])
    database: str = Field(examples=["amazon_db"])
    cleanup: Cleanup
    restorable_until: Instant | None = Field(description="null: it is gone for good.")
    warning: str | None = None


class DeletedProject(BaseModel):
    """A project that is gone and can come back until then."""

    id: int
    name: str = Field(examples=["amazon"])
    description: str | None
    db_name: str = Field(examples=["amazon_db"])
    deleted_at: Instant
    restorable_until: Instant = Field(validation_alias="due_at")


@router.get("/project-types", responses=problems(400, 401, 422))
def list_project_types(
    caller: CurrentCaller, limit: Limit = 50, cursor: Cursor = None
) -> Page[ProjectType]:
    """The templates that a project can start from."""
    after = cursors.decode_id(cursor) if cursor is not None else 0
    with database_adapter.read_db() as conn:
        rows = queries.list_types(conn, after, limit + 1)
    return Page(
        items=[ProjectType.model_validate(row) for row in rows[:limit]],
        next_cursor=cursors.encode(rows[limit - 1]["id"]) if len(rows) > limit else None,
    )


@router.get("/projects", responses=problems(400, 401, 422))
def list_projects(caller: CurrentCaller, limit: Limit = 50, cursor: Cursor = None) -> Page[Project]:
    """The caller's projects, newest first."""
    with database_adapter.read_db() as conn:
        rows = queries.list_projects(conn, caller.id, cursors.decode_id(cursor), limit + 1)
    return Page(
        items=[Project.model_validate(row) for row in rows[:limit]],
        next_cursor=cursors.encode(rows[limit - 1]["id"]) if len(rows) > limit else None,
    )


@router.post("/projects", status_code=201, responses=problems(400, 401, 409, 413, 422))
def create_project(body: NewProject, caller: CurrentCaller) -> Project:
    """Make a project and its database: both or neither."""
    name = body.name.lower() if body.name.isascii() else body.name
    row = creation.create(caller.id, name, body.description, body.project_type)
    return Project.model_validate(row)


@router.get("/projects/{project_id}", responses=problems(400, 401, 404, 422))
def get_project(project_id: PathId, caller: CurrentCaller) -> Project:
    """One project."""
    return Project.model_validate(_find(caller.id, project_id))


def _find(user_id: int, project_id: int) -> Row:
    with database_adapter.read_db() as conn:
        row = queries.find_project(conn, user_id, project_id)
    if row is None or row["status"] != "active":
        raise NotFound()
    return row


@router.patch("/projects/{project_id}", responses=problems(400, 401, 404, 413, 422))
def change_project(project_id: PathId, body: ProjectChanges, caller: CurrentCaller) -> Project:
    """Change the description."""
    if "description" in body.model_fields_set:
        with database_adapter.get_db() as conn:
            now = datetime.now(UTC)
            if not queries.update_project(conn, caller.id, project_id, body.description, now):
                raise NotFound()
    return Project.model_validate(_find(caller.id, project_id))


@router.get("/projects/{project_id}/database", responses=problems(400, 401, 404, 422))
def describe_database(project_id: PathId, caller: CurrentCaller) -> DatabaseInfo:
    """The project's own database: its size and tables."""
    project = _find(caller.id, project_id)
    found = database_adapter.describe_project_database(project["db_name"])
    if found is None:
        raise NotFound("The project's database is missing.", code="database_missing")
    return DatabaseInfo.model_validate(found)


@router.delete(
    "/projects/{project_id}",
    response_model_exclude_unset=True,
    responses=problems(400, 401, 403, 404, 409, 422),
)
def delete_project(
    project_id: PathId,
    caller: CurrentCaller,
    request: Request,
    force: Annotated[
        Flag,
        Query(description="Go on where a refusal says `force_required: true`."),
    ] = "false",
    purge: Annotated[
        Flag,
        Query(description="Keep nothing; of a deleted project: keep it no longer."),
    ] = "false",
) -> Deletion:
    """Delete a project with its database, sessions and messages; for some days it can come back."""
    for name in ("force", "purge"):
        if len(request.query_params.getlist(name)) > 1:
            raise Invalid(f"{name}: was given more than once", loc=("query", name))
    deleted = deletion.delete(caller.id, project_id, force=force == "true", purge=purge == "true")
    return Deletion.model_validate(
        {
            "success": True,
            "status": "deleted",
            "message": "Project deleted",
            "database": deleted.database,
            "cleanup": {
                "database_dropped": deleted.dropped,
                "sessions": deleted.sessions,
                "messages": deleted.messages,
            },
            "restorable_until": deleted.until,
            **({"warning": "; ".join(deleted.warnings)} if deleted.warnings else {}),
        }
    )


@router.get("/deleted-projects", responses=problems(400, 401, 422))
def list_deleted_projects(
    caller: CurrentCaller, limit: Limit = 50, cursor: Cursor = None
) -> Page[DeletedProject]:
    """The caller's projects that can come back, the one deleted last first."""
    before = None if cursor is None else cursors.decode_instant_and_id(cursor)
    with database_adapter.read_db() as conn:
        rows = deleted_queries.list_deleted(conn, caller.id, before, limit + 1)
    items, more = rows[:limit], len(rows) > limit
    return Page(
        items=[DeletedProject.model_validate(row) for row in items],
        next_cursor=cursors.encode(items[-1]["deleted_at"], items[-1]["id"]) if more else None,
    )


@router.post("/projects/{project_id}/restore", responses=problems(400, 401, 403, 404, 409, 422))
def restore_project(project_id: PathId, caller: CurrentCaller) -> Project:
    """Bring a deleted project back with its database, sessions and messages."""
    return Project.model_validate(restoration.restore(caller.id, project_id))
