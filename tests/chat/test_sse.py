"""Reading server-sent events: any cut of the bytes gives the same events."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.chat import sse


def read(chunks: list[bytes]) -> list[str]:
    """The data of all events of a stream."""
    reader = sse.Reader()
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    return [data for _, data in events + reader.close()]


@given(
    st.lists(st.text(max_size=30), max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 400), max_size=12),
    st.booleans(),
)
def test_any_cut_gives_the_same_events(
    texts: list[str], end: str, cuts: list[int], bom: bool
) -> None:
    """However TCP cuts the bytes, the events are those that were sent."""
    sent = [json.dumps({"content": text}, ensure_ascii=False) for text in texts]
    wire = "".join(f": ping{end}event: x{end}data: {data}{end}id: 1{end}{end}" for data in sent)
    raw = (b"\xef\xbb\xbf" if bom else b"") + wire.encode("utf-8", "surrogatepass")
    places = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    chunks = [raw[a:b] for a, b in itertools.pairwise(places)]
    assert read(chunks) == sent


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(raw: bytes) -> None:
    """Rubbish gives events or none, never an exception of another kind."""
    assert isinstance(read([raw]), list)


def test_lines_of_many_data_fields() -> None:
    """Several data lines of one event are joined by LF, as the standard says."""
    assert read([b"data: a\ndata:b\ndata:  c\n\ndata\n\n: only a comment\n\n"]) == ["a\nb\n c"]


def test_an_event_cut_off_at_the_end() -> None:
    """A last event without its empty line still counts: gateways forget it."""
    assert read([b"data: [DONE]"]) == ["[DONE]"]
    assert read([b"data: [DONE]\r"]) == ["[DONE]"]


def test_separators_do_not_end_lines() -> None:
    """U+2028 may stand raw in JSON."""
    text = "data: a\u2028b\u2029c\x85d\x0be\x0cf\n\n"
    assert read([text.encode()]) == ["a\u2028b\u2029c\x85d\x0be\x0cf"]


def test_a_line_without_end() -> None:
    """Memory is bounded whatever the sender does."""
    reader = sse.Reader()
    assert reader.feed(b"x" * sse.MAX_LINE) == []
    with pytest.raises(sse.LineTooLong):
        reader.feed(b"x")


def test_names_of_events() -> None:
    """The name belongs to its own event only."""
    reader = sse.Reader()
    assert reader.feed(b"event: error\ndata: a\n\ndata: b\n\n") == [("error", "a"), ("", "b")]
