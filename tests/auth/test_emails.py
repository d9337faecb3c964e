"""The one spelling of each address, over all addresses."""

from contextlib import suppress

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from server.auth import emails
from server.errors import Invalid

LOCAL = st.text(
    st.characters(categories=["L", "M", "N", "P", "S"], exclude_characters="@"),
    min_size=1,
    max_size=20,
)


def accepted(address: str) -> str:
    """The address's one spelling; what is no address is no example."""
    try:
        return emails.normalize(address)
    except Invalid:
        assume(False)
        raise


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    """`Invalid` is the only exception: anything else would be a 500 at sign-up."""
    with suppress(Invalid):
        emails.normalize(text)
    assert isinstance(emails.account_key(text), str)


@settings(deadline=None)
@given(LOCAL)
@example("\uff20")
@example("a\u2024\u2024b")
@example("\u00af")
def test_the_one_spelling_is_its_own(local: str) -> None:
    """An address read back from the database must be found again under the same key.

    A full-width @ before the @ became a second one, a spacing macron a blank, one-dot leaders
    became `..`.
    """
    once = accepted(f"{local}@Example.com")
    assert emails.normalize(once) == once
    assert emails.account_key(once) == emails.account_key(f"{local}@Example.com")


@settings(deadline=None)
@given(st.text(max_size=40) | st.text(max_size=20).map("{}@Example.com".format))
def test_the_key_is_its_own(text: str) -> None:
    """The migration makes keys of what the service has stored: a key's key is itself."""
    key = emails.account_key(text)
    assert emails.account_key(key) == key


@settings(deadline=None)
@given(st.from_regex(r"[a-z0-9][a-z0-9+_-]{0,20}", fullmatch=True), st.data())
def test_case_makes_no_second_account(local: str, data: st.DataObject) -> None:
    """Every mixture of small and capital letters is one account."""
    address = f"{local}@example.com"
    spelling = "".join(c.upper() if data.draw(st.booleans()) else c for c in address)
    assert emails.normalize(spelling).lower() == emails.normalize(address).lower()
    assert emails.account_key(spelling) == emails.account_key(address)


@pytest.mark.parametrize("letter", "ÄÉØЖΩİŁŐ")
def test_case_makes_no_second_account_beyond_ascii(letter: str) -> None:
    """SQLite's `lower` leaves these letters alone: they are lower-cased before they get there."""
    big, small = (emails.normalize(f"x{c}x@example.com") for c in (letter, letter.lower()))
    assert big == small
