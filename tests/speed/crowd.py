"""A master with many rows in every table that grows."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg2.extensions

from tests import postgres

# Tables that users, or what the service does for them, fill for ever.
GROWING = {
    "users",
    "auth_tokens",
    "auth_attempts",
    "projects",
    "sessions",
    "messages",
    "images",
    "idempotency_keys",
    "imported_sessions",
    "imported_messages",
    "imported_records",
    "deleted_projects",
    "deleted_sessions",
    "deleted_messages",
    "deleted_images",
    "deleted_imported_sessions",
    "deleted_imported_messages",
    "audit_log",
}
# `%(user)s` has most: 5,000 projects, older than those of all others, 1,000 sessions in one of
# them, 10,000 messages in each of two of those.
_ROWS = """
INSERT INTO users (id, email, password_hash)
SELECT 1000 + n, 'u' || n || '@example.com', 'x' FROM generate_series(1, 5000) n;

INSERT INTO auth_tokens (token_hash, user_id, created_at, expires_at)
SELECT md5(n::text), 1000 + n %% 5000 + 1, now(),
    now() + CASE WHEN n %% 200 = 0 THEN interval '-1 day' ELSE interval '30 days' END
FROM generate_series(1, 20000) n;

INSERT INTO auth_attempts (kind, account, address, pending, at)
SELECT CASE n %% 10 WHEN 0 THEN 'signup' ELSE 'login' END, 'u' || n %% 700 || '@example.com',
    '10.0.' || n %% 200 || '.1', FALSE, now() - n * interval '0.7 seconds'
FROM generate_series(1, 6000) n;

INSERT INTO projects (id, user_id, name, db_name)
SELECT 10000 + n, CASE WHEN n <= 5000 THEN %(user)s WHEN n <= 9000 THEN 1001 + n %% 5000
    ELSE 1001 + n %% 50 END, 'c' || n, 'c' || n || '_db'
FROM generate_series(1, 13000) n;

INSERT INTO sessions (id, user_id, project_id, session_key, updated_at)
SELECT 10000 + n, user_id, id, 'c' || n, now() - n * interval '1 minute'
FROM generate_series(1, 5000) n
JOIN projects ON projects.id = CASE WHEN n <= 1000 THEN %(project)s ELSE 14000 + n END;

INSERT INTO messages (id, user_id, session_id, role, content)
SELECT 100000 + n, user_id, sessions.id, CASE n %% 2 WHEN 0 THEN 'assistant' ELSE 'user' END,
    repeat('lorem ipsum ', 20)
FROM generate_series(1, 30000) n JOIN sessions ON sessions.id = 11000 + n %% 4000 + 1;

INSERT INTO images (id, user_id, message_id, media_type, size_bytes, data)
SELECT 100000 + id, user_id, id, 'image/png', 3, 'abc' FROM messages WHERE id %% 10 = 0;

INSERT INTO idempotency_keys
    (user_id, key, fingerprint, user_message_id, message_id, created_at)
SELECT user_id, id::text, 'x', id, id + 3, now() - interval '1 second' * (id - 100000) * 4
FROM messages WHERE id BETWEEN 100001 AND 122000;

INSERT INTO imported_sessions
    (session_id, user_id, source, source_id, starred, metadata, imported_at)
SELECT id, user_id, 'chatgpt', id::text, FALSE, '{}', now() FROM sessions WHERE id > 10000;

INSERT INTO imported_messages (session_id, source_id, user_id, message_id, digest)
SELECT session_id, messages.id::text, messages.user_id, messages.id, 'x'
FROM messages WHERE session_id IN (SELECT session_id FROM imported_sessions);

INSERT INTO imported_records (user_id, source, kind, source_id, content, imported_at)
SELECT id, 'openwebui', 'profile', n::text, '{}', now()
FROM users, generate_series(1, 2) n WHERE id > 1000;

INSERT INTO deleted_projects
    (id, user_id, name, db_name, status, created_at, updated_at, deleted_at, due_at)
SELECT 100000 + n, CASE WHEN n <= 500 THEN %(user)s ELSE 1001 + n %% 50 END, 'd' || n,
    'd' || n || '_db', 'deleted', now(), now(), now() - n * interval '1 minute',
    now() + interval '7 days'
FROM generate_series(1, 3000) n;

INSERT INTO deleted_sessions
    (id, user_id, project_id, session_key, created_at, updated_at, forked, deleting)
SELECT 100000 + n, user_id, id, 'd' || n, now(), now(), FALSE, FALSE
FROM generate_series(1, 6000) n JOIN deleted_projects ON id = 100000 + n / 2;

INSERT INTO deleted_messages
    (id, user_id, session_id, role, content, status, created_at, stop_requested, forked)
SELECT 200000 + n, user_id, id, 'user', 'lorem ipsum', 'complete', now(), FALSE, FALSE
FROM generate_series(1, 12000) n JOIN deleted_sessions ON id = 100000 + n / 2;

INSERT INTO deleted_images (id, user_id, message_id, media_type, size_bytes, data)
SELECT 200000 + id, user_id, id, 'image/png', 3, 'abc' FROM deleted_messages;

INSERT INTO deleted_imported_sessions
    (session_id, user_id, source, source_id, starred, metadata, imported_at)
SELECT id, user_id, 'chatgpt', id::text, FALSE, '{}', now() FROM deleted_sessions;

INSERT INTO deleted_imported_messages (session_id, source_id, user_id, message_id, digest)
SELECT session_id, id::text, user_id, id, 'x' FROM deleted_messages;

INSERT INTO audit_log (user_id, action, target, outcome)
SELECT 1001 + n %% 50, 'project.delete', 'c' || n, 'deleted' FROM generate_series(1, 5000) n;
"""


# What has come since PostgreSQL looked last, as it looks at a large table only now and then: it
# takes the session for one like the others.
_NEWEST = """
INSERT INTO messages (user_id, session_id, role, content)
SELECT %(user)s, CASE n %% 2 WHEN 0 THEN %(session)s ELSE %(forked)s END, 'user',
    repeat('lorem ipsum ', 20)
FROM generate_series(1, 20000) n
"""
# SQLite chooses by the indexes alone: only what pages are taken from is large.
_SQLITE_ROWS = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 5000)
INSERT INTO projects (user_id, name, db_name)
SELECT :user, 'c' || n, 'c' || n || '_db' FROM numbers;

WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000)
INSERT INTO sessions (user_id, project_id, session_key)
SELECT :user, :project, 'c' || n FROM numbers;

WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 20000)
INSERT INTO messages (user_id, session_id, role, content)
SELECT :user, CASE n % 2 WHEN 0 THEN :session ELSE :forked END, 'user', 'lorem ipsum' FROM numbers;

WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000)
INSERT INTO deleted_projects
    (id, user_id, name, db_name, status, created_at, updated_at, deleted_at, due_at)
SELECT 100000 + n, :user, 'd' || n, 'd' || n || '_db', 'deleted', '2026-11-21', '2026-11-21',
    '2026-11-21', '2099-01-01' FROM numbers;
"""


@dataclass(frozen=True)
class Most:
    """The ids of the user who has most, and of what it is in; one session is forked."""

    user: int
    project: int
    session: int
    forked: int


def crowd_postgres(server: postgres.Server, master: str, most: Most) -> None:
    """Fill the master, and let PostgreSQL know."""
    with _patiently(), closing(server.connect(master)) as conn, conn.cursor() as cursor:
        # Without triggers, those of foreign keys among them: the rows fit.
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(_ROWS, asdict(most))
        cursor.execute("VACUUM ANALYZE")
        cursor.execute(_NEWEST, asdict(most))


@contextmanager
def _patiently() -> Iterator[None]:
    """Without the service's deadline, which holds for every connection of a process."""
    deadline = psycopg2.extensions.get_wait_callback()
    psycopg2.extensions.set_wait_callback(None)
    try:
        yield
    finally:
        psycopg2.extensions.set_wait_callback(deadline)


def crowd_sqlite(path: Path, most: Most) -> None:
    """Fill the master."""
    with closing(sqlite3.connect(path, timeout=20)) as conn, conn:
        for statement in _SQLITE_ROWS.split(";"):
            conn.execute(statement, asdict(most))
