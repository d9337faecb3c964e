"""docs/reliability.md names tests that there are, and what each of them tests can be taken out."""

import ast
import functools
import re
from collections import Counter
from pathlib import Path

import pytest

from tests import take_out
from tests.service import ROOT
from tests.take_out import Edit, Outcome, Protection

DOCUMENT = ROOT / "docs" / "reliability.md"
NAME = re.compile(r"tests/[\w/]+\.py::\w+")
PROTECTIONS = take_out.load()
PROTECTED = {test.partition("[")[0] for one in PROTECTIONS for test in one.tests}


def named() -> set[str]:
    """The tests that the document names."""
    return set(NAME.findall(DOCUMENT.read_text("utf-8")))


@functools.cache
def defined(file: str) -> set[str]:
    """The functions of a file."""
    path = ROOT / file
    tree = ast.parse(path.read_text("utf-8") if path.exists() else "")
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_row_names_a_test() -> None:
    """A row of a table without a test is a claim; only the soak's figures are measured instead."""
    tables = re.findall(r"(?:^\|.*\n)+", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert len(tables) > 10
    figures = [table for table in tables if not table.splitlines()[0].endswith("| test |")]
    assert [table.splitlines()[0] for table in figures] == ["| | SQLite | PostgreSQL |"]
    rows = [row for table in tables if table not in figures for row in table.splitlines()[2:]]
    assert [row for row in rows if not NAME.search(row)] == []


def test_every_named_test_exists() -> None:
    """A test that was renamed, or went, takes its claim along."""
    missing = [
        test
        for test in sorted(named() | PROTECTED | take_out.exceptions().keys())
        if test.partition("::")[2] not in defined(test.partition("::")[0])
    ]
    assert missing == []


def test_every_named_test_has_a_protection() -> None:
    """Or a reason why there can be none, not both."""
    exceptions = take_out.exceptions()
    assert named() - PROTECTED == set(exceptions)
    assert all(len(reason) > 20 for reason in exceptions.values())


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda one: one.name)
def test_a_protection_can_be_taken_out(protection: Protection) -> None:
    """Its text stands once in its file: whoever changes it there changes it in the list as well."""
    assert re.fullmatch(r"[a-z0-9-]+", protection.name)
    assert protection.tests
    for edit in protection.edits:
        text = (ROOT / edit.file).read_text("utf-8")
        assert take_out.take_out(text, edit) != text


def test_names_are_given_once() -> None:
    """They say which one `scripts/take-out` is to try."""
    assert [name for name, n in Counter(one.name for one in PROTECTIONS).items() if n > 1] == []


GUARD = "def passes(n):\n    if n > 2:\n        return False\n    return True\n"
TESTS = """
import guard, pytest

@pytest.fixture
def two():
    assert guard.passes(2)

def test_a(two):
    assert not guard.passes(3)
"""


@pytest.mark.parametrize(
    ("new", "test", "outcome"),
    [
        ("if False:", "test_a", "failed"),
        ("if n > 2.5:", "test_a", "passed"),
        ("if n > 1:", "test_a", "broken"),
        ("if False:", "test_b", "broken"),
        ("if", "test_a", "broken"),
        ("if m > 2:", "test_a", "broken"),
    ],
)
def test_only_a_test_that_fails_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: str, test: str, outcome: Outcome
) -> None:
    """An error before the test begins, or code that is none, says nothing of the protection."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (tmp_path / "guard.py").write_text(GUARD, "utf-8")
    (tmp_path / "test_guard.py").write_text(TESTS, "utf-8")
    protection = Protection("guard", (Edit("guard.py", "if n > 2:", new),), ())
    result = take_out.check(protection, f"test_guard.py::{test}", tmp_path)
    assert result.outcome == outcome, result
    assert (tmp_path / "guard.py").read_text("utf-8") == GUARD
