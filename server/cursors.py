"""Cursors of lists: opaque to clients, the sort key of the last item to us."""

import base64
import binascii
import json
import re
from datetime import datetime

from server.errors import Invalid
from server.fields import MAX_ID

# SQLite keeps whatever spelling others inserted; PostgreSQL knows no offset beyond 15:59.
_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?([+-](0\d|1[0-4]):[0-5]\d|Z)?", re.ASCII
)


def encode(*key: int | str | datetime) -> str:
    """A cursor from the sort key; times are kept in the very spelling the database gave."""
    text = json.dumps([str(part) if isinstance(part, datetime) else part for part in key])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_id(cursor: str | None) -> int:
    """The id in a cursor of a list that is sorted by id alone; a very large one without cursor."""
    if cursor is None:
        return MAX_ID
    key = _decode(cursor)
    if len(key) != 1:
        raise _bad()
    return _id(key[0])


def decode_instant_and_id(cursor: str) -> tuple[str, int]:
    """The time and id in a cursor of a list that is sorted by both."""
    key = _decode(cursor)
    if len(key) != 2 or not isinstance(key[0], str) or not _INSTANT.fullmatch(key[0]):
        raise _bad()
    try:
        datetime.fromisoformat(key[0])
    except ValueError:
        raise _bad() from None
    return key[0], _id(key[1])


def _decode(cursor: str) -> list[object]:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        key = json.loads(raw)
    except (binascii.Error, ValueError, RecursionError):
        raise _bad() from None
    if not isinstance(key, list):
        raise _bad()
    return key


def _id(value: object) -> int:
    if type(value) is not int or not 0 < value <= MAX_ID:
        raise _bad()
    return value


def _bad() -> Invalid:
    return Invalid("This is not a cursor of this list.", loc=("query", "cursor"), code="bad_cursor")
