"""Reading the last 50 messages of a session, beside what others would write.

    venv/bin/python -m benchmarks.page
    venv/bin/python -m benchmarks.page --rounds 9 --seconds 3

One uvicorn worker each, 16 connections, PostgreSQL at default durability; the same token check.
Prints requests a second as medians, and ratios.
"""

import argparse
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import load, rounds
from benchmarks.rounds import dsn, durable_postgres, in_turns, keep, medians, rival
from tests import postgres
from tests.service import Api, Service, sign_up

CONNECTIONS = 16
TEXT = "The quick brown fox jumps over the lazy dog, and then it does so once more. " * 5


def fill(api: Api, settings: dict[str, str]) -> int:
    """A session with 60 messages of about 400 bytes; its id."""
    import psycopg2

    session_id = api.session(api.project()["id"])["id"]
    user_id = api.get("/auth/me").json()["id"]
    conn = psycopg2.connect(dsn(settings))
    with conn, conn.cursor() as cursor:
        cursor.execute(
            "INSERT INTO messages (user_id, session_id, role, content, model, prompt_tokens, "
            "completion_tokens) SELECT %s, %s, CASE n %% 2 WHEN 1 THEN 'user' ELSE 'assistant' "
            "END, %s, CASE n %% 2 WHEN 0 THEN 'agent:main' END, CASE n %% 2 WHEN 0 THEN n END, "
            "CASE n %% 2 WHEN 0 THEN n END FROM generate_series(1, 60) AS n",
            (user_id, session_id, TEXT),
        )
        conn.commit()
        conn.autocommit = True
        cursor.execute("ANALYZE")
    conn.close()
    return int(session_id)


def rate(url: str, token: str, seconds: float) -> float:
    """Requests a second for one page; raises when one fails."""
    return rounds.rate([[load.request(url, token)]] * CONNECTIONS, seconds)


def measure(stack: ExitStack, times: int, seconds: float) -> dict[str, Any]:
    """Start everything, and measure in turns."""
    server = stack.enter_context(durable_postgres())
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    settings = postgres.create_master(server)
    service = stack.enter_context(Service(settings, folder))
    api = sign_up(service)
    path = f"/sessions/{fill(api, settings)}/messages?limit=50"
    token = api.token or ""
    urls = {"service": service.url}
    for name in ("asyncpg_page", "literal_page", "constant"):
        urls[name] = stack.enter_context(rival(name, "/openapi.json", RIVAL_DSN=dsn(settings)))
    size = len(api.get(path).content)
    found = in_turns(
        {name: partial(rate, url + path, token, seconds) for name, url in urls.items()}, times
    )
    middle = medians(found)
    return {
        "what": "GET /sessions/{id}/messages?limit=50, requests a second",
        "page_bytes": size,
        "postgresql": server.version,
        "medians": middle,
        "ratios": {
            name: round(middle["service"] / value, 2)
            for name, value in middle.items()
            if name != "service"
        },
        "rounds": found,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2)
    given = parser.parse_args()
    with ExitStack() as stack:
        keep("page", measure(stack, given.rounds, given.seconds))


if __name__ == "__main__":
    main()
