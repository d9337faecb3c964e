"""Values in somebody else's JSON, taken for what they should be, whatever they are."""

import math
import re
from datetime import UTC, datetime
from typing import Any

TITLE_LENGTH = 500
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
# Seconds since 1970 have ten digits until 2286; more are a smaller unit.
_LARGEST_SECONDS = 1e11


def mapping(value: Any) -> dict[str, Any]:
    """The object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """The list; an empty one for anything else."""
    return value if isinstance(value, list) else []


def text(value: Any) -> str:
    """The text; an empty one for anything else."""
    return value if isinstance(value, str) else ""


def clean(value: str) -> tuple[str, int]:
    """The text with U+FFFD for what no database can hold: NUL and lone surrogates; how many."""
    return _UNSTORABLE.subn("\ufffd", value)


def name(value: Any) -> str | None:
    """An id or a model's name, fit to be stored; None where there is none. Ids may be numbers."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return clean(text(value))[0] or None


def title(value: Any) -> str | None:
    """A title as the service has them; None for an empty one."""
    return clean(text(value).strip()[:TITLE_LENGTH])[0] or None


def without(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The object without some of its members."""
    return {key: member for key, member in value.items() if key not in keys}


def instant(value: Any) -> datetime | None:
    """A time as exports write it: seconds since 1970 or a smaller unit, also as text, or ISO 8601.

    One without a zone is UTC. None for anything else, or a year that no calendar has.
    """
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value.strip()):
            return _iso(value.strip())
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
        while math.isfinite(seconds) and abs(seconds) > _LARGEST_SECONDS:
            seconds /= 1000
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _iso(value: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(value)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
