"""The whole way from SQLite to PostgreSQL: snapshot, census, survey, copy, proof, report."""

import sqlite3
import time
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from filecmp import cmp
from pathlib import Path

import database_postgres
from server.migration import (
    compare,
    keys,
    merging,
    projects,
    snapshot,
    source,
    strangers,
    target,
)
from server.migration.census import Finding, Options
from server.migration.compare import Difference, TableResult
from server.migration.copying import Work, apply_plans, copy_chunk, survey
from server.migration.folder import Folder, earlier, new
from server.migration.master import deleted_stay, empty_master, master_tables
from server.migration.projects import Project, ProjectResult
from server.migration.report import Exit, Report, Screen, write
from server.migration.rows import Chunk, Digest
from server.migration.snapshot import MASTER, NotAMaster, Source
from server.migration.tables import Table, quote
from server.settings import Settings, get_settings
from server.storage import contract

# Below it, keeping the indexes costs less than making them anew.
MANY_ROWS = 100_000


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    backups: Path
    options: Options
    admin_url: str = ""
    dry_run: bool = False
    validate_only: bool = False
    merge: bool = False


class Stop(Exception):
    """The end of a run before its end; the report says why."""

    def __init__(self, code: Exit, result: str) -> None:
        super().__init__(result)
        self.code = code
        self.result = result


@dataclass
class Run:
    """One run, as far as it has come."""

    request: Request
    screen: Screen
    report: Report
    settings: Settings = field(default_factory=get_settings)
    # The source's digests, taken on the way, of tables that need none taken again.
    taken: dict[str, dict[Chunk, Digest]] = field(default_factory=dict)

    def go(self) -> Report:
        """Do what was asked for; the report has the exit code, whatever happens."""
        started = time.monotonic()
        try:
            with target.opened(self.settings, self.request.admin_url) as conn, target.Lock(conn):
                self._go(conn)
        except Stop as stop:
            self.report.exit, self.report.result = stop.code, stop.result
        except NotAMaster as error:
            self.report.exit, self.report.result = Exit.UNREACHABLE, str(error)
        except target.TargetError as error:
            self.report.exit, self.report.result = Exit.DIFFERS, f"PostgreSQL refused: {error}"
        except contract.DatabaseError as error:
            self.report.exit, self.report.result = Exit.UNREACHABLE, str(error)
        except (sqlite3.Error, OSError) as error:
            # The disk is full, or a file is damaged where nobody had looked.
            self.report.exit, self.report.result = Exit.UNREACHABLE, f"a file: {error}"
        self.report.seconds = round(time.monotonic() - started, 3)
        self._keep_report()
        return self.report

    def _keep_report(self) -> None:
        if not self.report.folder:
            return
        folder = Folder(Path(self.report.folder))
        if folder.read().get("state") not in ("copying", "done"):
            # Nothing was written, so nobody needs a backup; a large one for each attempt.
            folder.remove_databases()
        write(self.report, folder.path / "report.json")

    def _go(self, conn: target.Connection) -> None:
        found = Source(self.settings.db_path, self.settings.project_databases)
        with self.report.timed("snapshot"):
            folder, resumed = self._snapshot(found)
        try:
            self._migrate(conn, found, folder)
        finally:
            if self.request.dry_run or self.request.validate_only:
                folder.remove()
                self.report.folder = ""
        if resumed:
            self.report.notes.append("went on with the snapshot of a run that had not ended")

    def _snapshot(self, found: Source) -> tuple[Folder, bool]:
        place = f"{self.settings.db_host}:{self.settings.db_port}/{self.settings.db_name}"
        self.report.source, self.report.target = str(found.master), place
        if not found.master.is_file():
            raise NotAMaster(f"{found.master} isn't there; DB_PATH names the source")
        before = earlier(self.request.backups, self.report.source, place)
        self.bases = before
        reading = self.request.dry_run or self.request.validate_only
        wanted = ("copying", self._choices())
        if before and not reading and _state(before[0]) == wanted:
            self.report.folder = str(before[0].path)
            return before[0], True
        folder = new(self.request.backups)
        self.report.folder = str(folder.path)
        folder.write(
            source=self.report.source,
            target=place,
            started=time.time(),
            options=self._choices(),
            state="snapshot",
        )
        self.screen.say(f"Taking a snapshot of {found.master}")
        with self.screen.bar("pages", 0) as bar:
            task = bar.task_ids[0]
            snapshot.take(
                found,
                folder,
                lambda name, done, total: bar.update(
                    task, description=name, completed=done, total=total
                ),
            )
        return folder, False

    def _choices(self) -> str:
        """What a run that goes on with another's snapshot must have been asked for as well."""
        return repr((self.request.options, self.request.merge))

    def _migrate(self, conn: target.Connection, found: Source, folder: Folder) -> None:
        state = folder.read()
        if state["state"] == "snapshot":
            with self.report.timed("census"):
                self._settle(folder)
        else:
            self.report.changes = [Finding(**change) for change in state["changes"]]
            self.report.respelt, self.report.notes = state["respelt"], state["told"]
        active = [
            project
            for project in snapshot.read_projects(folder.database(MASTER))
            if folder.database(project.db_name).exists()
        ]
        if self.request.merge:
            self._merge(conn, folder)
        elif self.request.dry_run:
            self._foresee(conn, folder, active)
        else:
            if not self.request.validate_only:
                with self.report.timed("copy"):
                    self._copy(conn, folder, active)
            with self.report.timed("proof"):
                self._prove(conn, folder, active)
        if self.request.dry_run:
            return
        self.report.changed = snapshot.find_changes(found, folder)
        if self.report.changed:
            raise Stop(
                Exit.CHANGED,
                "The source was written to after the snapshot: stop the service and run this "
                "again, it copies only what has changed since.",
            )
        self.report.result = "Both sides hold the same."

    def _settle(self, folder: Folder) -> None:
        """Look for what has no counterpart; settle it as the options say, or end here."""
        self.screen.say("Looking for what PostgreSQL could not hold")
        try:
            steps = snapshot.bring_up_to_date(folder)
        except contract.Misconfigured as error:
            raise Stop(Exit.DECISIONS, str(error)) from error
        if steps:
            self.report.notes.append(f"brought up to date on a copy: {', '.join(steps)}")
        with source.opened(folder.database(MASTER)) as conn:
            (kept,) = conn.execute("SELECT count(*) FROM deleted_projects").fetchone()
        self.report.notes += deleted_stay(kept)
        active = snapshot.read_projects(folder.database(MASTER))
        options = self.request.options
        self.report.findings, odd = snapshot.examine(folder, active, options)
        if self.report.findings:
            count = len(self.report.findings)
            raise Stop(Exit.DECISIONS, f"{count} places need a decision; nothing was written.")
        settled = snapshot.settle(folder, odd, options)
        self.report.changes, self.report.findings = settled.changes, settled.findings
        self.report.respelt = dict(settled.respelt)
        if settled.findings:
            raise Stop(
                Exit.DECISIONS,
                f"What was settled leaves {len(settled.findings)} places that need a decision; "
                "nothing was written.",
            )
        if options.unknown == "keep":
            self._keep_unknown(folder)
        # For the report of a run that goes on where this one was killed.
        folder.write(
            changes=[asdict(change) for change in self.report.changes],
            respelt=self.report.respelt,
            told=self.report.notes,
        )

    def _keep_unknown(self, folder: Folder) -> None:
        for finding in snapshot.unknown(folder):
            place = f"{finding.table}.{finding.column}".rstrip(".")
            self.report.notes.append(f"{place} stays in the backup: it {finding.problem}")

    def _survey(
        self, conn: target.Connection, folder: Folder, active: list[Project]
    ) -> tuple[list[Work], list[ProjectResult]]:
        """What is there already, and what a stranger has put there."""
        tables = [table for table in master_tables() if self._exists(conn, table)]
        with ExitStack() as stack:
            conn_source = stack.enter_context(source.opened(folder.database(MASTER)))
            bases = [stack.enter_context(closing(empty_master()))]
            finished = []
            unused = strangers.is_unused(conn, tables)
            for before in self.bases:
                path = before.database(MASTER)
                if before.path != folder.path and path.exists():
                    bases.append(stack.enter_context(source.opened(path)))
                    if not unused and before.read()["state"] == "done":
                        finished.append(bases[-1])
            total = _count(conn_source, tables)
            with self.screen.bar("comparing", total) as bar:
                task = bar.task_ids[0]
                works = [
                    survey(
                        table,
                        conn_source,
                        conn,
                        bases,
                        finished,
                        lambda name, count: bar.update(task, description=name, advance=count),
                    )
                    for table in tables
                ]
        results = [
            projects.survey(
                project,
                folder.database(project.db_name),
                [before.database(project.db_name) for before in self.bases],
            )
            for project in active
        ]
        return works, results

    @staticmethod
    def _exists(conn: target.Connection, table: Table) -> bool:
        return bool(target.value(conn, "SELECT to_regclass(%s)", (table.name,)))

    def _refuse_strangers(self, works: list[Work], results: list[ProjectResult]) -> None:
        found: list[Difference] = [d for work in works for d in work.strangers]
        found += [d for result in results for d in result.strangers]
        if found:
            self.report.differences = found
            raise Stop(
                Exit.OTHERS,
                f"The target holds {len(found)} rows or databases that are not this "
                "source's; nothing was written.",
            )

    def _refuse_strange_tables(self, conn: target.Connection) -> None:
        if found := strangers.find_strangers(conn, master_tables()):
            self.report.differences = found
            raise Stop(
                Exit.OTHERS,
                "The target has tables that are not this service's; nothing was written.",
            )

    def _foresee(self, conn: target.Connection, folder: Folder, active: list[Project]) -> None:
        self._refuse_strange_tables(conn)
        works, results = self._survey(conn, folder, active)
        self._refuse_strangers(works, results)
        with source.opened(folder.database(MASTER)) as held:
            for table in master_tables():
                work = next((work for work in works if work.table == table), None)
                state = "equal already" if work and work.idle else "would be copied"
                self._tell_table(table.name, _count(held, [table]), state)
        for result in results:
            action = {"copy": "would be made", "replace": "would be made anew"}
            state = action.get(result.action, "equal already")
            self._tell_project(result, folder, state)
        self.report.result = "Nothing stands against it; nothing was written."

    def _merge(self, conn: target.Connection, folder: Folder) -> None:
        """Bring the source home into a target that is in use."""
        if not self.request.dry_run:
            self._make_tables()
        tables = master_tables()
        if folder.read()["state"] == "snapshot":
            merge = merging.prepare(folder, conn, tables)
            folder.write(ids=merge.ids, notes=merge.notes, kept=merge.kept)
        state = folder.read()
        self.report.ids, notes = state["ids"], state["notes"]
        self.report.notes += notes
        new = self._new_projects(folder)
        with source.opened(folder.database(MASTER)) as held:
            if self.request.dry_run:
                for table in tables:
                    self._tell_table(table.name, _count(held, [table]), "would be added")
                self.report.result = "Nothing stands against it; nothing was written."
                return
            folder.write(state="copying")
            added = merging.insert_missing(held, conn, tables)
            highest = source.highest_ids(held, tables)
            for table in tables:
                if table.numbered and target.has_sequence(conn, table):
                    target.raise_sequence(conn, table, highest[table.name])
            self._copy_projects(
                folder, [projects.survey(one, folder.database(one.db_name), []) for one in new]
            )
            for table in tables:
                count, differences = merging.prove(held, conn, table)
                self.report.differences += differences
                self._tell_table(table.name, count, f"{added[table.name]} added, all there")
        if self.report.differences:
            raise Stop(Exit.DIFFERS, "The target has some of the rows otherwise.")
        folder.write(state="done", finished=time.time())

    def _new_projects(self, folder: Folder) -> list[Project]:
        """The projects to make; one that both sides have must have the same database on both."""
        for ours, theirs in folder.read()["kept"].items():
            path = folder.database(ours)
            there = path.exists() and database_postgres.project_database_exists(theirs)
            # One that nobody has written to since it was copied has nothing to bring home.
            if there and not self._is_as_copied(folder, ours):
                self.report.differences += projects.verify(Project(0, "", theirs), path)
        if self.report.differences:
            raise Stop(
                Exit.OTHERS,
                "A project's database has been changed on both sides; nothing was written.",
            )
        new = snapshot.read_projects(folder.database(MASTER))
        return [project for project in new if folder.database(project.db_name).exists()]

    def _is_as_copied(self, folder: Folder, name: str) -> bool:
        """Whether the file is, byte for byte, what an earlier run has copied."""
        ours = folder.backup / f"{name}.sqlite3"
        earlier = [before.backup / ours.name for before in self.bases if before.path != folder.path]
        return any(path.exists() and cmp(path, ours, shallow=False) for path in earlier)

    def _tell_table(self, name: str, count: int, state: str) -> None:
        self.report.tables.append({"name": name, "rows": count, "state": state})

    def _tell_project(self, result: ProjectResult, folder: Folder, state: str) -> None:
        with source.opened(folder.database(result.project.db_name)) as conn:
            count = _count(conn, snapshot.tables_of(folder, result.project.db_name))
        self.report.projects.append(
            {
                "database": result.project.db_name,
                "rows": count,
                "state": state,
                "leftovers": [vars(leftover) for leftover in result.leftovers],
            }
        )

    def _copy(self, conn: target.Connection, folder: Folder, active: list[Project]) -> None:
        self._refuse_strange_tables(conn)
        works, results = self._survey(conn, folder, active)
        self._refuse_strangers(works, results)
        self._make_tables()
        if len(works) < len(master_tables()):
            works, _ = self._survey(conn, folder, [])
        folder.write(state="copying")
        with source.opened(folder.database(MASTER)) as held:
            self._copy_tables(conn, held, works)
            highest = source.highest_ids(held, [work.table for work in works])
        for work in works:
            if work.table.numbered and target.has_sequence(conn, work.table):
                target.raise_sequence(conn, work.table, highest[work.table.name])
        self._copy_projects(folder, results)

    def _make_tables(self) -> None:
        if self.request.admin_url:
            database_postgres.set_up_master(self.request.admin_url)
        else:
            database_postgres.update_schema()

    def _copy_tables(
        self, conn: target.Connection, held: sqlite3.Connection, works: list[Work]
    ) -> None:
        bulk = [work for work in works if work.bulk]
        total = _count(held, [work.table for work in bulk])
        tables = [work.table for work in works]
        aside = keys.is_unfinished(conn)
        if total > MANY_ROWS and not aside and all(target.owns(conn, table) for table in tables):
            keys.set_aside(conn, tables)
        apply_plans(works, conn)
        with self.screen.bar("rows", total) as bar:
            task = bar.task_ids[0]
            for work in bulk:
                for chunk in work.bulk:
                    work.digests[chunk] = copy_chunk(
                        chunk,
                        held,
                        conn,
                        lambda name, count: bar.update(task, description=name, advance=count),
                    )
        self.taken = {work.table.name: work.digests for work in works if not work.plans}
        self.screen.say("Making indexes and foreign keys")
        keys.bring_back(conn)
        for table in tables:
            if target.owns(conn, table):
                target.execute(conn, f"ANALYZE {table.name}")

    def _copy_projects(self, folder: Folder, results: list[ProjectResult]) -> None:
        with self.screen.bar("projects' databases", len(results)) as bar:
            for result in results:
                name = result.project.db_name
                if result.action != "equal":
                    projects.copy(result, folder.database(name), lambda name, count: None)
                    folder.keep_leftovers(name, result.leftovers)
                state = {"copy": "copied", "replace": "made anew", "equal": "equal already"}
                self._tell_project(result, folder, state[result.action])
                bar.advance(bar.task_ids[0])
        # What a run that was killed has left half made.
        database_postgres.sweep_project_databases()

    def _prove(self, conn: target.Connection, folder: Folder, active: list[Project]) -> None:
        """Compare everything with what PostgreSQL holds now."""
        self.screen.say("Comparing both sides")
        with source.opened(folder.database(MASTER)) as held:
            for table in master_tables():
                result = self._prove_table(conn, held, table)
                self.report.differences += result.differences
                self.report.problems += result.problems
                state = "equal" if result.equal else "different"
                self._tell_table(table.name, result.rows, state)
        if self.request.validate_only:
            self._prove_projects(folder, active)
        if self.report.differences or self.report.problems:
            raise Stop(Exit.DIFFERS, "The two sides differ.")
        if not self.request.validate_only:
            folder.write(state="done", finished=time.time())

    def _prove_table(
        self,
        conn: target.Connection,
        held: sqlite3.Connection,
        table: Table,
    ) -> TableResult:
        if not self._exists(conn, table):
            result = TableResult(MASTER, table.name, 0, 0)
            result.problems.append(f"{table.name} isn't there")
            return result
        known = self.taken.get(table.name, {})
        result = compare.compare_table(MASTER, held, conn, table, known)
        result.problems += [
            f"{table.name}: {problem}"
            for problem in [*compare.orphans(conn, table), *_missing_keys(conn, table)]
        ]
        result.problems += _sequence_problems(conn, table, source.highest_ids(held, [table]))
        return result

    def _prove_projects(self, folder: Folder, active: list[Project]) -> None:
        for project in active:
            result = ProjectResult(project)
            if database_postgres.made_project_database(project.db_name, project.id):
                found = projects.verify(project, folder.database(project.db_name))
                self.report.differences += found
            else:
                found = []
                self.report.problems.append(f"{project.db_name} isn't there, or not this project's")
            self._tell_project(result, folder, "different" if found else "equal")


def _state(folder: Folder) -> tuple[str, str]:
    state = folder.read()
    return state["state"], state["options"]


def _missing_keys(conn: target.Connection, table: Table) -> list[str]:
    return [
        f"the foreign key of {', '.join(key.columns)} is missing"
        for key in compare.missing_keys(conn, table)
    ]


def _sequence_problems(conn: target.Connection, table: Table, highest: dict[str, int]) -> list[str]:
    if not (table.numbered and target.has_sequence(conn, table)):
        return []
    following, given = target.next_id(conn, table), highest[table.name]
    if following > given:
        return []
    return [f"{table.name}: the next id is {following}, and {given} was given away"]


def _count(conn: sqlite3.Connection, tables: list[Table]) -> int:
    counts = (
        conn.execute(f"SELECT count(*) FROM {quote(table.name)}").fetchone() for table in tables
    )
    return sum(int(row[0]) for row in counts)
