"""The users' documents taken literally: ThreadedConnectionPool(5, 20), a transaction per read."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException
from psycopg2.extras import RealDictCursor
from psycopg2.pool import ThreadedConnectionPool

app = FastAPI()
pool = ThreadedConnectionPool(5, 20, os.environ["RIVAL_DSN"], cursor_factory=RealDictCursor)


@contextmanager
def get_db() -> Iterator[Any]:
    """A connection in a transaction, as the documents have it."""
    conn = pool.getconn()
    try:
        yield conn
        conn.commit()
    except Exception:
        conn.rollback()
        raise
    finally:
        pool.putconn(conn)


def current_user(authorization: Annotated[str, Header()]) -> int:
    """The user whose token it is."""
    token = authorization.removeprefix("Bearer ")
    with get_db() as conn, conn.cursor() as cursor:
        cursor.execute(
            "SELECT users.id, users.email, users.name, users.created_at "
            "FROM auth_tokens JOIN users ON users.id = auth_tokens.user_id "
            "WHERE auth_tokens.token_hash = %s AND auth_tokens.expires_at > %s",
            (hashlib.sha256(token.encode()).hexdigest(), datetime.now(UTC)),
        )
        row = cursor.fetchone()
    if row is None:
        raise HTTPException(401)
    return int(row["id"])


@app.get("/sessions/{session_id}/messages")
def messages(
    session_id: int, user_id: Annotated[int, Depends(current_user)], limit: int = 50
) -> dict[str, Any]:
    """The newest messages, oldest first."""
    with get_db() as conn, conn.cursor() as cursor:
        cursor.execute(
            "SELECT * FROM messages WHERE session_id = %s AND user_id = %s "
            "ORDER BY session_id DESC, id DESC LIMIT %s",
            (session_id, user_id, limit + 1),
        )
        rows = cursor.fetchall()
    more = len(rows) > limit
    following = str(rows[limit - 1]["id"]) if more else None
    return {"items": rows[:limit][::-1], "next_cursor": following}
