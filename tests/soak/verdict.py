"""What a soak has found: its figures, and which of them are not as they must be."""

import json
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tests.soak.watch import Sample

# Over less time than this, growth says more about chance than about the service.
MINUTES_TO_JUDGE = 3.0
# What one rest may have more than the other: connections kept to the gateway, threads not yet gone.
SPARE_FDS = 10
SPARE_THREADS = 4
# Creating and deleting projects uses connections beside the pool: four at once, three each.
BESIDE_THE_POOL = 12
LONGEST_IDLE_SECONDS = 1.0
MOST_WAL_MIB = 64.0
DEFECTS = ("Traceback", "never retrieved", "never awaited")


class Trend(NamedTuple):
    """What must stay level: what it is called, how it is read, and how much it may grow."""

    name: str
    unit: str
    read: Callable[[Sample], float]
    most_a_minute: float


def beside_the_pool(sample: Sample) -> int:
    """File descriptors without the pool's, of which SQLite has two a connection, PostgreSQL one.

    A pool that grows up to its limit is no leak.
    """
    return sample.fds - 2 * sample.pool_size


TRENDS = (
    Trend("memory", "MiB", lambda sample: sample.memory_mib, 1.0),
    # Under load they come and go with the machine's; at rest they are compared exactly.
    Trend("file descriptors", "", beside_the_pool, 3.0),
    Trend("threads", "", lambda sample: sample.threads, 0.5),
)


@dataclass(frozen=True)
class Logged:
    """What the service's log tells about requests and defects."""

    statuses: Counter[int]
    defects: list[str]


@dataclass(frozen=True)
class Finding:
    """All that was seen of one service; `samples` were taken after the warm-up."""

    backend: str
    users: int
    pool: int
    samples: list[Sample]
    warm: Sample
    end: Sample
    heard: Counter[int]
    events: Counter[str]
    wrong: list[str]
    logged: Logged
    messages: int
    streaming_rows: int
    differences: list[str]

    @property
    def minutes(self) -> float:
        """From the first sample to the last."""
        return (self.samples[-1].at - self.samples[0].at) / 60

    def most(self, read: Callable[[Sample], float]) -> float:
        """The largest of all samples."""
        return max(map(read, (self.warm, *self.samples, self.end)))

    def slope(self, trend: Trend) -> float:
        """By how much it grew in a minute, by least squares."""
        minutes = [sample.at / 60 for sample in self.samples]
        return statistics.linear_regression(minutes, list(map(trend.read, self.samples))).slope


def read_log(text: str) -> Logged:
    """The statuses of all requests, and the lines about what nobody expected."""
    lines = text.splitlines()
    requests = (json.loads(line) for line in lines if '"event": "request"' in line)
    return Logged(
        Counter(request["status"] for request in requests),
        [line for line in lines if any(word in line for word in DEFECTS)],
    )


def complaints(found: Finding) -> list[str]:
    """What is not as it must be; nothing if all is well."""
    return [
        *_grown(found),
        *_exceeded(found),
        *_left(found),
        *(f"an answer that nobody should get: {wrong}" for wrong in found.wrong),
        *(f"in the log: {line[:1500]}" for line in found.logged.defects[:5]),
        *found.differences[:20],
    ]


def _grown(found: Finding) -> list[str]:
    if found.minutes < MINUTES_TO_JUDGE:
        return []
    grown = [
        f"{trend.name}: {slope:+.2f} {trend.unit} a minute, more than {trend.most_a_minute:g}"
        for trend in TRENDS
        if (slope := found.slope(trend)) > trend.most_a_minute
    ]
    if (more := beside_the_pool(found.end) - beside_the_pool(found.warm)) > SPARE_FDS:
        grown.append(f"file descriptors: {more} more at rest than after the warm-up")
    if (more := found.end.threads - found.warm.threads) > SPARE_THREADS:
        grown.append(f"threads: {more} more at rest than after the warm-up")
    return grown


def _exceeded(found: Finding) -> list[str]:
    limits = (
        ("connections in use", found.most(lambda s: s.in_use), found.pool),
        ("PostgreSQL's connections", found.most(_connections), found.pool + BESIDE_THE_POOL),
        ("PostgreSQL's connections at rest", found.end.connections, found.end.pool_size),
        ("seconds idle in transaction", found.most(_idle), LONGEST_IDLE_SECONDS),
        ("MiB in SQLite's WAL", found.most(lambda s: s.wal_mib), MOST_WAL_MIB),
        ("answers with status 500", found.heard[500] + found.logged.statuses[500], 0),
    )
    return [
        f"{name}: {value:g}, more than {most:g}" for name, value, most in limits if value > most
    ]


def _left(found: Finding) -> list[str]:
    left = {
        "generations that run": found.end.running,
        "connections in use": found.end.in_use,
        "seconds idle in transaction": found.end.idle_in_transaction,
        "messages with status streaming": found.streaming_rows,
    }
    return [f"left at the end: {value:g} {name}" for name, value in left.items() if value]


def _connections(sample: Sample) -> float:
    return sample.connections


def _idle(sample: Sample) -> float:
    return sample.idle_in_transaction


def table(findings: list[Finding]) -> str:
    """The figures as a Markdown table, a column for each database."""
    columns = [_figures(found) for found in findings]
    head = ["", *(found.backend for found in findings)]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figures(found: Finding) -> dict[str, str]:
    first, last = found.samples[0], found.samples[-1]
    busy = (last.cpu - first.cpu) / (last.at - first.at)
    requests = found.logged.statuses.total()
    return {
        "users, minutes after the warm-up": f"{found.users}, {found.minutes:.1f}",
        "requests": f"{requests:,}",
        "the process at work": f"{busy:.0%} of a core",
        "streams read to the end, cut, followed, stopped": ", ".join(
            f"{found.events[name]:,}" for name in ("streamed", "cut", "followed", "stopped")
        ),
        "turns with a troubled gateway": f"{found.events['troubled']:,}",
        "most answers generated at once": f"{found.most(lambda s: s.running):g}",
        **{f"{trend.name}, growth a minute": _trend(found, trend) for trend in TRENDS},
        "memory at rest, after the warm-up and at the end": (
            f"{found.warm.memory_mib:.0f}, {found.end.memory_mib:.0f} MiB"
        ),
        "file descriptors at rest, with so many connections pooled": ", ".join(
            f"{sample.fds} with {sample.pool_size}" for sample in (found.warm, found.end)
        ),
        "threads at rest": f"{found.warm.threads}, {found.end.threads}",
        "connections in use, most of the pool's": (
            f"{found.most(lambda s: s.in_use):g} of {found.pool}"
        ),
        "PostgreSQL's connections, most": f"{found.most(_connections):g}",
        "longest idle in transaction": f"{found.most(_idle):.2f} s",
        "SQLite's WAL, largest": f"{found.most(lambda s: s.wal_mib):.1f} MiB",
        "answers with 2xx, 4xx, 502 to 504": ", ".join(
            f"{_count(found, *limits):,}" for limits in ((200, 299), (400, 498), (502, 504))
        ),
        "requests broken off by the client": f"{found.events['hung up']:,}",
        "answers with 500": f"{found.logged.statuses[500]:,}",
        "answers that nobody should get": f"{len(found.wrong):,}",
        "messages acknowledged": f"{found.messages:,}",
        "lost, doubled or changed": f"{len(found.differences):,}",
    }


def _trend(found: Finding, trend: Trend) -> str:
    said = f"{found.slope(trend):+.2f} {trend.unit}".strip()
    return said if found.minutes >= MINUTES_TO_JUDGE else f"{said} (too short to judge)"


def _count(found: Finding, first: int, last: int) -> int:
    statuses = found.logged.statuses
    return sum(count for status, count in statuses.items() if first <= status <= last)
