"""The move of a large SQLite master to PostgreSQL, beside pgloader.

    venv/bin/python -m benchmarks.migration                  a million messages, five rounds
    venv/bin/python -m benchmarks.migration --messages 100000 --rounds 3

Each round copies the same file into fresh databases of one server at default durability: by
migrate_to_postgres.py, and by pgloader (where it is installed), in turns. Prints medians as JSON.

`copy` is what pgloader does too: rows, indexes, foreign keys, sequences. `all` is the whole
command: snapshot and backup, census of every value, copy, proof of every row, report.

pgloader gets help: fewer rows prefetched, since with its default it runs out of memory, and a copy
of the file without the index on `lower(email)`, on which it crashes.
"""

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.chat_database import make
from benchmarks.rounds import durable_postgres
from tests import postgres
from tests.service import ROOT, environment


def measured(command: list[str], env: dict[str, str]) -> tuple[float, int, str]:
    """Seconds, peak memory in KB, and what it printed."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output)
        _, status, used = os.wait4(process.pid, 0)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if status:
        raise RuntimeError(f"{command[0]} ended with {status}:\n{text[-2000:]}")
    return time.monotonic() - started, used.ru_maxrss, text


def ours(server: postgres.Server, source: Path, folder: Path) -> dict[str, float]:
    """Copy with the product's own command."""
    master = postgres.create_master(server)
    env = environment({**master, "DB_PATH": str(source)})
    command = [sys.executable, "migrate_to_postgres.py", "--json", "--missing-databases", "skip"]
    seconds, memory, text = measured([*command, "--backup-dir", str(folder)], env)
    phases = json.loads(text)["phases"]
    postgres.drop_master(server, master)
    shutil.rmtree(folder)
    return {**phases, "all": seconds, "memory": memory}


def pgloader(server: postgres.Server, source: Path) -> dict[str, float]:
    """Copy with pgloader, which makes tables of its own."""
    with closing(server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute("DROP DATABASE IF EXISTS loaded WITH (FORCE)")
        cursor.execute("CREATE DATABASE loaded")
    url = f"pgsql://{server.superuser}:{server.password}@{server.host}:{server.port}/loaded"
    command = ["pgloader", "--with", "prefetch rows = 10000", f"sqlite://{source}", url]
    seconds, memory, _ = measured(command, environment({}))
    return {"all": seconds, "memory": memory}


def median(rounds: list[dict[str, float]], name: str) -> float:
    """The middle of the rounds' numbers."""
    return statistics.median(one[name] for one in rounds)


def main() -> None:
    """Measure in turns; print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {"ours": [], "pgloader": []}
    with tempfile.TemporaryDirectory() as name, durable_postgres() as server:
        folder = Path(name)
        make(folder / "chat.db", given.messages)
        shutil.copy(folder / "chat.db", folder / "plain.db")
        with closing(sqlite3.connect(folder / "plain.db")) as conn, conn:
            conn.execute("DROP INDEX users_email")
        for _ in range(given.rounds):
            rounds["ours"].append(ours(server, folder / "chat.db", folder / "backups"))
            if shutil.which("pgloader"):
                rounds["pgloader"].append(pgloader(server, folder / "plain.db"))
        size = (folder / "chat.db").stat().st_size
    print(json.dumps(result(rounds, given.messages, size, server.version), indent=2))


def result(
    rounds: dict[str, list[dict[str, float]]], messages: int, size: int, version: str
) -> dict[str, Any]:
    """What the README says, and each round."""
    mine, theirs = rounds["ours"], rounds["pgloader"]
    found: dict[str, Any] = {
        "messages": messages,
        "file_mb": round(size / 1e6),
        "postgresql": version,
        "copy_s": round(median(mine, "copy"), 1),
        "all_s": round(median(mine, "all"), 1),
        "memory_mb": round(median(mine, "memory") / 1024),
        "rounds": rounds,
    }
    if theirs:
        seconds = median(theirs, "all")
        found |= {
            "pgloader_s": round(seconds, 1),
            "pgloader_memory_mb": round(median(theirs, "memory") / 1024),
            "copy_times_pgloader": round(seconds / median(mine, "copy"), 2),
            "all_times_pgloader": round(seconds / median(mine, "all"), 2),
        }
    return found


if __name__ == "__main__":
    main()
