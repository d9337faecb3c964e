"""Deleting a session, however long it has become."""

import database_adapter
from server.sessions import queries

# One statement over hundreds of thousands of messages would exceed the database's time limit.
BATCH = 2000


def delete(user_id: int, session_id: int) -> bool:
    """Delete the session with its messages and images; False when there is no such session.

    A running answer is asked to stop. The oldest messages go first, in transactions of their own:
    until the end the session may be seen without them. Broken off, it can be repeated.
    """
    with database_adapter.get_db() as conn:
        if queries.find_session(conn, user_id, session_id) is None:
            return False
        queries.stop_answer(conn, user_id, session_id)
    while _delete_batch(user_id, session_id) == BATCH:
        pass
    with database_adapter.get_db() as conn:
        queries.delete_session(conn, user_id, session_id)
    return True


def _delete_batch(user_id: int, session_id: int) -> int:
    with database_adapter.get_db() as conn:
        # Two deletions of one session would wait for each other's rows.
        database_adapter.transaction_lock(conn, f"messages of session {session_id}")
        return queries.delete_oldest_messages(conn, user_id, session_id, BATCH)
