"""The README's figures are those that the benchmarks have kept, and each can be measured again."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.table import README, made, results, written
from benchmarks.targets import TARGETS, WITHOUT_ROW, Target
from tests.service import ROOT, environment

MARKS = "<!-- benchmarks -->\n<!-- /benchmarks -->"
TARGET = Target("work", "figure", "file", "ratios.rival", "≥ 1.5 times")


def run(*arguments: str) -> subprocess.Popen[str]:
    """A benchmark's command."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> tuple[int, str]:
    """How it ended, and what it printed."""
    printed, _ = process.communicate()
    return process.returncode, printed


def cells(kept: dict[str, Any]) -> list[list[str]]:
    """The table of these results, without its headings."""
    rows = re.findall(r"^\| (.*) \|$", made(kept), re.MULTILINE)
    return [row.split(" | ") for row in rows][1:]


def test_the_readme_says_what_was_measured() -> None:
    """Nothing that somebody typed, and nothing that has been measured anew since."""
    assert said(run("benchmarks.table", "--check")) == (0, "")


def test_a_figure_that_somebody_typed_is_found(tmp_path: Path) -> None:
    """And is replaced, without a change of anything else."""
    text = written(README.read_text("utf-8"), results())
    document = tmp_path / "README.md"
    document.write_text(text.replace("<!-- /benchmarks -->", "1,000 times\n<!-- /benchmarks -->"))
    status, complaint = said(run("benchmarks.table", str(document), "--check"))
    assert (status, complaint[:17]) == (1, "README.md differs")
    assert said(run("benchmarks.table", str(document))) == (0, "")
    assert document.read_text("utf-8") == text


def test_a_document_without_a_place_for_the_table_is_refused() -> None:
    """Else a table that somebody removed would be up to date for ever."""
    assert written(f"before\n{MARKS}\nafter\n", {}).startswith(
        "before\n<!-- benchmarks -->\n| work"
    )
    with pytest.raises(ValueError, match="no place"):
        written("before\nafter\n", {})


@pytest.mark.parametrize(
    ("sign", "found"),
    [
        ("≥", {1.49: False, 1.5: True, 9: True}),
        ("≤", {1.49: True, 1.5: True, 1.51: False}),
        ("<", {1.49: True, 1.5: False}),
    ],
)
def test_a_figure_that_misses_its_target_is_not_met(sign: str, found: dict[float, bool]) -> None:
    """Neither is one at the wrong side of it, or at a target that must be stayed below."""
    target = Target("work", "figure", "file", "path", f"{sign} 1.5 times")
    assert {value: target.met(value) for value in found} == found


def test_of_several_figures_each_must_keep_to_the_target() -> None:
    """A good one on SQLite must not hide a bad one on PostgreSQL."""
    kept = {"date": "2026-11-21", "cores": 2, "postgresql": "15.18"}
    both = {"PostgreSQL": 95, "SQLite": 80.5}
    [row] = [row for row in cells({"footprint": {**kept, "memory_mb": both}}) if row[1] == "memory"]
    assert row[2:5] == ["PostgreSQL 95 MB, SQLite 80.5 MB", "< 90 MB", "no"]


def test_what_nobody_has_measured_says_so() -> None:
    """An empty table meets nothing."""
    rows = cells({})
    assert len(rows) == len(TARGETS)
    assert {row[2] for row in rows} == {"not measured"}
    assert "yes" not in {row[4] for row in rows}


def test_every_benchmark_has_its_row_or_a_reason() -> None:
    """A new one that is neither in the table nor among those without a row has been forgotten."""
    modules = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    measuring = {target.command.split()[0] for target in TARGETS}
    assert measuring & set(WITHOUT_ROW) == set()
    assert measuring | set(WITHOUT_ROW) == modules


def test_each_command_of_the_table_exists() -> None:
    """And takes the arguments that stand there, each of them."""
    commands = sorted({target.command for target in TARGETS})
    started = [run(*f"benchmarks.{command}".split(), "--help") for command in commands]
    for command, process in zip(commands, started, strict=True):
        status, usage = said(process)
        assert (status, usage[:6]) == (0, "usage:"), f"{command}: {usage}"
        options = re.findall(r"--[a-z]+", command)
        assert all(option in usage for option in options), f"{command}: {usage}"
