"""What a run has found and done: for people on the terminal, for scripts as JSON."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from server.migration.census import Finding
from server.migration.compare import Difference

SHOWN = 20


class Exit(IntEnum):
    """The exit codes, as docs/migration.md lists them."""

    GOOD = 0
    DIFFERS = 1
    UNREACHABLE = 2
    DECISIONS = 3
    OTHERS = 4
    CHANGED = 5


@dataclass
class Report:
    """Everything that `--json` prints, and `report.json` keeps."""

    command: str
    source: str = ""
    target: str = ""
    folder: str = ""
    exit: int = Exit.GOOD
    result: str = ""
    seconds: float = 0
    phases: dict[str, float] = field(default_factory=dict)
    tables: list[dict[str, Any]] = field(default_factory=list)
    projects: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    changes: list[Finding] = field(default_factory=list)
    respelt: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)
    ids: dict[str, dict[str, int]] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds that the block takes to a phase of the run."""
        started = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - started
            self.phases[phase] = round(self.phases.get(phase, 0) + took, 3)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Screen:
    """Says on the terminal what happens; on stderr, since stdout is the result's."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, markup=False)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Progress]:
        """A progress bar with the rows so far, rows a second and the time left."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(),
            TimeRemainingColumn(),
        )
        live = self._console.is_terminal
        with Progress(*columns, console=self._console, disable=not live) as progress:
            progress.add_task(what, total=total)
            yield progress


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


def show(report: Report, screen: Screen) -> None:
    """The report for people: what there is, what is odd, what to do."""
    for line in lines(report):
        screen.say(line)


def lines(report: Report) -> Iterator[str]:
    """The same, line by line."""
    yield from _of_findings("Not settled:", report.findings)
    yield from _of_findings("Settled on the copy:", report.changes)
    for place, count in report.respelt.items():
        yield f"  {place}: {count} values spelt anew, with the same meaning"
    for table in report.tables:
        yield f"  {table['name']}: {table['rows']} rows, {table['state']}"
    for project in report.projects:
        yield f"  {project['database']}: {project['rows']} rows, {project['state']}"
        for leftover in project["leftovers"]:
            yield f"    left over: {leftover['kind']} {leftover['name']}: {leftover['reason']}"
    yield from _some("Differences:", [str(difference) for difference in report.differences])
    yield from _some("Problems:", report.problems)
    yield from _some("Notes:", report.notes)
    if report.changed:
        yield "Changed in the source since the snapshot was taken:"
        yield from (f"  {name}, first at {row}" for name, row in report.changed.items())
    for name, ids in report.ids.items():
        yield f"  {name}: {len(ids)} rows got new ids; report.json has which"
    if report.folder:
        yield f"Backup and report: {report.folder}"
    yield f"{report.result} ({report.seconds:.1f} s)"


def _some(title: str, texts: list[str]) -> Iterator[str]:
    if texts:
        yield title
        yield from (f"  {text}" for text in texts[:SHOWN])
        if len(texts) > SHOWN:
            yield f"  and {len(texts) - SHOWN} more; report.json has all"


def _of_findings(title: str, findings: list[Finding]) -> Iterator[str]:
    """All kinds of findings, the first rows of each."""
    if not findings:
        return
    yield title
    kinds: Counter[tuple[str, str, str, str]] = Counter()
    for finding in findings:
        kind = (finding.database, finding.table, finding.column, finding.option)
        kinds[kind] += 1
        if kinds[kind] <= SHOWN:
            place = f"{finding.database}: {finding.table} {finding.row}, {finding.column}"
            option = f"  ({finding.option})" if finding.option else ""
            yield f"  {place} {finding.problem}{option}"
    for (database, table, column, _), count in kinds.items():
        if count > SHOWN:
            yield f"  and {count - SHOWN} more in {database}: {table} {column}; report.json has all"


def write(report: Report, path: Path) -> None:
    """Keep the report beside the backup."""
    path.write_text(
        json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n",
        "utf-8",
        "surrogateescape",
    )
