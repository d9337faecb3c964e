"""Deleting a session, however long it has become."""

import database_adapter
from server.sessions import queries

# One statement over hundreds of thousands of messages would exceed the database's time limit.
BATCH = 2000


def delete(user_id: int, session_id: int) -> bool:
    """Delete the session with its messages and images; False when there is no such session.

    It is gone for everybody at once; a running answer is asked to stop. The messages go after
    that, in transactions of their own, and `mend` finishes what a crash breaks off.
    """
    with database_adapter.get_db() as conn:
        if not queries.mark_deleting(conn, user_id, session_id):
            return False
        queries.stop_answer(conn, user_id, session_id)
    _remove(user_id, session_id)
    return True


def mend() -> None:
    """Finish the deletions that crashes broke off; several processes may do so at once."""
    with database_adapter.read_db() as conn:
        unfinished = queries.list_deleting(conn)
    for session in unfinished:
        _remove(session["user_id"], session["id"])


def _remove(user_id: int, session_id: int) -> None:
    while _delete_batch(user_id, session_id) == BATCH:
        pass
    with database_adapter.get_db() as conn:
        queries.delete_session(conn, user_id, session_id)


def _delete_batch(user_id: int, session_id: int) -> int:
    with database_adapter.get_db() as conn:
        # Two deletions of one session would wait for each other's rows.
        database_adapter.transaction_lock(conn, f"messages of session {session_id}")
        return queries.delete_oldest_messages(conn, user_id, session_id, BATCH)
