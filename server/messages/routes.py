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
        rows = branches.page(conn, token_hash, session_id, before_id, limit + 1, leaf)
    admit(request, rows[0]["user_id"] if rows else None)
    if rows[0]["session_id"] is None:
        raise NotFound()
    newest_first = [row for row in rows if row["id"] is not None]
    shown = newest_first[:limit]
    following = cursors.encode(shown[-1]["id"]) if len(newest_first) > limit else None
    # The messages are JSON already: reading and writing them again was most of the work.
    items = ",".join(row["shown"] for row in reversed(shown))
    page = f'{{"items":[{items}],"next_cursor":{json.dumps(following)}}}'
    return Response(page, media_type="application/json")


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
