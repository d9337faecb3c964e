"""Takes everything out of PostgreSQL, for the way back: looked through, copied, proved."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from server.migration import (
    postgres_build,
    postgres_census,
    postgres_source,
    sqlite_files,
    target,
)
from server.migration.census import Finding
from server.migration.folder import Folder
from server.migration.master import deleted_stay
from server.migration.postgres_copy import Found
from server.migration.postgres_schema import FileSchema, Pair, read_postgres_schema
from server.migration.postgres_source import Changes, Moment
from server.migration.project_leftovers import Leftover
from server.migration.projects import Project
from server.migration.report import Exit, Report, Screen
from server.migration.snapshot import MASTER
from server.migration.sqlite_files import PART, Made
from server.migration.to_postgres import Request, Stop
from server.settings import Settings

Progress = Callable[[str, int], None]


@dataclass
class Taken:
    """What was taken of one database; `mark` says at which moment."""

    mark: str
    pairs: tuple[Pair, ...]
    found: Found
    made: Made
    highest: dict[str, int]
    project: Project | None = None
    schema: FileSchema | None = None
    refused: dict[Leftover, str] = field(default_factory=dict)
    leftovers: list[Leftover] = field(default_factory=list)

    @property
    def rows(self) -> dict[str, int]:
        """How many rows each table has."""
        return {
            name: sum(digest.rows for digest in chunks.values())
            for name, chunks in self.found.items()
        }


@dataclass
class Taking:
    """One run's part at PostgreSQL."""

    settings: Settings
    request: Request
    report: Report
    screen: Screen
    folder: Folder
    _marks: dict[str, str] = field(default_factory=dict)
    _rows: int = 0

    def take(self, conn: target.Connection) -> list[Taken]:
        """Make all files beside their places; raises `Stop` where something needs a decision."""
        with postgres_source.held(conn, MASTER) as moment:
            if steps := postgres_source.check_master(moment):
                lacking = ", ".join(step.name for step in steps)
                text = f"PostgreSQL lacks {lacking} of this schema: start the service on it once."
                raise Stop(Exit.DECISIONS, text)
            self.screen.say("Looking for what SQLite could not hold")
            projects = self._examine(moment)
            self.screen.say("Copying")
            with self.screen.bar("rows", self._rows) as bar:
                task = bar.task_ids[0]
                return self._build(
                    moment,
                    projects,
                    lambda name, count: bar.update(task, description=name, advance=count),
                )

    def _examine(self, moment: Moment) -> list[Project]:
        """Look through all databases; the projects that have one."""
        report, options = self.report, self.request.options
        self._look_for_unknown(moment)
        if target.value(moment.conn, "SELECT to_regclass('deleted_projects')"):
            kept = target.value(moment.conn, "SELECT count(*) FROM deleted_projects")
            report.notes += deleted_stay(int(kept))
        if all(found.option for found in report.findings):
            report.findings += self._look_through(moment, postgres_source.master_pairs(moment))
        projects = []
        for project in postgres_source.read_projects(moment):
            if (found := postgres_source.missing(project)) is None:
                projects.append(project)
                report.findings += self._examine_project(project)
            elif options.missing_databases == "skip":
                report.notes.append(f"{found.problem}; its project comes without it")
            else:
                report.findings.append(found)
        if report.findings:
            count = len(report.findings)
            raise Stop(Exit.DECISIONS, f"{count} places need a decision; nothing was written.")
        return projects

    def _look_for_unknown(self, moment: Moment) -> None:
        for found in postgres_census.unknown(moment.conn):
            if found.option and self.request.options.unknown == "keep":
                place = f"{found.table}.{found.column}".rstrip(".")
                self.report.notes.append(f"{place} stays on PostgreSQL: it {found.problem}")
            else:
                self.report.findings.append(found)

    def _look_through(self, moment: Moment, pairs: tuple[Pair, ...]) -> list[Finding]:
        self._marks[moment.name] = moment.mark
        options = self.request.options
        fitting = postgres_census.fitting(pairs, options)
        self._rows += postgres_census.count(moment.conn, fitting)
        return postgres_census.examine(moment.conn, moment.name, fitting, options)

    def _examine_project(self, project: Project) -> list[Finding]:
        with self._held(project) as moment:
            schema = read_postgres_schema(moment.conn)
            if schema.encoding == "SQL_ASCII":
                problem = "has no encoding, so its bytes can't be told to be text"
                return [Finding(project.db_name, "", "", "", problem, "")]
            return self._look_through(moment, schema.pairs)

    def _held(self, project: Project) -> AbstractContextManager[Moment]:
        return postgres_source.project_held(self.settings, self.request.admin_url, project)

    def _build(self, moment: Moment, projects: list[Project], progress: Progress) -> list[Taken]:
        pairs = self._fitting(moment, postgres_source.master_pairs(moment))
        made = self._made(MASTER)
        found = postgres_build.build_master(made.part, moment, pairs, progress)
        highest = postgres_source.highest_ids(moment, pairs)
        taken = [Taken(moment.mark, pairs, found, made, highest)]
        for project in projects:
            with self._held(project) as one:
                taken.append(self._build_project(one, project, progress))
        for each in taken:
            self._settle(each)
        return taken

    def _build_project(self, moment: Moment, project: Project, progress: Progress) -> Taken:
        made = self._made(project.db_name)
        refused: dict[Leftover, str] = {}
        schema = read_postgres_schema(moment.conn)
        if self._marks[moment.name] != moment.mark and (
            findings := self._look_through(moment, schema.pairs)
        ):
            self.report.findings += findings
            raise Stop(Exit.DECISIONS, "Values have come meanwhile that need a decision.")
        pairs = self._fitting(moment, schema.pairs)
        built = postgres_build.build_project(made.part, moment, pairs, refused, progress)
        highest = postgres_source.highest_ids(moment, pairs)
        taken = Taken(moment.mark, pairs, built.found, made, highest, project, schema)
        taken.refused, taken.leftovers = refused, built.leftovers
        self.folder.keep_leftovers(project.db_name, taken.leftovers)
        return taken

    def _fitting(self, moment: Moment, pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        """The tables as they are copied, after what doesn't fit was kept."""
        options = self.request.options
        if options.misfits == "quarantine":
            self.report.changes += postgres_census.take_out(
                moment.conn, moment.name, pairs, self.folder.quarantine
            )
        return postgres_census.fitting(pairs, options)

    def _made(self, name: str) -> Made:
        settings = self.settings
        final = settings.db_path
        if name != MASTER:
            final = settings.project_databases / f"{name}.sqlite3"
        part = final.with_name(final.name + PART)
        if self.request.dry_run or self.request.validate_only:
            part = self.folder.settled / part.name
        return Made(name, part, final)

    def _settle(self, taken: Taken) -> None:
        settled = postgres_build.settle(
            taken.made.part,
            taken.made.name,
            taken.pairs,
            self.request.options,
            self.folder.quarantine,
        )
        self.report.changes += settled.changes
        if taken.project is None:
            postgres_build.use_wal(taken.made.part)

    def find_changes(self, conn: target.Connection, taken: list[Taken]) -> Changes:
        """What has been written to PostgreSQL since, by table, with the first row."""
        changes: Changes = {}
        for each in taken:
            if postgres_source.mark(conn) == each.mark:
                continue
            file = each.made.part if each.made.part.exists() else each.made.final
            if each.project is None:
                with postgres_source.held(conn, MASTER) as moment:
                    changes |= self._changes(moment, each, file)
                continue
            with self._held(each.project) as moment:
                found = self._changes(moment, each, file)
                if read_postgres_schema(moment.conn) != each.schema:
                    found.setdefault("its schema", "which was changed")
            changes |= {f"{each.project.db_name}.{name}": row for name, row in found.items()}
        return changes

    @staticmethod
    def _changes(moment: Moment, taken: Taken, file: Path) -> Changes:
        changes = postgres_source.find_changes(moment, taken.pairs, taken.found, file)
        now = postgres_source.highest_ids(moment, taken.pairs)
        for name, highest in taken.highest.items():
            if now[name] != highest:
                changes.setdefault(name, f"id {now[name]}")
        return changes


def remove_parts(settings: Settings) -> None:
    """Remove what this run, or one that was killed, has left unfinished."""
    sqlite_files.remove_parts(settings.db_path, settings.project_databases)
