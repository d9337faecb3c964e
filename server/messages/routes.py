"""HTTP of messages."""

from fastapi import APIRouter

import database_adapter
from server import cursors
from server.auth.guard import CurrentCaller
from server.errors import NotFound, problems
from server.fields import Cursor, Limit, Page, PathId
from server.messages import queries
from server.messages.message import Message, from_joined

router = APIRouter(tags=["messages"])


@router.get("/sessions/{session_id}/messages", responses=problems(400, 401, 404, 422))
def list_messages(
    session_id: PathId, caller: CurrentCaller, limit: Limit = 50, cursor: Cursor = None
) -> Page[Message]:
    """The newest messages, oldest first among them; `next_cursor` leads to older ones."""
    before_id = cursors.decode_id(cursor)
    with database_adapter.read_db() as conn:
        rows = queries.list_messages(conn, caller.id, session_id, before_id, limit + 1)
    if rows is None:
        raise NotFound()
    newest_first = from_joined(rows)
    page = newest_first[:limit]
    return Page(
        items=page[::-1],
        next_cursor=cursors.encode(page[-1].id) if len(newest_first) > limit else None,
    )
