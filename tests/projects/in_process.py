"""Users and messages for tests that call the logic in this process."""

import secrets

from server.storage import contract
from server.storage.contract import execute, fetch_one


def make_user(database: contract.Database) -> int:
    """A user's id."""
    with database.get_db() as conn:
        row = fetch_one(
            conn,
            "INSERT INTO users (email, password_hash) VALUES (%s, 'x') RETURNING id",
            (secrets.token_hex(8),),
        )
    assert row is not None
    return int(row["id"])


def make_messages(
    database: contract.Database, user_id: int, project_id: int, count: int, status: str = "complete"
) -> None:
    """A session of the project with that many messages."""
    with database.get_db() as conn:
        session = fetch_one(
            conn,
            "INSERT INTO sessions (user_id, project_id, session_key) VALUES (%s, %s, %s) "
            "RETURNING id",
            (user_id, project_id, secrets.token_hex(8)),
        )
        assert session is not None
        execute(
            conn,
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %s) "
            "INSERT INTO messages (user_id, session_id, role, status) "
            "SELECT CAST(%s AS BIGINT), CAST(%s AS BIGINT), 'assistant', %s FROM n",
            (count, user_id, session["id"], status),
        )
