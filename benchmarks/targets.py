"""What the service promises about speed and size: each figure, where it is kept, its target."""

import operator
from dataclasses import dataclass

MESSAGES = "`GET /sessions/{id}/messages?limit=50`"
CHAT = "`POST /chat`, everything stored"
STREAM = "`POST /chat`, streamed, 40 tokens"
LARGE = "first page of 100,000 messages · of 10,000 projects"
STREAMS = "1,000 open streams"
REST = "the service at rest"
TWO = "two processes on two cores"
SIGNS = {"≥": operator.ge, "≤": operator.le, "<": operator.lt}


@dataclass(frozen=True)
class Target:
    """One row of the README's table.

    `path` leads to the figure in `benchmarks/results/{result}.json`, or to several with names, all
    of which must keep to `target`: a sign, a number, a unit. `by` is the module that measures it,
    with its arguments, where that isn't the result's name alone.
    """

    work: str
    figure: str
    result: str
    path: str
    target: str
    by: str = ""

    @property
    def command(self) -> str:
        """The module that measures it, with its arguments."""
        return self.by or self.result

    @property
    def unit(self) -> str:
        """What the figure is counted in."""
        return self.target.split(" ", 2)[2]

    def met(self, value: float) -> bool:
        """Whether the figure keeps to the target."""
        sign, limit, _ = self.target.split(" ", 2)
        return bool(SIGNS[sign](value, float(limit)))


TARGETS = [
    Target(
        MESSAGES,
        "speed of FastAPI, asyncpg, pydantic",
        "page",
        "ratios.asyncpg_page",
        "≥ 1.5 times",
    ),
    Target(MESSAGES, "speed of the literal design", "page", "ratios.literal_page", "≥ 5 times"),
    Target(
        MESSAGES, "speed of FastAPI answering a constant", "page", "ratios.constant", "≥ 0.3 times"
    ),
    Target(
        CHAT,
        "speed of an aiohttp proxy that stores nothing",
        "chat",
        "ratios.proxy",
        "≥ 0.25 times",
    ),
    Target(
        CHAT,
        "speed of LiteLLM",
        "litellm",
        "ratios.litellm",
        "≥ 15 times",
        "peers litellm --folder /tmp/peers",
    ),
    Target(STREAM, "speed of that proxy", "stream", "ratios.proxy", "≥ 0.4 times", "chat --stream"),
    Target(
        STREAM,
        "first token, over the gateway's",
        "stream",
        "first_token_ms.added",
        "≤ 5 ms",
        "chat --stream",
    ),
    Target(LARGE, "time of a small one", "large", "ratios", "≤ 1.2 times"),
    Target(STREAMS, "memory for each", "streams", "kb_per_stream", "< 100 KB"),
    Target(STREAMS, "failed, those beside them included", "streams", "failed", "≤ 0 requests"),
    Target(REST, "memory", "footprint", "memory_mb", "< 90 MB"),
    Target(REST, "from the start to the first answer", "footprint", "start_s", "< 1.5 s"),
    Target(TWO, "speed of one", "workers", "ratios.two_processes", "≥ 1.6 times"),
    Target("SQLite, reads", "speed of PostgreSQL", "databases", "ratios.reads", "≥ 0.8 times"),
    Target("SQLite, writes", "speed of PostgreSQL", "databases", "ratios.writes", "≥ 0.8 times"),
]

# What has no row: parts of the others, and measurements that other documents tell of.
WITHOUT_ROW = {
    "both": "starts both databases for others",
    "chat_database": "fills a database for others",
    "crowd": "fills a database for others",
    "gateway": "stands behind chat and peers",
    "growth": "docs/performance.md has its figures",
    "load": "asks, for the others",
    "migration": "docs/migration.md has its figures",
    "reload": "docs/deployment.md has its figures",
    "rounds": "runs the others",
    "table": "makes the table",
    "targets": "has the targets",
}
