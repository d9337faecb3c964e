"""What operators do to an account, past its owner; each is a row in the audit log.

Every function takes the connection of a transaction, and the account in any spelling of its
address; None means that nobody has it.
"""

from datetime import UTC, datetime

from server import audit
from server.auth import emails, queries
from server.storage.contract import Connection, Row


def create(
    conn: Connection, email: str, name: str | None, password_hash: str, by: str
) -> Row | None:
    """The new account; None where the address is taken. `email` is normalized."""
    user = queries.create_user(conn, email, name, password_hash, datetime.now(UTC))
    return _recorded(conn, user, "user.create", by)


def disable(conn: Connection, email: str, by: str) -> Row | None:
    """Shut the account, and make all of its tokens void; what it has stays."""
    user = queries.set_disabled(conn, emails.account_key(email), datetime.now(UTC))
    # After that: a log-in that was under way has its token by now, or doesn't get one.
    if user is not None:
        queries.delete_tokens(conn, user["id"])
    return _recorded(conn, user, "user.disable", by)


def enable(conn: Connection, email: str, by: str) -> Row | None:
    """Open the account again, with the password that it had."""
    user = queries.set_disabled(conn, emails.account_key(email), None)
    return _recorded(conn, user, "user.enable", by)


def reset_password(conn: Connection, email: str, password_hash: str, by: str) -> Row | None:
    """Give the account another password, and make all of its tokens void."""
    key, now = emails.account_key(email), datetime.now(UTC)
    user = queries.set_password(conn, key, password_hash, now)
    if user is not None:
        queries.delete_tokens(conn, user["id"])
    return _recorded(conn, user, "user.reset_password", by)


def _recorded(conn: Connection, user: Row | None, action: str, by: str) -> Row | None:
    if user is not None:
        audit.record(conn, user["id"], action, f"user {user['id']}", "done", f"by {by}")
    return user
