"""A few seconds of what `scripts/soak` does, and that it would tell what it looks for."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.soak.ledger import Ledger
from tests.soak.run import soak
from tests.soak.verdict import Finding, Logged, complaints, read_log, table
from tests.soak.watch import Sample
from tests.sql import Sql

COLUMNS = ("id", "role", "content")
CALM = Sample(
    at=0,
    cpu=0,
    memory_mib=100,
    fds=40,
    threads=9,
    running=0,
    pool_size=5,
    in_use=0,
    waiting=0,
    connections=5,
    idle_in_transaction=0,
    wal_mib=4,
)
LEVEL = Finding(
    backend="postgresql",
    users=32,
    pool=20,
    samples=[replace(CALM, at=3.0 * number) for number in range(150)],
    warm=CALM,
    end=replace(CALM, at=450),
    heard=Counter({200: 1000}),
    events=Counter({"cut": 100}),
    wrong=[],
    logged=Logged(Counter({200: 1000}), []),
    messages=100,
    streaming_rows=0,
    differences=[],
)


def growing(change: Callable[[Sample], Sample]) -> Finding:
    """The same, with samples that change over time."""
    return replace(LEVEL, samples=[change(sample) for sample in LEVEL.samples])


WRONG = {
    "memory: +2.00 MiB": growing(lambda s: replace(s, memory_mib=100 + s.at / 30)),
    "file descriptors: +4.00": growing(lambda s: replace(s, fds=40 + int(s.at // 15))),
    "threads: +0.64": growing(lambda s: replace(s, threads=9 + int(s.at // 90))),
    "descriptors: 11 more at rest": replace(LEVEL, end=replace(CALM, fds=51)),
    "threads: 5 more at rest": replace(LEVEL, end=replace(CALM, threads=14)),
    "connections in use: 21": growing(lambda s: replace(s, in_use=21)),
    "PostgreSQL's connections: 33": growing(lambda s: replace(s, connections=33)),
    "connections at rest: 6": replace(LEVEL, end=replace(CALM, connections=6)),
    "idle in transaction: 1.5": growing(lambda s: replace(s, idle_in_transaction=1.5)),
    "WAL: 65": growing(lambda s: replace(s, wal_mib=65)),
    "status 500: 1": replace(LEVEL, heard=Counter({500: 1})),
    "status 500: 2": replace(LEVEL, logged=read_log('{"event": "request", "status": 500}\n' * 2)),
    "in the log": replace(LEVEL, logged=read_log('{"traceback": "Traceback (most recent"}')),
    "1 generations": replace(LEVEL, end=replace(CALM, running=1)),
    "1 connections in use": replace(LEVEL, end=replace(CALM, in_use=1)),
    "1 messages with status streaming": replace(LEVEL, streaming_rows=1),
    "nobody should get: GET / -> 503": replace(LEVEL, wrong=["GET / -> 503"]),
    "lost": replace(LEVEL, differences=["lost"]),
}


def test_users_at_work_leave_nothing_behind() -> None:
    """The tool works: all kinds of requests are made, and all answers are what they should be."""
    found = soak("sqlite", 5, users=8, settle=0.2)
    assert complaints(found) == []
    assert found.messages > 5
    assert min(found.events["cut"], found.events["followed"], found.events["streamed"]) > 0
    assert {200, 201, 204, 404} <= found.logged.statuses.keys()
    assert "| messages acknowledged |" in table([found])


def test_level_is_no_complaint() -> None:
    """Otherwise the complaints below would say nothing."""
    assert complaints(LEVEL) == []


@pytest.mark.parametrize("words", WRONG)
def test_what_is_not_level_is_told(words: str) -> None:
    """Each limit is held: a soak that can't fail is a fan heater."""
    (complaint,) = complaints(WRONG[words])
    assert words in complaint


def test_the_ledger_tells_what_the_database_lacks(tmp_path: Path) -> None:
    """A message that was lost, or stored twice, or an answer that was told differently."""
    sql = Sql({"USE_POSTGRES": "false", "DB_PATH": str(tmp_path / "master.db")})
    sql.rows("CREATE TABLE messages (id INTEGER, session_id, role, content, status)")
    ledger = Ledger()
    for number, text in enumerate(("kept", "lost", "twice", "deleted")):
        ledger.acknowledge(text, number, 9 if text == "deleted" else 1)
    ledger.leave(9)
    answer = {"id": 7, "session_id": 1, "status": "complete", "content": "Hello"}
    ledger.tell(answer)
    for row in ((0, "user", "kept"), (2, "user", "twice"), (7, "assistant", "Hell")):
        sql.insert(
            "messages", session_id=1, status="complete", **dict(zip(COLUMNS, row, strict=True))
        )
    assert [one.partition(":")[0] for one in ledger.differences(sql)] == [
        "acknowledged as Said(message_id=1, session_id=1), stored as None",
        "told and stored differently",
    ]
    sql.insert("messages", id=3, session_id=1, role="user", content="twice", status="complete")
    sql.update("messages", 7, content="Hello")
    assert ledger.differences(sql)[0] == "stored 2 times: 'twice'"
    assert "told and stored differently" not in str(ledger.differences(sql))
