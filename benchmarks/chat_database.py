"""Makes an SQLite master full of conversations, the same in each run."""

import argparse
import os
import random
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

WORDS = re.findall(
    r"\w+",
    "the of and to in is that it was for on are as with his they at be this have from or one had "
    "by word but not what all were we when your can said there use an each which she do how their",
)
ODD = ["größe", "東京", "Москва", "🙂", "C:\\path", "tab\there"]
START = datetime(2025, 1, 1, tzinfo=UTC)


def text(random_: random.Random, length: int) -> str:
    """About so many characters: 4 in 100 texts aren't ASCII alone, one in three has lines."""
    words = random_.choices(WORDS, k=max(length // 5, 1))
    if random_.random() < 0.04:
        words[0] = random_.choice(ODD)
    if random_.random() < 0.33:
        words[len(words) // 2] += "\n"
    return " ".join(words)[:4000]


def moment(number: int) -> str:
    """A time as the service stores it."""
    return (START + timedelta(seconds=number)).isoformat(sep=" ", timespec="microseconds")


def rows(users: int, projects: int, sessions: int, messages: int) -> Iterator[tuple[str, Any]]:
    """Rows of each table in turn: (table with its columns, values)."""
    random_ = random.Random(7)
    for n in range(1, users + 1):
        yield (
            "users (id, email, name, password_hash, created_at, updated_at)",
            (n, f"user{n}@example.com", f"User {n}", "$argon2id$v=19$x", moment(n), moment(n)),
        )
    for n in range(1, projects + 1):
        yield (
            "projects (id, user_id, name, description, project_type_id, db_name, status, "
            "created_at, updated_at)",
            (
                n,
                n % users + 1,
                f"p{n}",
                text(random_, 60),
                1,
                f"p{n}_db",
                "active",
                moment(n),
                moment(n),
            ),
        )
    for n in range(1, sessions + 1):
        project = n % projects + 1
        yield (
            "sessions (id, user_id, project_id, session_key, title, created_at, updated_at)",
            (
                n,
                project % users + 1,
                project,
                f"{random_.getrandbits(128):032x}",
                text(random_, 30),
                moment(n),
                moment(n),
            ),
        )
    contents = [text(random_, random_.choice((60, 200, 600, 800, 1700))) for _ in range(5000)]
    for n in range(1, messages + 1):
        session = random_.randrange(max(sessions // 20, 1)) + 1 if n % 2 else n % sessions + 1
        user = (session % projects + 1) % users + 1
        role = "assistant" if n % 2 else "user"
        tokens = (n % 900, n % 700) if n % 2 else (None, None)
        yield (
            "messages (id, user_id, session_id, role, content, model, prompt_tokens, "
            "completion_tokens, created_at)",
            (
                n,
                user,
                session,
                role,
                contents[n * 7919 % 5000],
                "agent:main" if n % 2 else None,
                *tokens,
                moment(n),
            ),
        )


def make(path: Path, messages: int) -> None:
    """Make the file; a million messages in 100,000 sessions of 10,000 users, or in proportion."""
    os.environ |= {"USE_POSTGRES": "false", "DB_PATH": str(path)}
    import database
    from server.settings import get_settings

    get_settings.cache_clear()
    database.init_schema()
    database.close_pool()
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("PRAGMA synchronous = OFF")
        scale = max(messages // 100, 10)
        for table, values in rows(max(scale // 10, 1), scale // 5, scale, messages):
            marks = ", ".join("?" * len(values))
            conn.execute(f"INSERT INTO {table} VALUES ({marks})", values)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--messages", type=int, default=1_000_000)
    given = parser.parse_args()
    make(given.path, given.messages)
