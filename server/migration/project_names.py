"""The names that PostgreSQL has for SQLite's: the same, but where it can't have them.

It cuts names at 63 bytes without a word, wants none empty, and finds its own catalogue under
`pg_…` first. Such a name keeps its beginning and gets a mark of its own, the same in every run.
"""

import hashlib
import re
from collections.abc import Iterable

LONGEST = 63
RELATION = re.compile(r"|pg_.*", re.DOTALL)
ANY = re.compile(r"")
COLUMN = re.compile(r"|tableoid|xmin|cmin|xmax|cmax|ctid")


class Names:
    """The names in one namespace; names that fit are given first, so that they stay."""

    def __init__(self, forbidden: re.Pattern[str], wanted: Iterable[str] = ()) -> None:
        self._forbidden = forbidden
        self._taken: set[str] = set()
        self._given: dict[str, str] = {}
        self.changed: list[tuple[str, str]] = []
        for name in sorted(wanted, key=lambda name: not self._fits(name)):
            self._given[name] = self.keep(name)

    def __getitem__(self, name: str) -> str:
        """What a wanted name became."""
        return self._given[name]

    def keep(self, name: str) -> str:
        """A name that somebody chose; `changed` has those that could not stay."""
        given = self.fresh(name)
        self.note(name, given)
        return given

    def note(self, name: str, given: str) -> None:
        """Remember what a name became."""
        if name != given:
            self.changed.append((name, given))

    def fresh(self, name: str) -> str:
        """This name, or one like it that is nobody's yet."""
        given = name if self._fits(name) else _marked(name, 0)
        number = 0
        while given in self._taken:
            number += 1
            given = _marked(name, number)
        self._taken.add(given)
        return given

    def _fits(self, name: str) -> bool:
        return len(name.encode()) <= LONGEST and not self._forbidden.fullmatch(name)


def _marked(name: str, number: int) -> str:
    mark = hashlib.sha256(f"{number}:{name}".encode()).hexdigest()[:8]
    start = name.removeprefix("pg_") or "unnamed"
    return start.encode()[: LONGEST - 9].decode(errors="ignore") + "_" + mark
