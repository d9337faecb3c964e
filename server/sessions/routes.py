"""HTTP of chat sessions."""

import uuid
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

import database_adapter
from server import cursors
from server.auth.guard import CurrentCaller
from server.errors import NotFound, problems
from server.fields import Cursor, Instant, Limit, Page, PathId, Text
from server.sessions import deletion, queries

router = APIRouter(tags=["sessions"])

Title = Annotated[Text, Field(max_length=500, examples=["First questions"])]


class Session(BaseModel):
    """A conversation with the agent in a project."""

    id: int
    project_id: int
    session_key: str = Field(
        description="A UUID; the agent remembers the conversation by it.",
        examples=["7c9e6679-7425-40de-944b-e07fc1f90ae7"],
    )
    title: str | None = Field(examples=["First questions"])
    created_at: Instant
    updated_at: Instant


class NewSession(BaseModel):
    """A session to open."""

    title: Title | None = None


class SessionChanges(BaseModel):
    """What to change of a session."""

    title: Title | None = None


@router.get("/projects/{project_id}/sessions", responses=problems(400, 401, 404, 422))
def list_sessions(
    project_id: PathId, caller: CurrentCaller, limit: Limit = 50, cursor: Cursor = None
) -> Page[Session]:
    """A project's sessions, newest activity first."""
    before = cursors.decode_instant_and_id(cursor) if cursor is not None else None
    with database_adapter.read_db() as conn:
        rows = queries.list_sessions(conn, caller.id, project_id, before, limit + 1)
    if rows is None:
        raise NotFound()
    last = rows[limit - 1] if len(rows) > limit else None
    return Page(
        items=[Session.model_validate(row) for row in rows[:limit]],
        next_cursor=cursors.encode(last["updated_at"], last["id"]) if last else None,
    )


@router.post(
    "/projects/{project_id}/sessions",
    status_code=201,
    responses=problems(400, 401, 404, 413, 422),
)
def create_session(
    project_id: PathId, caller: CurrentCaller, body: NewSession | None = None
) -> Session:
    """Open a session."""
    title = body.title if body else None
    key = str(uuid.uuid4())
    with database_adapter.get_db() as conn:
        row = queries.create_session(conn, caller.id, project_id, key, title, datetime.now(UTC))
    if row is None:
        raise NotFound()
    return Session.model_validate(row)


@router.get("/sessions/{session_id}", responses=problems(400, 401, 404, 422))
def get_session(session_id: PathId, caller: CurrentCaller) -> Session:
    """One session."""
    with database_adapter.read_db() as conn:
        row = queries.find_session(conn, caller.id, session_id)
    if row is None:
        raise NotFound()
    return Session.model_validate(row)


@router.patch("/sessions/{session_id}", responses=problems(400, 401, 404, 413, 422))
def change_session(session_id: PathId, body: SessionChanges, caller: CurrentCaller) -> Session:
    """Rename a session."""
    with database_adapter.get_db() as conn:
        if "title" in body.model_fields_set:
            queries.set_title(conn, caller.id, session_id, body.title, datetime.now(UTC))
        row = queries.find_session(conn, caller.id, session_id)
        if row is None:
            raise NotFound()
    return Session.model_validate(row)


@router.delete("/sessions/{session_id}", status_code=204, responses=problems(400, 401, 404, 422))
def delete_session(session_id: PathId, caller: CurrentCaller) -> Response:
    """Delete a session with its messages and images."""
    if not deletion.delete(caller.id, session_id):
        raise NotFound()
    return Response(status_code=204)
