"""Branches of a conversation: what was said on the way to a message.

Messages follow each other by id, except where one is `forked`: there the conversation goes on
from an earlier message. So the way to a message is a few spans of ids.
"""

from bisect import bisect_right
from datetime import UTC, datetime

from server.messages import queries
from server.messages.queries import Span
from server.storage.contract import Connection, Row


def newest(conn: Connection, user_id: int, session_id: int) -> int | None:
    """The id of the session's newest message, the end of its present branch."""
    return queries.find_newest(conn, user_id, session_id)


def spans(conn: Connection, user_id: int, session_id: int, leaf: int) -> list[Span]:
    """The spans of ids, newest first, that make up the branch that ends with `leaf`."""
    return _walk(queries.list_forks(conn, user_id, session_id), leaf)


def _walk(forks: list[Row], leaf: int) -> list[Span]:
    """`forks` in ascending order of their ids."""
    ids = [fork["id"] for fork in forks]
    found: list[Span] = []
    high: int | None = leaf
    while high is not None:
        at = bisect_right(ids, high) - 1
        if at < 0:
            return [*found, (0, high)]
        found.append((ids[at], high))
        parent_id = forks[at]["parent_id"]
        # A parent comes before its child; a row that says otherwise ends the walk.
        high = parent_id if parent_id is not None and parent_id < ids[at] else None
    return found


def parent(conn: Connection, user_id: int, message: Row) -> int | None:
    """The id of the message that a message follows."""
    if message["forked"]:
        parent_id: int | None = message["parent_id"]
        return parent_id
    return queries.find_before(conn, user_id, message["session_id"], message["id"])


def list_leaves(conn: Connection, user_id: int, session_id: int) -> list[int]:
    """The ids of the last messages of all branches, newest first."""
    last = newest(conn, user_id, session_id)
    if last is None:
        return []
    forks = queries.list_forks(conn, user_id, session_id)
    parents = {fork["parent_id"] for fork in forks}
    before = (queries.find_before(conn, user_id, session_id, fork["id"]) for fork in forks)
    leaves = {leaf for leaf in before if leaf is not None and leaf not in parents}
    return sorted(leaves | {last}, reverse=True)


def page(
    conn: Connection,
    token_hash: str,
    session_id: int,
    before_id: int,
    limit: int,
    leaf: int | None,
) -> Row | None:
    """A page of the branch that ends with `leaf`, or of the present one, as `list_shown` has it.

    A conversation that was never forked takes one round trip.
    """

    def read(way: list[Span]) -> Row | None:
        now = datetime.now(UTC)
        return queries.list_shown(conn, token_hash, now, session_id, before_id, limit, way)

    found = read([])
    if found is None or found["session_id"] is None or (leaf is None and not found["forked"]):
        return found
    user_id = found["user_id"]
    if leaf is None:
        leaf = newest(conn, user_id, session_id)
    elif not queries.find_message(conn, user_id, session_id, leaf):
        return {**found, "session_id": None}
    return found if leaf is None else read(spans(conn, user_id, session_id, leaf))
