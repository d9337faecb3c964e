"""Puts restored databases in the place of the service's on PostgreSQL, and keeps the old ones."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2

import database_postgres
from server.backups.manifest import Entry, Impossible, Manifest
from server.backups.postgres_databases import PostgresDatabases
from server.migration import target
from server.migration.copying import transaction
from server.migration.tables import quote
from server.settings import Settings
from server.storage import contract, migrate, roles
from server.storage.roles import identifier, literal

LONGEST = 63


class Swap:
    """What is in the place of the restored databases, and how they take it over."""

    def __init__(self, databases: PostgresDatabases, conn: target.Connection, time: str) -> None:
        self._databases = databases
        self._conn = conn
        self._suffix = f"_before_{time.lower()}"

    @property
    def _settings(self) -> Settings:
        return self._databases.settings

    def prepare(self, manifest: Manifest) -> None:
        """Raise where the swap could not work: somebody's database, a connection, a right."""
        wanted = [self._settings.db_name, *(entry.name for entry in manifest.projects)]
        old = self._old()
        marked = [name for name, comment in old.items() if comment]
        taken = "SELECT datname FROM pg_database WHERE datname = ANY(%s)"
        for (name,) in target.rows(self._conn, taken, (wanted,)):
            if name not in old:
                raise Impossible(f"database {name} is there and isn't this service's")
        self._check_rights([*marked, self._settings.db_name])
        self._check_unused()

    def _old(self) -> dict[str, str]:
        """This service's databases by name, each with its comment; the master has none."""
        mark = database_postgres.project_mark(None).removesuffix("unknown")
        rows = target.rows(
            self._conn,
            "SELECT datname, coalesce(shobj_description(oid, 'pg_database'), '') "
            "FROM pg_database WHERE datname = %s "
            "OR starts_with(shobj_description(oid, 'pg_database'), %s) ORDER BY datname",
            (self._settings.db_name, mark),
        )
        return dict(rows)

    def _check_rights(self, names: list[str]) -> None:
        foreign = target.rows(
            self._conn,
            "SELECT datname FROM pg_database "
            "WHERE datname = ANY(%s) AND NOT pg_has_role(datdba, 'USAGE')",
            (names,),
        )
        if foreign:
            raise Impossible(
                f"database {foreign[0][0]} belongs to another role: set POSTGRES_ADMIN_URL to a "
                "superuser's, postgresql://postgres:password@localhost"
            )

    def _check_unused(self) -> None:
        names = list(self._old())
        users = target.rows(
            self._conn,
            "SELECT DISTINCT datname FROM pg_stat_activity "
            # Autovacuum has no user, and makes way by itself.
            "WHERE datname = ANY(%s) AND usesysid IS NOT NULL",
            (names,),
        )
        if users:
            raise contract.Busy(f"database {users[0][0]} is in use: stop the service first")

    def make_roles(self) -> None:
        """As a superuser, make the service's roles where they aren't there."""
        if self._databases.admin_url:
            password = self._settings.db_password.get_secret_value()
            target.execute(self._conn, roles.cluster_sql(self._settings.db_user, password))

    def finish(self, entry: Entry, scratch: str, schema: str) -> None:
        """Make a restored database ready; the master's tables get the owner of this set-up."""
        with closing(self._connect(scratch)) as conn:
            if entry.project_id is None:
                self._finish_master(conn, scratch, schema)
            target.execute(conn, "ANALYZE")

    def _finish_master(self, conn: target.Connection, scratch: str, schema: str) -> None:
        role = self._settings.db_user
        if schema not in ("public", role):
            # It has the name of the role that served where the backup was taken.
            target.execute(conn, f"ALTER SCHEMA {quote(schema)} RENAME TO {quote(role)}")
        if self._databases.admin_url:
            with transaction(conn):
                steps = migrate.steps(database_postgres.BACKEND)
                target.execute(conn, roles.master_sql(role, scratch, steps))

    def _connect(self, database: str) -> target.Connection:
        return target.connect(self._settings, database, self._databases.admin_url)

    def swap(self, restored: list[tuple[Entry, str]]) -> dict[str, str]:
        """Rename everything within one transaction; the old names with the new ones."""
        kept: dict[str, str] = {}
        taken = {name for (name,) in target.rows(self._conn, "SELECT datname FROM pg_database")}
        with _somebody_came(), transaction(self._conn):
            for name, comment in self._old().items():
                kept[name] = _fitting(name, self._suffix, taken)
                taken.add(kept[name])
                self._rename(name, kept[name])
                if comment:
                    # Its mark would make it a project's whose row got lost.
                    self._comment(kept[name], f"kept by ./clawd restore; was {comment}")
            for entry, scratch in restored:
                if entry.project_id is None:
                    self._rename(scratch, self._settings.db_name)
                else:
                    self._rename(scratch, entry.name)
                    self._comment(entry.name, database_postgres.project_mark(entry.project_id))
        return kept

    def _rename(self, name: str, to: str) -> None:
        statement = f"ALTER DATABASE {identifier(name)} RENAME TO {identifier(to)}"
        target.execute(self._conn, statement)

    def _comment(self, name: str, text: str) -> None:
        target.execute(self._conn, f"COMMENT ON DATABASE {identifier(name)} IS {literal(text)}")


@contextmanager
def _somebody_came() -> Iterator[None]:
    try:
        yield
    except target.TargetError as error:
        if isinstance(error.__cause__, psycopg2.errors.ObjectInUse):
            raise contract.Busy(f"{error}: stop the service first") from error
        raise


def _fitting(name: str, suffix: str, taken: set[str]) -> str:
    """The name with the suffix, cut where PostgreSQL would cut it, and nobody else's."""
    number, mark = 1, ""
    while (fitted := name[: LONGEST - len(mark + suffix)] + mark + suffix) in taken:
        number += 1
        mark = f"_{number}"
    return fitted
