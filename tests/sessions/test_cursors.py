"""Cursors, over all texts."""

import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import cursors
from server.errors import Invalid
from server.fields import MAX_ID

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(deadline=None)
@given(st.integers(min_value=1, max_value=MAX_ID))
def test_an_id_comes_back(key: int) -> None:
    """What was encoded is decoded."""
    assert cursors.decode_id(cursors.encode(key)) == key


@settings(deadline=None)
@given(st.datetimes(), st.integers(min_value=1, max_value=MAX_ID))
def test_an_instant_and_an_id_come_back(at: datetime, key: int) -> None:
    """As PostgreSQL gives times and as SQLite spells them, with and without a zone."""
    aware = at.replace(tzinfo=UTC)
    for spelling in (aware, str(at), at.isoformat(), f"{at}Z"):
        assert cursors.decode_instant_and_id(cursors.encode(spelling, key)) == (
            str(spelling),
            key,
        )


@pytest.mark.parametrize("spelling", ["2026-01-01 12:00:00+02:00", "2026-01-01T12:00:00.5-05:30"])
def test_a_time_of_another_zone_comes_back(spelling: str) -> None:
    """Whatever spelling a row has, the cursor that we made of it is taken."""
    assert cursors.decode_instant_and_id(cursors.encode(spelling, 1)) == (spelling, 1)


@settings(deadline=None)
@given(st.one_of(st.text(), JSON.map(lambda value: cursors.encode(json.dumps(value)))))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    """`Invalid` is the only exception, and what passes is an id that a database can take."""
    with suppress(Invalid):
        assert 0 < cursors.decode_id(text) <= MAX_ID
    with suppress(Invalid):
        at, key = cursors.decode_instant_and_id(text)
        assert 0 < key <= MAX_ID
        datetime.fromisoformat(at)


@settings(deadline=None)
@given(JSON)
def test_any_key_is_taken_or_refused(key: object) -> None:
    """A cursor in our own alphabet, with anything in it."""
    text = cursors.encode(key) if isinstance(key, int | str) else cursors.encode(json.dumps(key))
    for decode in (cursors.decode_id, cursors.decode_instant_and_id):
        with suppress(Invalid):
            assert decode(text)
