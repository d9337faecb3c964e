"""SQL about users and their tokens."""

from datetime import datetime

from server.storage.contract import Connection, Planned, Row, execute, fetch_one

USER = "id, email, name, created_at"
# The user whom a token stands for: not once it has expired, nor for an account that is disabled.
# For queries that ask who is calling and what they may see in one round trip.
CALLER = """
    SELECT users.id, users.email, users.name, users.created_at
    FROM auth_tokens JOIN users ON users.id = auth_tokens.user_id
    WHERE auth_tokens.token_hash = %(token_hash)s AND auth_tokens.expires_at > %(now)s
        AND users.disabled_at IS NULL
"""
_CALLER = Planned(CALLER)


def create_user(
    conn: Connection, email: str, name: str | None, password_hash: str, now: datetime
) -> Row | None:
    """The new user; None when the address is taken."""
    return fetch_one(
        conn,
        f"""
        INSERT INTO users (email, name, password_hash, created_at, updated_at)
        VALUES (%(email)s, %(name)s, %(password_hash)s, %(now)s, %(now)s)
        ON CONFLICT DO NOTHING
        RETURNING {USER}
        """,
        {"email": email, "name": name, "password_hash": password_hash, "now": now},
    )


def find_account(conn: Connection, account_key: str) -> Row | None:
    """The user with this address in any spelling, with the password's hash, disabled or not."""
    return fetch_one(
        conn,
        f"SELECT {USER}, password_hash, disabled_at FROM users WHERE lower(email) = %s",
        (account_key,),
    )


def find_user(conn: Connection, user_id: int) -> Row | None:
    """The user with this id."""
    return fetch_one(conn, f"SELECT {USER} FROM users WHERE id = %s", (user_id,))


def set_name(conn: Connection, user_id: int, name: str | None, now: datetime) -> None:
    """Rename the user; None takes the name away."""
    execute(conn, "UPDATE users SET name = %s, updated_at = %s WHERE id = %s", (name, now, user_id))


def hold_password(conn: Connection, user_id: int, verified_hash: str) -> bool:
    """Keep the password as it is until the transaction ends.

    False when it is another by now, or the account is disabled.
    """
    return bool(
        execute(
            conn,
            """
            UPDATE users SET updated_at = updated_at
            WHERE id = %s AND password_hash = %s AND disabled_at IS NULL
            """,
            (user_id, verified_hash),
        )
    )


def replace_password(
    conn: Connection, user_id: int, verified_hash: str, new_hash: str, now: datetime
) -> bool:
    """Store another hash in place of the one that was verified.

    False when that one is gone, or the account is disabled.
    """
    return bool(
        execute(
            conn,
            """
            UPDATE users SET password_hash = %s, updated_at = %s
            WHERE id = %s AND password_hash = %s AND disabled_at IS NULL
            """,
            (new_hash, now, user_id, verified_hash),
        )
    )


def set_password(
    conn: Connection, account_key: str, password_hash: str, now: datetime
) -> Row | None:
    """Store another hash, whatever the old one was; None when nobody has the address."""
    return fetch_one(
        conn,
        f"""
        UPDATE users SET password_hash = %s, updated_at = %s WHERE lower(email) = %s
        RETURNING {USER}, disabled_at
        """,
        (password_hash, now, account_key),
    )


def set_disabled(conn: Connection, account_key: str, at: datetime | None) -> Row | None:
    """Disable the account, from the first time on, or enable it; None when nobody has it."""
    return fetch_one(
        conn,
        f"""
        UPDATE users SET disabled_at = CASE WHEN %(on)s THEN coalesce(disabled_at, %(at)s) END
        WHERE lower(email) = %(key)s
        RETURNING {USER}, disabled_at
        """,
        {"on": at is not None, "at": at, "key": account_key},
    )


def add_token(
    conn: Connection, user_id: int, token_hash: str, now: datetime, expires_at: datetime
) -> None:
    """Make a token valid."""
    execute(
        conn,
        "INSERT INTO auth_tokens (token_hash, user_id, created_at, expires_at) "
        "VALUES (%s, %s, %s, %s)",
        (token_hash, user_id, now, expires_at),
    )


def find_user_by_token(conn: Connection, token_hash: str, now: datetime) -> Row | None:
    """The user whom a token stands for."""
    return fetch_one(conn, _CALLER, {"token_hash": token_hash, "now": now})


def delete_token(conn: Connection, user_id: int, token_hash: str) -> None:
    """Make one token void."""
    execute(
        conn,
        "DELETE FROM auth_tokens WHERE user_id = %s AND token_hash = %s",
        (user_id, token_hash),
    )


def delete_expired_tokens(conn: Connection, now: datetime, most: int) -> int:
    """Remove expired tokens of all users, at most so many; how many it were."""
    return execute(
        conn,
        """
        DELETE FROM auth_tokens WHERE token_hash IN (
            SELECT token_hash FROM auth_tokens WHERE expires_at <= %s LIMIT %s)
        """,
        (now, most),
    )


def delete_tokens(conn: Connection, user_id: int) -> None:
    """Make all tokens of the user void."""
    execute(conn, "DELETE FROM auth_tokens WHERE user_id = %s", (user_id,))


def delete_other_tokens(conn: Connection, user_id: int, token_hash: str) -> None:
    """Make all tokens of the user void but one."""
    execute(
        conn,
        "DELETE FROM auth_tokens WHERE user_id = %s AND token_hash <> %s",
        (user_id, token_hash),
    )
