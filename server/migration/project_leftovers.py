"""What of a project's schema may have no counterpart on PostgreSQL, each with the reason."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Leftover:
    """Something that doesn't move as it was; `kind` is "view", "trigger", "check" …

    `sql` is how SQLite has it, to be kept in a file; `reason` is a sentence for the report.
    """

    kind: str
    name: str
    sql: str
    reason: str

    def because(self, reason: object) -> "Leftover":
        """The same for another reason, which becomes a sentence."""
        said = str(reason)
        return replace(self, reason=f"{said[:1].upper()}{said[1:]}.")


@dataclass(frozen=True)
class Statement:
    """SQL for PostgreSQL, and what it becomes when PostgreSQL refuses it.

    Without a leftover a refusal is an error.
    """

    sql: str
    leftover: Leftover | None = None


class Untranslatable(Exception):
    """SQL that would mean something else on PostgreSQL, or nothing; the text is the reason."""
