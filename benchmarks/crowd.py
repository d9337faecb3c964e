"""Fills a PostgreSQL master with the conversations of many users, made inside the server.

For each 1,000 messages there is a user, for each 500 a project, for each 50 a session. Sessions are
not stored one after the other: 200 of them take turns for 10,000 messages, so the page of one lies
all over that stretch. Of these, 40 have some 140 messages, the others 20 to 25.
"""

import os
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.chat_database import text
from tests import postgres

BLOCK = 10_000  # messages; sizes are multiples of it
AT_ONCE, TALKATIVE = 200, 40  # sessions that take turns in a block, and those of them with most
PROJECTS_OF_ONE = 10_000
LARGE = 100_000  # messages of one session, and no more than each tenth
TEXTS = 5_000

# Whoever has a user's id has the token, so any of them can be asked as.
_USERS = """
INSERT INTO users (id, email, name, password_hash)
SELECT id, 'user' || id || '@example.com', 'User ' || id, '$argon2id$v=19$x'
FROM generate_series(2, {users} + 1) AS id;
INSERT INTO auth_tokens (token_hash, user_id, created_at, expires_at)
SELECT encode(sha256(('clawd_' || id)::bytea), 'hex'), id, now(), now() + interval '30 days'
FROM users WHERE id > 1;
"""
_PROJECTS = """
INSERT INTO projects (id, user_id, name, description, project_type_id, db_name)
SELECT id, CASE WHEN id <= {of_one} THEN 1 ELSE 2 + id % {users} END, 'project' || id,
    'What this project is about, in a sentence or two.', 1 + id % 3, 'project' || id || '_db'
FROM generate_series(1, {of_one} + {projects}) AS id;
"""
_SESSIONS = """
INSERT INTO sessions (id, user_id, project_id, session_key, title, created_at, updated_at)
SELECT n, projects.user_id, projects.id, gen_random_uuid(), 'Session ' || n, at, at
FROM (SELECT n, CASE WHEN n > {sessions} THEN 1 ELSE {of_one} + 1 + n % {projects} END AS project,
        now() - ({sessions} + 1 - n) * interval '50 seconds' AS at
    FROM generate_series(1, {sessions} + 1) AS n) AS made
JOIN projects ON projects.id = project;
"""
# A message in {every}, as if by chance, belongs to the large session.
_MESSAGES = """
INSERT INTO messages (id, user_id, session_id, role, content, model, prompt_tokens,
    completion_tokens, created_at)
SELECT n + 1, sessions.user_id, sessions.id,
    CASE answer WHEN 0 THEN 'user' ELSE 'assistant' END, texts.content,
    CASE answer WHEN 1 THEN 'agent:main' END, CASE answer WHEN 1 THEN n % 900 END,
    CASE answer WHEN 1 THEN n % 700 END, now() - ({messages} - n) * interval '1 second'
FROM (SELECT n, n / 2 / wide % 2 AS answer, 1 + CASE n * 7919 % 100003 % {every}
        WHEN 0 THEN {sessions} ELSE n / {block} * {at_once} + n / 2 % wide END AS session
    FROM (SELECT n, CASE n % 2 WHEN 0 THEN {at_once} ELSE {talkative} END AS wide
        FROM generate_series(0::bigint, {messages} - 1) AS n) AS numbers) AS placed
JOIN sessions ON sessions.id = placed.session
JOIN texts ON texts.id = n * 7919 % {texts};
"""
_IMAGES = """
INSERT INTO images (user_id, message_id, media_type, size_bytes, data)
SELECT user_id, id, 'image/png', 1000, decode(repeat(substr(md5(id::text), 1, 8), 250), 'hex')
FROM messages WHERE id % 400 = 0 AND role = 'user';
"""
_ON_GOING = """
SELECT setval(pg_get_serial_sequence(name, 'id'), {messages} + {of_one})
FROM unnest(ARRAY['users', 'projects', 'sessions', 'messages']) AS name;
"""


@dataclass(frozen=True)
class Talk:
    """A session, and a token of its user's."""

    session_id: int
    token: str


def fill(server: postgres.Server, database: str, messages: int) -> None:
    """Fill a master whose schema is there and whose only user, with the id 1, has no projects.

    That user gets 10,000 projects, and a session with 100,000 messages or a tenth of all.
    """
    if messages % BLOCK or not messages:
        raise ValueError(f"{messages} is not a multiple of {BLOCK}")
    numbers = {
        "messages": messages,
        "users": messages // 1000,
        "projects": messages // 500,
        "sessions": messages // BLOCK * AT_ONCE,
        "of_one": PROJECTS_OF_ONE,
        "every": max(10, messages // LARGE),
        "block": BLOCK,
        "at_once": AT_ONCE,
        "talkative": TALKATIVE,
        "texts": TEXTS,
    }
    with closing(server.connect(database)) as conn, _in_haste(conn), conn.cursor() as cursor:
        # Foreign keys hold anyway; whole hash tables keep the messages in their order.
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("SET work_mem = '256MB'")
        cursor.execute("SET maintenance_work_mem = '512MB'")
        _make_texts(cursor)
        for statement in (_USERS, _PROJECTS, _SESSIONS):
            cursor.execute(statement.format_map(numbers))
        cursor.execute("ANALYZE")
        with _without_indexes(cursor):
            cursor.execute(_MESSAGES.format_map(numbers))
        for statement in (_IMAGES, _ON_GOING):
            cursor.execute(statement.format_map(numbers))
        cursor.execute("VACUUM ANALYZE")


def _make_texts(cursor: Any) -> None:
    """What is said, 100 to 800 characters each, for messages to choose from."""
    random_ = random.Random(7)
    cursor.execute("CREATE TEMPORARY TABLE texts (id bigint, content text)")
    texts = [text(random_, random_.randint(125, 1000))[:800] for _ in range(TEXTS)]
    values = b",".join(cursor.mogrify("(%s, %s)", pair) for pair in enumerate(texts))
    cursor.execute(b"INSERT INTO texts VALUES " + values)
    cursor.execute("ANALYZE texts")


@contextmanager
def _in_haste(conn: Any) -> Iterator[None]:
    """Nothing needs to be durable meanwhile; afterwards all of it is on the disk."""
    with conn.cursor() as cursor:
        for setting in ("fsync = off", "full_page_writes = off", "max_wal_size = '8GB'"):
            cursor.execute(f"ALTER SYSTEM SET {setting}")
        cursor.execute("SELECT pg_reload_conf()")
        yield
        cursor.execute("CHECKPOINT")
        cursor.execute("ALTER SYSTEM RESET ALL")
        cursor.execute("SELECT pg_reload_conf()")
        os.sync()


@contextmanager
def _without_indexes(cursor: Any) -> Iterator[None]:
    """The indexes of the messages are made when the rows are there, as they were."""
    cursor.execute(
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index "
        "WHERE indrelid = 'messages'::regclass AND NOT indisunique"
    )
    found = cursor.fetchall()
    for name, _ in found:
        cursor.execute(f"DROP INDEX {name}")
    yield
    for _, definition in found:
        cursor.execute(definition)


def talks(server: postgres.Server, database: str, most: int) -> list[Talk]:
    """Sessions with some 140 messages, evenly from all over the master, with tokens."""
    with closing(server.connect(database)) as conn, conn.cursor() as cursor:
        cursor.execute(
            "SELECT id, user_id FROM sessions WHERE user_id <> 1 AND (id - 1) %% %s < %s "
            "ORDER BY id",
            (AT_ONCE, TALKATIVE),
        )
        found = cursor.fetchall()
    return [Talk(id_, f"clawd_{user}") for id_, user in found[:: -(-len(found) // most)]]
