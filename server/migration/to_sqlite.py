"""The whole way back, from PostgreSQL to SQLite files: taking, comparing, placing, report."""

import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.migration import postgres_taking, sqlite_files, target
from server.migration.folder import Folder, earlier, new
from server.migration.postgres_build import Differs
from server.migration.postgres_taking import Taken, Taking
from server.migration.report import Exit, Report, Screen, write
from server.migration.snapshot import MASTER, NotAMaster
from server.migration.sqlite_files import ABSENT, EARLIER, EQUAL, STRANGE, Made
from server.migration.to_postgres import Request, Stop
from server.settings import Settings, get_settings
from server.storage import contract

_DONE = {ABSENT: "copied", EARLIER: "made anew", EQUAL: "equal already"}
_FORESEEN = {ABSENT: "would be copied", EARLIER: "would be made anew", EQUAL: "equal already"}
_COMPARED = {ABSENT: "missing", EARLIER: "different", EQUAL: "equal", STRANGE: "different"}


@dataclass
class WayBack:
    """One run, as far as it has come."""

    request: Request
    screen: Screen
    report: Report
    settings: Settings = field(default_factory=get_settings)

    def go(self) -> Report:
        """Do what was asked for; the report has the exit code, whatever happens."""
        started = time.monotonic()
        report = self.report
        try:
            with target.opened(self.settings, self.request.admin_url) as conn, target.Lock(conn):
                self._go(conn)
        except Stop as stop:
            report.exit, report.result = stop.code, stop.result
        except Differs as error:
            report.differences += error.found
            report.exit, report.result = Exit.DIFFERS, "The copy differs; nothing was put in place."
        except target.TargetError as error:
            report.exit, report.result = Exit.UNREACHABLE, f"PostgreSQL refused: {error}"
        except (NotAMaster, contract.DatabaseError, sqlite3.Error, OSError) as error:
            report.exit, report.result = Exit.UNREACHABLE, str(error)
        report.seconds = round(time.monotonic() - started, 3)
        if report.folder:
            write(report, Path(report.folder) / "report.json")
        return report

    @property
    def _reading(self) -> bool:
        return self.request.dry_run or self.request.validate_only

    def _go(self, conn: target.Connection) -> None:
        settings, report = self.settings, self.report
        report.source = f"{settings.db_host}:{settings.db_port}/{settings.db_name}"
        report.target = str(settings.db_path)
        with sqlite_files.locked(settings.db_path.parent):
            before = earlier(self.request.backups, report.source, report.target)
            folder = new(self.request.backups)
            report.folder = str(folder.path)
            folder.write(source=report.source, target=report.target, started=time.time())
            postgres_taking.remove_parts(settings)
            try:
                taking = Taking(settings, self.request, report, self.screen, folder)
                self._bring(conn, taking, before)
            finally:
                postgres_taking.remove_parts(settings)
                if self._reading:
                    folder.remove()
                    report.folder = ""

    def _bring(self, conn: target.Connection, taking: Taking, before: list[Folder]) -> None:
        taken = taking.take(conn)
        made = [each.made for each in taken]
        known = [folder.read().get("fingerprints", {}) for folder in before]
        self.screen.say("Comparing with what is there")
        for each in made:
            sqlite_files.survey(each, [one[each.name] for one in known if each.name in one])
        gone = self._gone(made, known)
        if self.request.validate_only:
            self._compare(taken, gone)
        else:
            self._refuse_strangers(made)
            self._tell(taken, _FORESEEN if self.request.dry_run else _DONE)
        if self.request.dry_run:
            self.report.result = "Nothing stands against it; nothing was written."
            return
        if not self.request.validate_only:
            self._place(made, gone, taking.folder)
        self.report.changed = taking.find_changes(conn, taken)
        if self.report.changed:
            raise Stop(
                Exit.CHANGED,
                "PostgreSQL was written to meanwhile: stop the service and run this again.",
            )
        self.report.result = "Both sides hold the same."

    def _gone(self, made: list[Made], known: list[dict[str, Any]]) -> list[Path]:
        """Files of projects that the source no longer has, as an earlier run put them there."""
        gone = []
        folder = self.settings.project_databases
        for path in sqlite_files.others(folder, {each.name for each in made}):
            earlier_ones = [one[path.stem] for one in known if path.stem in one]
            if sqlite_files.is_earlier(path, earlier_ones):
                gone.append(path)
            else:
                self.report.differences.append(sqlite_files.stranger(path))
        return gone

    def _refuse_strangers(self, made: list[Made]) -> None:
        for each in made:
            if each.state == STRANGE:
                self.report.differences += each.differences
        if self.report.differences:
            raise Stop(
                Exit.OTHERS,
                "The files that are there are neither equal nor an earlier copy that nobody has "
                "changed; nothing was written.",
            )

    def _compare(self, taken: list[Taken], gone: list[Path]) -> None:
        """Say where the files that are there differ from PostgreSQL."""
        for each in taken:
            self.report.differences += each.made.differences
            if each.made.state == ABSENT:
                self.report.problems.append(f"{each.made.final} isn't there")
        self.report.problems += [f"{path} is of a project that is gone" for path in gone]
        self._tell(taken, _COMPARED)
        if self.report.differences or self.report.problems:
            raise Stop(Exit.DIFFERS, "The two sides differ.")

    def _place(self, made: list[Made], gone: list[Path], folder: Folder) -> None:
        """Give the files their names, the master's last; from then on they count as copies."""
        todo = [each for each in made if each.state != EQUAL]
        for path in [*(each.final for each in todo if each.state == EARLIER), *gone]:
            sqlite_files.check_unused(path)
        prints = {each.name: each.fingerprint for each in made}
        folder.write(state="copying", fingerprints=prints)
        for path in (folder.path / "run.json", folder.path):
            sqlite_files.sync(path)
        for path in gone:
            sqlite_files.retire(path, folder.backup)
            self.report.notes.append(f"{path.name} was moved to the backup: its project is gone")
        for each in sorted(todo, key=lambda each: each.name == MASTER):
            sqlite_files.place(each, folder.backup)
        folder.write(state="done", finished=time.time())

    def _tell(self, taken: list[Taken], states: dict[str, str]) -> None:
        for each in taken:
            state = states[each.made.state]
            if each.project is None:
                for name, count in each.rows.items():
                    self.report.tables.append({"name": name, "rows": count, "state": state})
                continue
            self.report.projects.append(
                {
                    "database": each.project.db_name,
                    "rows": sum(each.rows.values()),
                    "state": state,
                    "leftovers": [vars(leftover) for leftover in each.leftovers],
                }
            )
