"""What a database must do for the service: `database_postgres` and `database` both do it."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, TypedDict

Row = dict[str, Any]
Params = Sequence[Any] | Mapping[str, Any]


ROLLED_BACK = "a failed statement had ended the transaction: nothing was stored"
PEEK_SECONDS = 3.0
LARGEST = 5
# A time in a JSON text, as RFC 3339 has it, in UTC; SQL's own spelling of it isn't the same.
JSON_TIME = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


class Planned(str):
    """SQL that runs so often that the database should plan it only once."""

    __slots__ = ()


class DatabaseError(Exception):
    """The database could not do what was asked."""


class Unavailable(DatabaseError):
    """The database is away, is starting, hangs or cut the connection."""


class OutcomeUnknown(Unavailable):
    """The connection broke during COMMIT: the change may or may not have been made."""


class Busy(DatabaseError):
    """The database is there but could not serve in time: no free connection, or a lock."""


class Locked(Busy):
    """Another one holds the lock of a project's database."""


class StorageFull(DatabaseError):
    """The disk under the database is full; nothing was changed."""


class ReadOnly(DatabaseError):
    """The database can be read but not written."""


class Conflict(DatabaseError):
    """A unique or foreign key refused the change."""


class BadValue(DatabaseError):
    """A value that the database can't take, such as a number out of range."""


class Misconfigured(DatabaseError):
    """The database will never work with these settings; the message says how to mend them."""


class DatabaseExists(DatabaseError):
    """A database of that name is already on the server."""


class TemplateFailed(DatabaseError):
    """The project type's SQL could not be applied; no database was left behind."""


class Cursor(Protocol):
    """The part of the DB API 2.0 cursor (PEP 249) that both databases share; rows are dicts."""

    @property
    def rowcount(self) -> int: ...
    def execute(self, sql: str, params: Params = ..., /) -> object: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __enter__(self) -> "Cursor": ...
    def __exit__(self, *exc_info: object) -> None: ...


class Connection(Protocol):
    """A connection inside `get_db()` or `read_db()`."""

    def cursor(self) -> Any: ...


class ConnectionStatus(TypedDict, total=False):
    """What `test_connection` finds; `reason` only when `status` is "error"."""

    status: str
    version: str
    host: str
    port: int
    database: str
    reason: str


class DeletionResult(TypedDict, total=False):
    """What `delete_project_database` did; `error` only when `success` is false."""

    success: bool
    database: str
    error: str
    warning: str


class ProjectDatabase(TypedDict):
    """A project's database as it is now: its name, bytes on disk and tables."""

    name: str
    backend: str
    size_bytes: int
    tables: list[str]


class FoundDatabase(TypedDict):
    """A database that is a project's or looks like one; `project_id` where its mark names one."""

    name: str
    marked: bool
    project_id: int | None
    valid: bool
    half_made: bool


class DatabaseSizes(TypedDict):
    """Bytes on disk of the master and of all projects' databases, and how many these are.

    `largest` has the names and bytes of the largest projects' databases, the largest first.
    """

    master: int
    projects: int
    number: int
    largest: list[tuple[str, int]]


Guard = Literal["rights", "template", "open"]
"""What keeps PostgreSQL from dropping the master: that our role isn't its owner, that it is marked
as a template, or nothing but that our own connections are open to it."""


class AppliedStep(TypedDict):
    """A step of schema/ that a master has, with the digest of its text and the time."""

    name: str
    checksum: str
    applied_at: str


class Database(Protocol):
    """The functions of a database module.

    SQL is written once, in psycopg2's style (`%s`, `%(name)s`, `%%`), in the dialect that
    PostgreSQL 15 and SQLite 3.35 share. Every function raises only `DatabaseError` for trouble
    with the database itself.
    """

    BACKEND: str

    def get_db(self) -> AbstractContextManager[Connection]:
        """A transaction: committed at the end of the block, rolled back when it raises."""
        ...

    def read_db(self) -> AbstractContextManager[Connection]:
        """A connection for reading, one round trip a statement, without a transaction."""
        ...

    def change_db(self) -> AbstractContextManager[Connection]:
        """A connection for one statement that is a transaction by itself: one round trip."""
        ...

    def peek_db(self, patience: float = PEEK_SECONDS) -> AbstractContextManager[Connection]:
        """A connection beside the pool that can only read, for those who look at the service.

        Nothing is made, not even a file that is missing. On PostgreSQL each statement may take
        `patience` seconds.
        """
        ...

    def applied_steps(self) -> list[AppliedStep]:
        """The steps that the master has, in their order; [] where there are none. Only reads."""
        ...

    def transaction_lock(self, conn: Connection, name: str) -> None:
        """Hold the lock `name` until the transaction of `conn` ends; others wait for it."""
        ...

    def init_schema(self) -> None:
        """Bring the master database to this code's schema; safe from many processes at once.

        Raises `Misconfigured` for a database that is newer than this code or was edited.
        """
        ...

    def is_production(self) -> bool:
        """Whether production has marked the master as its own; changes nothing in it."""
        ...

    def ping(self) -> None:
        """Ask the master database for a sign of life within a second; raises if there is none."""
        ...

    def pool_stats(self) -> dict[str, int]:
        """The pool's numbers: `size`, `in_use`, `idle`, `waiting`, `max`."""
        ...

    def test_connection(self) -> ConnectionStatus:
        """Connect afresh; says what was found; never raises."""
        ...

    def close_pool(self) -> None:
        """Close every connection; the next use opens new ones."""
        ...

    def is_master_database(self, db_name: str) -> bool:
        """Whether the name is a master or maintenance database's, in any spelling."""
        ...

    def validate_project_database_deletion(
        self, project_name: str, db_name: str
    ) -> tuple[bool, str]:
        """Whether the guard lets `db_name` be dropped for the project, with the reason."""
        ...

    def lock_project_database(self, db_name: str) -> AbstractContextManager[None]:
        """Keep all other processes from creating or dropping the database meanwhile.

        Raises `Locked` at once when another one is at it. A process that dies lets go.
        """
        ...

    def create_project_database(
        self, project_name: str, template_sql: str = "", project_id: int | None = None
    ) -> str:
        """Make `{name}_db` with the template's tables in it, all or nothing; returns its name.

        Without an id it belongs to the project whose row names the database, if there is one.
        Raises `names.Refused` for a protected name, `DatabaseExists`, `TemplateFailed`, and
        `Misconfigured` where the service may not make any: then there is no database of the
        project. After any other error there may be one.
        """
        ...

    def drop_project_database(self, db_name: str, project_id: int | None, force: bool) -> bool:
        """Drop the database of the project; False when there was none.

        Raises `names.Refused` whenever it is protected or not this project's, whatever `force`
        says; and, unless forced, while others are connected to it.
        """
        ...

    def set_project_database_aside(
        self, db_name: str, kept_name: str, project_id: int, force: bool
    ) -> bool:
        """Rename the project's database to a name of `names.new_kept_name`; False: there was none.

        Whole or not at all, instantly, and done again it is done already. Raises `names.Refused`
        as a drop does, and never touches anything that has the other name.
        """
        ...

    def bring_project_database_back(self, kept_name: str, db_name: str, project_id: int) -> bool:
        """Rename what was set aside back; False where there is nothing. The same promises.

        Raises `DatabaseExists` when there is a database of that name.
        """
        ...

    def drop_kept_database(self, kept_name: str, project_id: int, force: bool) -> bool:
        """Drop what was set aside, within the guard; False when there was none."""
        ...

    def delete_project_database(self, project_name: str, force: bool = False) -> DeletionResult:
        """Drop the named project's database, within the guard; never raises for a refusal."""
        ...

    def project_database_exists(self, db_name: str) -> bool:
        """Whether anything of that name is there, whoever made it; also of a kept one's name."""
        ...

    def made_project_database(self, db_name: str, project_id: int) -> bool:
        """Whether it is there and carries the mark of `create_project_database`.

        PostgreSQL's mark names the project; SQLite's only the service.
        """
        ...

    def describe_project_database(self, db_name: str) -> ProjectDatabase | None:
        """The project's database, read from itself; None when it is missing."""
        ...

    def sweep_project_databases(self) -> list[str]:
        """Remove what a creation that died left half made; returns the names.

        What can't be removed is logged and stays.
        """
        ...

    def list_project_databases(self) -> list[FoundDatabase]:
        """Each database that carries this master's mark or is named like a project's, by name.

        Those that deletions have set aside are among them.

        `valid` is false after an interrupted drop. `half_made` ones are left by creations that
        died; those in the making are not in the list. SQLite's mark names no project.
        """
        ...

    def database_sizes(self) -> DatabaseSizes:
        """How large they are now; with very many databases it takes seconds."""
        ...

    def creation_obstacle(self) -> str | None:
        """Why no project's database can be made, with what mends it; None when nothing is."""
        ...


def largest(sizes: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The few largest of databases with their sizes, the largest first."""
    return sorted(sizes, key=lambda one: (-one[1], one[0]))[:LARGEST]


def in_range(columns: str, owner: str, above: str, below: str) -> str:
    """A condition: `owner` in the first of two columns, the second between `above` and `below`.

    It is one range of an index over both. Told of each column by itself, PostgreSQL may walk an
    index of the second alone, past everybody else's newer rows. The bounds are parameters or
    numbers, and no part of the range.
    """
    return f"({columns}) > ({owner}, {above}) AND ({columns}) < ({owner}, {below})"


def fetch_all(conn: Connection, sql: str, params: Params = ()) -> list[Row]:
    """Run a statement; its rows."""
    with conn.cursor() as cursor:
        cursor.execute(sql, params)
        rows: list[Row] = cursor.fetchall()
        return rows


def fetch_one(conn: Connection, sql: str, params: Params = ()) -> Row | None:
    """Run a statement; its first row, or None."""
    with conn.cursor() as cursor:
        cursor.execute(sql, params)
        row: Row | None = cursor.fetchone()
        return row


def execute(conn: Connection, sql: str, params: Params = ()) -> int:
    """Run a statement; the number of rows it changed."""
    with conn.cursor() as cursor:
        cursor.execute(sql, params)
        changed: int = cursor.rowcount
        return changed
