"""What an import tells at its end: to people as lines, to programs as JSON."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from server.importing.plan import WRITTEN, Outcome, Result

FINE, INCOMPLETE, UNREADABLE = 0, 1, 2


@dataclass
class Report:
    """The results of a run; `broken` says why a file could not be read, or not to its end."""

    dry_run: bool = False
    counts: Counter[Outcome] = field(default_factory=Counter)
    messages: int = 0
    images: int = 0
    replaced: int = 0
    listed: list[dict[str, Any]] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)

    def add(self, file: str, result: Result) -> None:
        """Count a result; one that somebody should look at is listed."""
        self.counts[result.outcome] += 1
        if result.outcome in WRITTEN:
            self.messages += result.messages
            self.images += result.images
            self.replaced += result.replaced
        told = result.problems or (result.notes and result.outcome in WRITTEN)
        if told or result.outcome in (Outcome.CHANGED, Outcome.REFUSED):
            self.listed.append({"file": file, **asdict(result)})

    @property
    def status(self) -> int:
        """The exit status: everything is in, something is not, a file could not be read."""
        if self.broken:
            return UNREADABLE
        return INCOMPLETE if any(map(_is_wrong, self.listed)) else FINE

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "dry_run": self.dry_run,
            **{outcome.value: self.counts[outcome] for outcome in Outcome},
            "messages": self.messages,
            "images": self.images,
            "replaced_characters": self.replaced,
            "listed": self.listed,
            "broken": self.broken,
            "status": self.status,
        }

    def lines(self) -> Iterator[str]:
        """The same for people."""
        for one in self.listed:
            words = "; ".join([*one["problems"], *one["notes"]])
            yield f"{one['outcome']}: {one['source_id']} {one['title'] or ''}".rstrip() + (
                f": {words}" if words else ""
            )
        yield from (f"{file}: {reason}" for file, reason in self.broken.items())
        if self.replaced:
            yield f"{self.replaced} characters that no database can hold were replaced by U+FFFD"
        counts = ", ".join(f"{self.counts[outcome]} {outcome}" for outcome in Outcome)
        would = "It would be: " if self.dry_run else ""
        yield f"{would}{counts}; {self.messages} messages and {self.images} images new"


def _is_wrong(listed: dict[str, Any]) -> bool:
    return bool(listed["problems"]) or listed["outcome"] in (Outcome.CHANGED, Outcome.REFUSED)
