"""SQL on the master database of a running service, past the service, on both databases."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extras import RealDictCursor

Row = dict[str, Any]


def _bind(value: Any) -> Any:
    """Times in the spelling in which the service itself stores them in SQLite."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(sep=" ", timespec="microseconds")
    return value


class Sql:
    """The databases that a service's settings name; every call has a connection of its own.

    Statements have psycopg2's `%s`. What is written is committed when the call returns.
    """

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.settings = settings
        self.postgres = settings["USE_POSTGRES"] == "true"
        self.master = settings.get("DB_NAME", "dreampilot")

    @property
    def folder(self) -> Path:
        """Where SQLite's project databases lie."""
        return Path(self.settings["DB_PATH"]).parent / "project_databases"

    def rows(self, statement: str, *params: Any) -> list[Row]:
        """Run a statement on the master; its rows."""
        if self.postgres:
            with closing(self._connect()) as conn, conn.cursor() as cursor:
                cursor.execute(statement, params or None)
                return [dict(row) for row in cursor.fetchall()] if cursor.description else []
        with closing(sqlite3.connect(self.settings["DB_PATH"], timeout=20)) as file, file:
            file.row_factory = sqlite3.Row
            file.execute("PRAGMA foreign_keys = ON")
            found = file.execute(statement.replace("%s", "?"), [_bind(value) for value in params])
            return [dict(row) for row in found.fetchall()]

    def value(self, statement: str, *params: Any) -> Any:
        """The first column of the first row."""
        return next(iter(self.rows(statement, *params)[0].values()))

    def insert(self, table: str, **columns: Any) -> int:
        """Add a row with these columns only; its id."""
        names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
        statement = f"INSERT INTO {table} ({names}) VALUES ({marks}) RETURNING id"
        made: int = self.value(statement, *columns.values())
        return made

    def update(self, table: str, row_id: int, **columns: Any) -> None:
        """Change columns of one row."""
        assignments = ", ".join(f"{name} = %s" for name in columns)
        self.rows(f"UPDATE {table} SET {assignments} WHERE id = %s", *columns.values(), row_id)

    def count(self, table: str, **where: Any) -> int:
        """How many rows have these values."""
        conditions = " AND ".join(["1 = 1", *(f"{name} = %s" for name in where)])
        found: int = self.value(f"SELECT count(*) FROM {table} WHERE {conditions}", *where.values())
        return found

    def databases(self) -> set[str]:
        """The names of all databases on the server, or of the projects' files."""
        if self.postgres:
            return {row["datname"] for row in self.rows("SELECT datname FROM pg_database")}
        return {path.name.removesuffix(".sqlite3") for path in self.folder.glob("*.sqlite3")}

    def make_database(self, name: str) -> None:
        """An empty database that the service knows nothing of."""
        if self.postgres:
            with closing(self._connect()) as conn, conn.cursor() as cursor:
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            return
        self.folder.mkdir(exist_ok=True)
        with closing(sqlite3.connect(self.folder / f"{name}.sqlite3")) as file, file:
            file.execute("CREATE TABLE theirs (id INTEGER)")

    def drop_database(self, name: str) -> None:
        """Remove a project's database behind the service's back."""
        if self.postgres:
            with closing(self._connect()) as conn, conn.cursor() as cursor:
                cursor.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
            return
        (self.folder / f"{name}.sqlite3").unlink()

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Be connected to a project's database, in the middle of a transaction."""
        if self.postgres:
            conn = self._connect(name)
            try:
                yield
            finally:
                with suppress(psycopg2.Error):  # a forced drop has cut it
                    conn.close()
            return
        path = self.folder / f"{name}.sqlite3"
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")
            yield

    def _connect(self, database: str | None = None) -> Any:
        conn = psycopg2.connect(
            host=self.settings["DB_HOST"],
            port=self.settings["DB_PORT"],
            dbname=database or self.master,
            user=self.settings["DB_USER"],
            password=self.settings["DB_PASSWORD"],
            cursor_factory=RealDictCursor,
        )
        conn.autocommit = True
        return conn
