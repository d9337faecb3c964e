"""Databases on PostgreSQL that a backup is restored into, before anybody may use them."""

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2

from server.backups import digests
from server.backups.manifest import Damaged, Entry, Manifest
from server.backups.postgres_databases import PostgresDatabases
from server.backups.tools import ToolFailed, Tools
from server.migration import target
from server.migration.report import Screen
from server.storage import contract
from server.storage.roles import identifier, literal


@dataclass
class Scratch:
    """The scratch databases of one run; `conn` is to a database that isn't the service's."""

    databases: PostgresDatabases
    conn: target.Connection
    made: list[str] = field(default_factory=list)

    def fill(self, entry: Entry, file: Path, tools: Tools) -> str:
        """Make a database with what the file holds; raises `Damaged` where it isn't that."""
        name = self._make(entry.encoding)
        owner = self.databases.settings.db_user if self.databases.admin_url else ""
        try:
            tools.restore(file, name, owner)
        except ToolFailed as error:
            # A server that went away says nothing of the backup.
            target.value(self.conn, "SELECT 1")
            raise Damaged(f"{entry.name} can't be restored: {error}") from error
        with self.databases.opened(name) as conn:
            if different := digests.differences(entry.tables, digests.of_postgres_now(conn)):
                raise Damaged(f"{entry.name} comes out different: {', '.join(different)}")
        return name

    def _make(self, encoding: str) -> str:
        name = f"{prefix(self.databases.master)}{uuid.uuid4().hex}"
        role = self.databases.settings.db_user
        target.execute(self.conn, "SELECT pg_advisory_lock(hashtext(%s))", (name,))
        self.made.append(name)
        target.execute(
            self.conn,
            f"CREATE DATABASE {identifier(name)} OWNER {identifier(role)} TEMPLATE template0 "
            f"ENCODING {literal(encoding)}",
        )
        return name

    def drop(self) -> None:
        """Remove those that are left."""
        while self.made:
            _drop(self.conn, self.made.pop())


def prefix(master: str) -> str:
    """The start of the names of this master's scratch databases; none can be a project's."""
    return f"clawd_scratch_{hashlib.sha256(master.encode()).hexdigest()[:8]}_"


@contextmanager
def opened(databases: PostgresDatabases) -> Iterator[Scratch]:
    """Room for scratch databases, which are gone afterwards; those of killed runs go first."""
    with databases.elsewhere() as conn:
        _sweep(conn, databases.master)
        scratch = Scratch(databases, conn)
        try:
            yield scratch
        finally:
            scratch.drop()


def _sweep(conn: target.Connection, master: str) -> None:
    """Each run holds a lock of its databases' names, which ends with it."""
    sql = "SELECT datname FROM pg_database WHERE starts_with(datname, %s)"
    for (name,) in target.rows(conn, sql, (prefix(master),)):
        if target.value(conn, "SELECT pg_try_advisory_lock(hashtext(%s))", (name,)):
            _drop(conn, name)


def _drop(conn: target.Connection, name: str) -> None:
    with suppress(contract.DatabaseError, psycopg2.Error):
        target.execute(conn, f"DROP DATABASE IF EXISTS {identifier(name)} WITH (FORCE)")


def check(databases: PostgresDatabases, manifest: Manifest, work: Path, screen: Screen) -> None:
    """Restore one database after the other, each gone before the next."""
    tools = databases.tools()
    with opened(databases) as scratch, screen.bar("databases", len(manifest.databases)) as bar:
        for entry in manifest.databases:
            scratch.fill(entry, work / entry.file, tools)
            scratch.drop()
            bar.advance(bar.task_ids[0])
