"""Types of the fields in requests and responses that several features share."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Path, Query
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

MAX_ID = 2**63 - 1
T = TypeVar("T")


def canonical(value: Any) -> Any:
    """Only digits as a computer writes them: Python's `int` takes `+1`, `01` and `1_0` too."""
    if isinstance(value, str) and not re.fullmatch(r"0|[1-9][0-9]{0,18}", value, re.ASCII):
        raise ValueError("must be a whole number in plain digits")
    return value


def _storable(value: str) -> str:
    """Text that both databases can keep: PostgreSQL has no NUL."""
    if "\0" in value:
        raise ValueError("must not contain NUL characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain lone surrogates") from None
    return value


def utc(value: datetime) -> datetime:
    """The instant in UTC; a time without a zone is UTC, as both databases' defaults write it."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Text = Annotated[str, AfterValidator(_storable)]
# The limits stand before what reads the digits: behind it, they get into OpenAPI as `ge` and `le`,
# which nobody understands. Less than 2^63, since FastAPI makes floats of limits, which have no
# 2^63 - 1.
Id = Annotated[int, Field(ge=1, lt=MAX_ID + 1)]
BodyId = Annotated[Id, Field(strict=True)]
PathId = Annotated[Id, BeforeValidator(canonical), Path(examples=[1])]
Limit = Annotated[
    int,
    Field(ge=1, le=200),
    BeforeValidator(canonical),
    Query(description="Most items in the answer."),
]
# What may be left out of a URL or a header is not null in there: `null` would be a text.
Cursor = Annotated[
    str | None,
    Field(max_length=200),
    WithJsonSchema({"type": "string", "maxLength": 200}),
    Query(description="`next_cursor` of the page before; none: the first page."),
]
Instant = Annotated[
    datetime,
    AfterValidator(utc),
    PlainSerializer(
        lambda value: value.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        return_type=str,
    ),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "examples": ["2026-11-21T09:00:00.000000Z"]}
    ),
]


class Page(BaseModel, Generic[T]):
    """A part of a list; `next_cursor` leads to the next one, null at the end."""

    items: list[T]
    next_cursor: str | None
