"""Takes each protection out of a copy of the code, and sees its tests fail: `scripts/take-out`."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from tests.service import ROOT
from tests.test_commands import copy_tree

FILE = ROOT / "tests" / "protections.toml"
FAILED = re.compile(r"^FAILED (\S+?)(?:\[.*?\])?(?: - (.*))?$", re.MULTILINE)
# failed: the protection is what the test tests. passed: it isn't. broken: no word about either.
Outcome = Literal["failed", "passed", "broken"]


@dataclass(frozen=True)
class Edit:
    """A text that stands once in a file, and what stands there without the protection."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Protection:
    """Edits that together take one protection out, and the tests that must fail then."""

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """How one test ended without the protection."""

    outcome: Outcome
    reason: str


def load() -> list[Protection]:
    """The protections of tests/protections.toml."""
    return [_protection(entry) for entry in _read()["protection"]]


def exceptions() -> dict[str, str]:
    """Tests that nothing can be taken out for, each with the reason."""
    without: dict[str, str] = _read()["without"]
    return without


def _read() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text("utf-8"))


def _protection(entry: dict[str, Any]) -> Protection:
    edits = [entry, *entry.get("also", [])]
    return Protection(
        entry["name"],
        tuple(Edit(edit["file"], edit["old"], edit["new"]) for edit in edits),
        tuple(entry["tests"]),
    )


def take_out(text: str, edit: Edit) -> str:
    """The file's text without the protection."""
    if text.count(edit.old) != 1:
        raise ValueError(f"{edit.file}: {text.count(edit.old)} times in it, not once: {edit.old!r}")
    return text.replace(edit.old, edit.new)


@contextmanager
def without(protection: Protection, tree: Path) -> Iterator[None]:
    """The copy has no such protection meanwhile."""
    before = {tree / edit.file: (tree / edit.file).read_text("utf-8") for edit in protection.edits}
    try:
        for edit in protection.edits:
            path = tree / edit.file
            path.write_text(take_out(path.read_text("utf-8"), edit), "utf-8")
        yield
    finally:
        for path, text in before.items():
            path.write_text(text, "utf-8")


def check(protection: Protection, test: str, tree: Path) -> Result:
    """Run a test without its protection."""
    with without(protection, tree):
        if flaw := _find_flaw(protection, tree):
            return Result("broken", flaw)
        return _run(test, tree)


def _find_flaw(protection: Protection, tree: Path) -> str:
    """What makes the code no Python: whatever fails then says nothing about the protection."""
    files = [edit.file for edit in protection.edits if edit.file.endswith(".py")]
    if not files:
        return ""
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--quiet"]
    done = subprocess.run(
        [*ruff, "--select", "E9,F821", "--output-format", "concise", *files],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.partition("\n")[0] if done.returncode else ""


def _run(test: str, tree: Path) -> Result:
    """Only a test that began, and then failed, has failed: an error at its set-up is none."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", "-q", "-rfE"]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*command, "--tb=no", "--no-header", test],
        cwd=tree,
        env={**kept, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return Result("passed", "it passes without the protection")
    for name, reason in FAILED.findall(done.stdout):
        if name == test.partition("[")[0]:
            return Result("failed", reason)
    said = (done.stdout + done.stderr).strip().splitlines()
    return Result("broken", next((line for line in said if "rror" in line), *said[-1:]))


def main() -> None:
    """Go through the protections; the exit status is 1 unless each of their tests fails."""
    parser = argparse.ArgumentParser(prog="scripts/take-out", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a protection; none: all")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    options = parser.parse_args()
    protections = [one for one in load() if not options.names or one.name in options.names]
    if unknown := set(options.names) - {one.name for one in protections}:
        parser.error(f"no such protection: {', '.join(sorted(unknown))}")
    sys.exit(_report(_check_all(protections, options.jobs)))


Checked = tuple[Protection, str, Result, float]


def _check_all(protections: Sequence[Protection], jobs: int) -> Iterator[Checked]:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as threads:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            trees.put(_make_tree(Path(folder, str(number))))

        def check_one(work: tuple[Protection, str]) -> Checked:
            tree, started = trees.get(), time.monotonic()
            try:
                result = check(*work, tree)
            finally:
                trees.put(tree)
            return *work, result, time.monotonic() - started

        yield from threads.map(
            check_one, ((one, test) for one in protections for test in one.tests)
        )


def _make_tree(folder: Path) -> Path:
    """A copy in a repository of its own, as some tests ask git which files there are."""
    tree = copy_tree(folder)
    subprocess.run(["git", "init", "--quiet"], cwd=tree, check=True)
    return tree


def _report(checked: Iterator[Checked]) -> int:
    print("| protection | test | without it | seconds | |\n|---|---|---|---|---|")
    wrong = total = 0
    for protection, test, result, seconds in checked:
        total += 1
        wrong += result.outcome != "failed"
        word = result.outcome if result.outcome == "failed" else result.outcome.upper()
        reason = result.reason.replace("|", "/")[:100]
        print(f"| {protection.name} | {test} | {word} | {seconds:.1f} | {reason} |", flush=True)
    print(f"\n{total - wrong} of {total} failed, as they must.")
    return 1 if wrong else 0


if __name__ == "__main__":
    main()
