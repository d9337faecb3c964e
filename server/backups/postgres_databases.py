"""The PostgreSQL databases of the service, as a backup copies them."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path

import database_postgres
from server.backups import digests, tools, wanted
from server.backups.manifest import Impossible
from server.backups.taking import Copied, Master, Unreadable
from server.backups.tools import ToolFailed, Tools
from server.backups.wanted import Wanted
from server.migration import snapshot, target
from server.migration.postgres_source import held
from server.settings import Settings
from server.storage import contract, postgres

# Where one may be that touches no database of the service; every server has them.
_ELSEWHERE = ("postgres", "template1")


class PostgresDatabases:
    """The master and the projects' databases; each is dumped in a snapshot that is digested too.

    With a superuser's URL it acts as that one.
    """

    backend = "postgresql"
    ending = ".dump"
    level = 1

    def __init__(self, settings: Settings, admin_url: str = "") -> None:
        self.settings = settings
        self.admin_url = admin_url
        self.master = settings.db_name
        self.place = (
            postgres.url_place(admin_url, settings)
            if admin_url
            else postgres.settings_place(settings)
        )

    @cached_property
    def version(self) -> int:
        """The server's major version."""
        with self.elsewhere() as conn:
            return int(conn.server_version) // 10_000

    @property
    def server(self) -> str:
        """PostgreSQL's version."""
        return f"PostgreSQL {self.version}"

    def tools(self) -> Tools:
        """The programs that fit the server."""
        return tools.find(self.settings, self.version, self.place)

    @contextmanager
    def opened(self, database: str) -> Iterator[target.Connection]:
        """A connection in autocommit that a deletion may end."""
        with closing(target.connect(self.settings, database, self.admin_url)) as conn:
            target.execute(conn, f"SET application_name = '{database_postgres.BACKUP}'")
            yield conn

    @contextmanager
    def elsewhere(self) -> Iterator[target.Connection]:
        """A connection to a database that isn't the service's."""
        places = [name for name in _ELSEWHERE if name != self.master]
        for name in places:
            try:
                conn = target.connect(self.settings, name, self.admin_url)
            except contract.Misconfigured:
                if name == places[-1]:
                    raise
            else:
                break
        with closing(conn):
            yield conn

    def wanted(self) -> list[Wanted]:
        """What the master says now."""
        with self.opened(self.master) as conn, held(conn, snapshot.MASTER):
            return self._read(conn)

    def _read(self, conn: target.Connection) -> list[Wanted]:
        if not target.value(conn, "SELECT to_regclass('schema_migrations') IS NOT NULL"):
            raise Impossible(f"database {self.master} is no master of this service")
        deleted = target.value(conn, "SELECT to_regclass(%s) IS NOT NULL", (wanted.TABLE,))
        return wanted.find(
            target.rows(conn, wanted.PROJECTS),
            target.rows(conn, wanted.DELETED) if deleted else [],
        )

    def copy_master(self, file: Path) -> Master:
        """Dump the master as it is at one moment."""
        with self.opened(self.master) as conn, held(conn, snapshot.MASTER):
            projects = self._read(conn)
            steps = target.rows(conn, "SELECT name, checksum FROM schema_migrations")
            schema = target.value(
                conn,
                "SELECT relnamespace::regnamespace::text FROM pg_class "
                "WHERE oid = to_regclass('schema_migrations')",
            )
            return Master(self._dump(conn, self.master, file), projects, steps, schema)

    def copy_project(self, project_id: int, name: str, file: Path) -> Copied | None:
        """Dump a project's database; None where there is none that was made for it."""
        if wanted.refusal(name, project_id, self.master):
            raise Unreadable(f"{name} is no name of a project's database")
        if not self._is_its_own(project_id, name):
            return None
        try:
            with self.opened(name) as conn, held(conn, name):
                return self._dump(conn, name, file)
        except (ToolFailed, target.TargetError, contract.Unavailable) as error:
            # Whoever deletes the project ends our connections: that is no defect.
            if self._is_its_own(project_id, name):
                raise Unreadable(f"{name} can't be copied: {error}") from error
            return None

    def _is_its_own(self, project_id: int, name: str) -> bool:
        with self.opened(self.master) as conn:
            comment = target.value(
                conn,
                "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s",
                (name,),
            )
        marks = database_postgres.project_mark(project_id), database_postgres.project_mark(None)
        return comment in marks

    def _dump(self, conn: target.Connection, name: str, file: Path) -> Copied:
        shared = target.value(conn, "SELECT pg_export_snapshot()")
        encoding = target.value(conn, "SELECT getdatabaseencoding()")
        self._tools.dump(name, shared, file)
        return Copied(digests.of_postgres(conn), encoding)

    @cached_property
    def _tools(self) -> Tools:
        return self.tools()
