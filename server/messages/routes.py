"""HTTP of messages."""

import json
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

import database_adapter
from server import cursors
from server.auth.guard import CurrentCaller, TokenHash, admit
from server.errors import NotFound, problems
from server.fields import MAX_ID, Cursor, Id, Limit, Page, PathId, canonical
from server.messages import branches
from server.messages.message import Message
from server.sessions.queries import find_session

Leaf = Annotated[
    Id | None,
    BeforeValidator(canonical),
    WithJsonSchema({"type": "integer", "minimum": 1, "exclusiveMaximum": MAX_ID + 1}),
    Query(description="The message that the branch ends with."),
]

router = APIRouter(tags=["messages"])


@router.get(
    "/sessions/{session_id}/messages",
    response_model=Page[Message],
    responses=problems(400, 401, 404, 422),
)
def list_messages(
    request: Request,
    session_id: PathId,
    token_hash: TokenHash,
    *,
    limit: Limit = 50,
    cursor: Cursor = None,
    leaf: Leaf = None,
) -> Response:
    """The newest messages, oldest first among them; `next_cursor` leads to older ones.

    After an edit or another answer this is the newest branch; `leaf` asks for another one.
    """
    before_id = cursors.decode_id(cursor)
    with database_adapter.read_db() as conn:
        page = branches.page(conn, token_hash, session_id, before_id, limit, leaf)
    admit(request, page["user_id"] if page else None)
    if page is None or page["session_id"] is None:
        raise NotFound()
    following = json.dumps(cursors.encode(page["oldest"]) if page["more"] else None)
    # The messages are JSON already: reading and writing them again was most of the work.
    body = f'{{"items":[{page["items"] or ""}],"next_cursor":{following}}}'
    return Response(body, media_type="application/json")


class Branches(BaseModel):
    """The last messages of all branches of a conversation, newest first."""

    leaves: list[int] = Field(examples=[[8, 4]])


@router.get("/sessions/{session_id}/branches", responses=problems(400, 401, 404, 422))
def list_branches(session_id: PathId, caller: CurrentCaller) -> Branches:
    """Where the branches of a conversation end: each is a `leaf` of the list of messages."""
    with database_adapter.read_db() as conn:
        if find_session(conn, caller.id, session_id) is None:
            raise NotFound()
        return Branches(leaves=branches.list_leaves(conn, caller.id, session_id))
