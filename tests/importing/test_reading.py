"""Reading files one conversation at a time."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.importing import reading
from server.importing.conversation import Unreadable
from server.importing.files import opened
from tests.service import ROOT, environment

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


class Drops(io.StringIO):
    """A stream that gives less than it is asked for, at most so many characters."""

    def __init__(self, text: str, most: int) -> None:
        super().__init__(text)
        self.most = most

    def read(self, size: int | None = -1, /) -> str:
        """The next few characters."""
        return super().read(min(size or self.most, self.most))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.dictionaries(st.text(), JSON), max_size=3), st.integers(1, 40))
def test_values_come_whole_however_the_text_is_cut(members: list[Any], most: int) -> None:
    """Chunks end anywhere: in a number, a word, an escape, between two members."""
    for indent in (None, 2):
        text = json.dumps(members, indent=indent)
        assert list(reading.values(Drops(text, most))) == members
    wrapped = json.dumps({"conversations": members})
    # What stands before the list must be in one piece to be seen.
    assert list(reading.values(io.StringIO(wrapped))) == members


def read_until_broken(text: str) -> tuple[list[Any], str]:
    """The values before the break, and what is said about it."""
    found: list[Any] = []
    with pytest.raises(Unreadable) as caught:
        found.extend(reading.values(io.StringIO(text)))
    return found, str(caught.value)


@pytest.mark.parametrize(
    ("text", "before", "said"),
    [
        ("", 0, "it is empty"),
        ('[{"a": 1}, {"b": ', 1, "broken after"),
        ('[{"a": 1}', 1, "broken after 9 characters: the rest is missing"),
        ('[{"a": 1} {"b": 2}]', 1, "broken after 10 characters: a part is missing"),
        ('[{"a": 1}, nonsense, ' + 100 * " " + "]", 1, "broken after 11 characters"),
        ('{"a": "' + 100 * "x", 0, "broken after 6 characters: Unterminated"),
        ("[" * 100_000, 0, "broken after 1 characters"),
        ("[" + "9" * 5000 + "]", 0, "broken after 1 characters"),
    ],
)
def test_a_broken_file_is_read_up_to_the_break(text: str, before: int, said: str) -> None:
    """Half a download is half a history, not none; the place is told in characters."""
    values, error = read_until_broken(text)
    assert len(values) == before
    assert error.startswith(said)


def test_a_break_is_seen_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A break at the beginning of a gigabyte is not looked for at its end."""
    stream = io.StringIO('[{"a": oops}, ' + 100 * '{"b": "some text"}, ')
    monkeypatch.setattr(reading, "_CHUNK", 64)
    with pytest.raises(Unreadable):
        list(reading.values(stream))
    assert stream.tell() <= 128


def test_one_conversation_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is one endless string is given up, not read into memory."""
    monkeypatch.setattr(reading, "_CHUNK", 64)
    monkeypatch.setattr(reading, "LARGEST", 1000)
    stream = io.StringIO('["' + 100_000 * "x")
    with pytest.raises(Unreadable, match="Unterminated"):
        list(reading.values(stream))
    assert stream.tell() < 10_000


def test_bytes_that_are_no_text_are_kept(tmp_path: Path) -> None:
    """One wrong byte once made a whole file unreadable; a BOM is what Windows puts first."""
    path = tmp_path / "export.json"
    path.write_bytes(b'\xef\xbb\xbf[{"a": "x\xffy", "b": "\\ud800", "c": NaN, "d": "line\n2"}]')
    with opened(path) as export:
        (value,) = [value for value, _ in export.values()]
    assert value == {"a": "x\udcffy", "b": "\ud800", "c": "NaN", "d": "line\n2"}


def many(folder: Path, megabytes: int) -> Path:
    """A file of many conversations."""

    def pieces() -> Iterator[str]:
        words = "Some words that somebody wrote. " * 30
        nodes = {f"n{i}": {"parent": None, "message": {"content": words}} for i in range(20)}
        body = json.dumps({"mapping": nodes})[1:]
        for number in range(megabytes * 1_000_000 // len(body)):
            yield f'{{"id": "c{number}", {body}'

    path = folder / "large.json"
    with path.open("w") as file:
        file.write("[")
        for number, piece in enumerate(pieces()):
            file.write("," * (number > 0) + piece)
        file.write("]")
    return path


COUNT = """
from pathlib import Path
from server.importing.files import opened
with opened(Path("{path}")) as export:
    print(sum(1 for _ in export.values()))
"""


def peak(path: Path) -> int:
    """The most memory that a process has which reads the file, in bytes."""
    code = COUNT.format(path=path)
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment({}), stdout=subprocess.PIPE
    )
    with process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_maxrss * 1024


def test_a_large_file_needs_little_memory(tmp_path: Path) -> None:
    """json.load takes five times a file's size: a gigabyte of history needs five of memory."""
    small = peak(many(tmp_path, 1))
    assert peak(many(tmp_path, 40)) - small < 20_000_000
