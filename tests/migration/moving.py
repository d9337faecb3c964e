"""A source on its way into a target, by the command as a process, or by a call in this process."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection

from server.migration.census import Options
from server.migration.report import Report, Screen
from server.migration.to_postgres import Request, Run
from tests import postgres
from tests.conftest import with_settings, without_settings
from tests.service import ROOT, Json, environment

UTC = ("--assume-timezone", "UTC")


@dataclass(frozen=True)
class Outcome:
    """What the command ended with, and said."""

    code: int
    report: Json
    said: str

    def found(self) -> set[tuple[str, str, str, str]]:
        """The findings: table, row, column and option."""
        return places(self.report["findings"])

    def differences(self) -> set[tuple[str, str, str, str]]:
        """Where the sides differ: database, table, row, column."""
        return {
            (each["database"], each["table"], each["row"], each["column"])
            for each in self.report["differences"]
        }


def places(findings: list[Json]) -> set[tuple[str, str, str, str]]:
    """Findings by table, row, column and option."""
    return {(each["table"], each["row"], each["column"], each["option"]) for each in findings}


@dataclass(frozen=True)
class Move:
    """The settings that name a source and a target, and the server that the target is on."""

    settings: dict[str, str]
    server: postgres.Server

    @property
    def path(self) -> Path:
        """The source's master."""
        return Path(self.settings["DB_PATH"])

    @property
    def backups(self) -> Path:
        """Where the runs keep their folders."""
        return self.path.parent / "backups"

    def file(self, name: str) -> Path:
        """The source's file of a project's database."""
        return self.path.parent / "project_databases" / f"{name}.sqlite3"

    @property
    def on_sqlite(self) -> dict[str, str]:
        """The settings of a service on the source."""
        return {**self.settings, "USE_POSTGRES": "false"}

    def command(self, *options: str) -> Sequence[str]:
        """The command line."""
        place = "--backup-dir", str(self.backups)
        return sys.executable, "migrate_to_postgres.py", "--json", *place, *options

    def start(self, *options: str, **settings: str) -> "subprocess.Popen[bytes]":
        """The command as a process that goes on by itself, its report thrown away."""
        return subprocess.Popen(
            self.command(*options),
            cwd=ROOT,
            env=environment({**self.settings, **settings}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def run(self, *options: str, **settings: str) -> Outcome:
        """The command to its end."""
        done = subprocess.run(
            self.command(*options),
            cwd=ROOT,
            env=environment({**self.settings, **settings}),
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.stdout, done.stderr
        outcome = Outcome(done.returncode, json.loads(done.stdout), done.stderr)
        assert outcome.code == outcome.report["exit"]
        return outcome

    def call(
        self, options: Options | None = None, screen: Screen | None = None, **request: Any
    ) -> Outcome:
        """The same in this process, which costs no start of Python."""
        with_settings(self.settings)
        try:
            wanted = Request(self.backups, options or Options(), **request)
            report = Run(wanted, screen or Screen(quiet=True), Report("")).go()
        finally:
            without_settings()
        return Outcome(report.exit, json.loads(json.dumps(report.as_dict())), "")

    @contextmanager
    def source(self, name: str = "") -> Iterator[sqlite3.Connection]:
        """The source's master, or a project's file, to be spoilt: nothing in it is checked."""
        path = self.file(name) if name else self.path
        with closing(sqlite3.connect(path, isolation_level=None)) as conn:
            conn.execute("PRAGMA ignore_check_constraints = ON")
            conn.execute("PRAGMA writable_schema = ON")
            yield conn

    @contextmanager
    def target(self, name: str = "") -> Iterator[connection]:
        """The target's master, or a project's database there, as its superuser."""
        with closing(self.server.connect(name or self.settings["DB_NAME"])) as conn:
            yield conn

    def ask(self, sql: str, *params: Any, name: str = "") -> list[tuple[Any, ...]]:
        """What the target's master says."""
        with self.target(name) as conn, conn.cursor() as cursor:
            cursor.execute(sql, params or None)
            return cursor.fetchall() if cursor.description else []

    def tables(self) -> set[str]:
        """The tables that the target has."""
        found = self.ask(
            "SELECT tablename FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        return {row[0] for row in found}

    def dump(self, name: str = "") -> str:
        """All that the target has, as pg_dump spells it."""
        tool = self.server.bin_dir / "pg_dump"
        place = f"--host={self.server.host}", f"--port={self.server.port}"
        done = subprocess.run(
            [tool, *place, "--username", self.server.superuser, name or self.settings["DB_NAME"]],
            env={**postgres.ENVIRONMENT, "PGPASSWORD": self.server.password},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return "".join(line for line in done.stdout.splitlines(True) if "restrict" not in line)
