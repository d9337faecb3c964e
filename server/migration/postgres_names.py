"""The names that SQLite has for PostgreSQL's: the same, but where it can't have them.

SQLite compares names without case and keeps those that begin with `sqlite_` for itself.
"""

import hashlib
from collections.abc import Iterable

from server.migration.project_tokens import caseless

RESERVED = "sqlite_"


def fitting(names: Iterable[str]) -> dict[str, str]:
    """What each name becomes; one that can't stay gets a mark of its own."""
    given: dict[str, str] = {}
    taken: set[str] = set()
    wanted = list(names)
    exact = {caseless(name) for name in wanted}
    for name in wanted:
        new, number = name, 0
        while (
            caseless(new) in taken
            or caseless(new).startswith(RESERVED)
            or (new != name and caseless(new) in exact)
        ):
            new = _marked(name, number)
            number += 1
        taken.add(caseless(new))
        given[name] = new
    return given


def _marked(name: str, number: int) -> str:
    mark = hashlib.sha256(f"{number}:{name}".encode()).hexdigest()[:8]
    start = name[len(RESERVED) :] if caseless(name).startswith(RESERVED) else name
    return f"{start}_{mark}"
