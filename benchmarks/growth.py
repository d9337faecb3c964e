"""The same requests on masters of ten thousand, a million and ten million messages.

    venv/bin/python -m benchmarks.growth
    venv/bin/python -m benchmarks.growth --sizes 10000,1000000 --rounds 3 --seconds 1

All masters are on one PostgreSQL at default durability, each with a service of its own, which are
asked in turns: one uvicorn worker, 16 connections. Prints requests a second as medians, how many
times as fast the smallest master is, and the bytes of every table and index.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import crowd, load
from benchmarks.rounds import Request, durable_postgres, in_turns, keep, medians, rate
from server import cursors
from tests import postgres
from tests.service import Api, Service, sign_up

CONNECTIONS = 16
# Sessions that are asked for one after the other, where the master has as many.
ALL_OVER = 3_200
# Rows, indexes, the log of all writes, and what sorting takes.
BYTES_A_MESSAGE = 2_000


class Master:
    """One size, filled, with its service."""

    def __init__(self, stack: ExitStack, server: postgres.Server, messages: int) -> None:
        settings = postgres.create_master(server)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.messages = messages
        self.service = stack.enter_context(Service(settings, folder))
        self.api = sign_up(self.service)
        started = time.monotonic()
        crowd.fill(server, settings["DB_NAME"], messages)
        self.fill_seconds = round(time.monotonic() - started, 1)
        with closing(server.connect(settings["DB_NAME"])) as conn, conn.cursor() as cursor:
            self.tables = _tables(cursor)
            cursor.execute(
                "SELECT session_id, count(*), (array_agg(id ORDER BY id))[count(*) / 2] "
                "FROM messages WHERE user_id = 1 GROUP BY session_id"
            )
            ((self.large, self.large_messages, self._middle),) = cursor.fetchall()
        self._talks = crowd.talks(server, settings["DB_NAME"], ALL_OVER)

    def requests(self) -> dict[str, list[list[Request]]]:
        """What each of the connections sends, by the name of the figure."""
        token = self.api.token or ""
        small = self._talks[len(self._talks) // 2]
        large = f"/sessions/{self.large}/messages?limit=50"
        middle = f"{large}&cursor={cursors.encode(self._middle)}"
        pages = [self._page(talk) for talk in self._talks]
        return {
            "me": self._all(self._get("/auth/me", token)),
            "small_session": self._all(self._page(small)),
            "sessions_all_over": [pages[n::CONNECTIONS] for n in range(CONNECTIONS)],
            "large_session": self._all(self._get(large, token)),
            "large_session_middle": self._all(self._get(middle, token)),
            "projects": self._all(self._get("/projects", token)),
            "chat": [[self._chat(self.api)] for _ in range(CONNECTIONS)],
        }

    def _all(self, request: Request) -> list[list[Request]]:
        return [[request]] * CONNECTIONS

    def _get(self, path: str, token: str) -> Request:
        return load.request(self.service.url + path, token)

    def _page(self, talk: crowd.Talk) -> Request:
        return self._get(f"/sessions/{talk.session_id}/messages?limit=50", talk.token)

    def _chat(self, api: Api) -> Request:
        session = api.session(1)
        body = b'{"session_id": %d, "message": "Hello!"}' % session["id"]
        return load.request(f"{self.service.url}/chat", api.token, body)


def _tables(cursor: Any) -> dict[str, dict[str, Any]]:
    """The rows and the bytes of each table that was filled, and those of each of its indexes."""
    cursor.execute(
        "SELECT relname, reltuples::bigint, pg_table_size(oid), pg_total_relation_size(oid), "
        "(SELECT jsonb_object_agg(indexrelid::regclass, pg_relation_size(indexrelid)) "
        "FROM pg_index WHERE indrelid = pg_class.oid) "
        "FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace "
        "AND reltuples > 0 ORDER BY 4 DESC"
    )
    names = ("rows", "table_bytes", "total_bytes", "index_bytes")
    return {name: dict(zip(names, found, strict=True)) for name, *found in cursor.fetchall()}


def storage(master: Master) -> dict[str, Any]:
    """What the master takes, and what a million messages take with all that belongs to them."""
    messages = master.tables["messages"]
    return {
        "mb_per_million_messages": {
            "table": _per_million(messages["table_bytes"], master.messages),
            **{
                index: _per_million(size, master.messages)
                for index, size in messages["index_bytes"].items()
            },
            "total": _per_million(messages["total_bytes"], master.messages),
        },
        "tables": master.tables,
    }


def _per_million(size: int, messages: int) -> float:
    return round(size / messages, 1)


def measure(stack: ExitStack, sizes: list[int], rounds: int, seconds: float) -> dict[str, Any]:
    """Make the masters, and measure in turns."""
    server = stack.enter_context(durable_postgres())
    masters = [Master(stack, server, size) for size in sizes]
    asked = {str(master.messages): master.requests() for master in masters}
    measures: dict[str, Callable[[], float]] = {
        f"{work} {size}": partial(rate, asked[size][work], seconds)
        for work in next(iter(asked.values()))
        for size in asked
    }
    found = in_turns(measures, rounds)
    middle = medians(found)
    rates: dict[str, dict[str, float]] = {}
    for name, value in middle.items():
        work, size = name.split()
        rates.setdefault(work, {})[size] = value
    smallest = str(sizes[0])
    return {
        "what": "requests a second, by messages in the master",
        "postgresql": server.version,
        "medians": rates,
        "ratios": {
            work: {size: round(of[smallest] / value, 2) for size, value in of.items()}
            for work, of in rates.items()
        },
        "large_session_messages": {str(one.messages): one.large_messages for one in masters},
        "fill_seconds": {str(one.messages): one.fill_seconds for one in masters},
        "storage": {str(one.messages): storage(one) for one in masters},
        "rounds": found,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,1000000,10000000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    given = parser.parse_args()
    sizes = sorted(map(int, given.sizes.split(",")))
    free, needed = shutil.disk_usage(tempfile.gettempdir()).free, sum(sizes) * BYTES_A_MESSAGE
    if free < needed:
        sys.exit(
            f"{needed / 1e9:.0f} GB are needed in {tempfile.gettempdir()}, {free / 1e9:.0f} GB are "
            "free: ask for smaller --sizes, or set TMPDIR"
        )
    with ExitStack() as stack:
        keep("growth", measure(stack, sizes, given.rounds, given.seconds))


if __name__ == "__main__":
    main()
