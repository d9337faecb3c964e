"""The PostgreSQL side of a migration: plain connections, COPY in and out, sequences, keys."""

import io
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Self

import psycopg2
import psycopg2.extensions

from server.migration.rows import Chunk, Digest, Digester
from server.migration.tables import Column, Kind, Table, quote
from server.settings import Settings
from server.storage import contract, postgres, roles

Connection = psycopg2.extensions.connection
BLOCK = 1 << 18
LOCK = 7215420026112200  # an advisory lock's number, nobody else's
# How values are spelt must not depend on what a role or database prefers; nor may a policy hide
# rows, or a limit meant for requests end a long COPY.
SPELLING = """
    SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres';
    SET bytea_output = 'hex'; SET extra_float_digits = 1; SET row_security = off;
    SET statement_timeout = 0; SET lock_timeout = 0; SET client_min_messages = warning;
    SET idle_in_transaction_session_timeout = 0
"""


class TargetError(contract.DatabaseError):
    """PostgreSQL refused something; one line, with what it was about."""


def connect(settings: Settings, dbname: str, admin_url: str = "") -> Connection:
    """A connection in autocommit to do COPY on, without the deadlines that a request needs.

    With a superuser's URL it acts as the owner of the master's tables where there is one.
    """
    if admin_url:
        place: dict[str, Any] = postgres.url_place(admin_url, settings)
    else:
        place = postgres.settings_place(settings)
    with postgres.errors(None if admin_url else settings):
        # COPY doesn't work with the callback that the service's own connections have.
        psycopg2.extensions.set_wait_callback(None)
        conn: Connection = psycopg2.connect(
            **{**place, "dbname": dbname}, application_name="clawd-migration", connect_timeout=10
        )
        conn.set_client_encoding("UTF8")
        conn.autocommit = True
        with conn.cursor() as cursor:
            cursor.execute(SPELLING)
    return conn


@contextmanager
def opened(settings: Settings, admin_url: str) -> Iterator[Connection]:
    """The master, as the owner of its tables where a superuser's URL lets us."""
    with closing(connect(settings, settings.db_name, admin_url)) as conn:
        if admin_url:
            _become_owner(conn, settings.db_user)
        yield conn


def _become_owner(conn: Connection, role: str) -> None:
    """Act as the role that owns the tables, where the recipe made one."""
    owner = roles.owner(role)
    if value(conn, "SELECT 1 FROM pg_roles WHERE rolname = %s", (owner,)):
        execute(conn, f"SET ROLE {quote(owner)}")
        execute(conn, f"SET search_path = {quote(role)}, public")


@contextmanager
def errors(about: str = "") -> Iterator[None]:
    """Turn the driver's errors into one line."""
    try:
        yield
    except psycopg2.Error as error:
        kind = postgres.error_kind(error)
        reason = postgres.first_line(error)
        if kind is not None and issubclass(kind, contract.Unavailable | contract.Misconfigured):
            raise kind(reason) from error
        detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
        place = f"{about}: " if about else ""
        raise TargetError(f"{place}{reason}{detail}") from error


def execute(conn: Connection, sql: str, params: tuple[Any, ...] | None = None) -> int:
    """Run a statement; how many rows it changed."""
    psycopg2.extensions.set_wait_callback(None)
    with errors(), conn.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.rowcount


def rows(conn: Connection, sql: str, params: tuple[Any, ...] | None = None) -> list[Any]:
    """Run a query; its rows."""
    psycopg2.extensions.set_wait_callback(None)
    with errors(), conn.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall()


def value(conn: Connection, sql: str, params: tuple[Any, ...] | None = None) -> Any:
    """The first column of the first row, or None."""
    found = rows(conn, sql, params)
    return found[0][0] if found else None


class _Blocks:
    """Blocks of bytes as the file that COPY reads, each as it comes."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        # An empty one would be the end.
        self._blocks = filter(None, blocks)

    def read(self, size: int = -1, /) -> bytes:
        """The next block, whatever size is asked for: the driver sends what it gets."""
        return next(self._blocks, b"")


class _Lines(io.RawIOBase):
    """The file that COPY writes: passes whole lines on."""

    def __init__(self, digester: Digester) -> None:
        self._digester = digester
        self._rest = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        if newline:
            self._digester.add(whole + newline)
        return len(data)


def copy_in(conn: Connection, table: Table, blocks: Iterable[bytes]) -> None:
    """Add rows by COPY."""
    columns = ", ".join(quote(column.name) for column in table.columns)
    file: Any = _Blocks(blocks)  # the driver's types ask for `readline`, the driver doesn't
    psycopg2.extensions.set_wait_callback(None)
    with errors(f"table {table.name}"), conn.cursor() as cursor:
        cursor.copy_expert(f"COPY {quote(table.name)} ({columns}) FROM STDIN", file)


def select(chunk: Chunk) -> str:
    """The chunk's rows in the order of the key, floats by their bits."""
    table = chunk.table
    columns = ", ".join(
        f"encode(float8send({_shown(column)}), 'hex')"
        if column.kind is Kind.FLOAT
        else _shown(column)
        for column in table.columns
    )
    order = ", ".join(
        _shown(column) + (' COLLATE "C"' if column.kind in (Kind.TEXT, Kind.JSON) else "")
        for column in map(table.column, table.key)
    )
    ordered = f" ORDER BY {order}" if order else ""
    relation = table.relation or quote(table.name)
    return f"SELECT {columns} FROM {relation} WHERE {chunk.where()}{ordered}"


def _shown(column: Column) -> str:
    return column.shown or quote(column.name)


def copy_out(conn: Connection, sql: str, file: io.IOBase) -> None:
    """Write a query's rows as COPY's lines."""
    psycopg2.extensions.set_wait_callback(None)
    with errors(), conn.cursor() as cursor:
        cursor.copy_expert(f"COPY ({sql}) TO STDOUT", file, size=BLOCK)


def digest(conn: Connection, chunk: Chunk) -> Digest:
    """The digest of the chunk's rows on PostgreSQL."""
    digester = Digester(chunk.table)
    copy_out(conn, select(chunk), _Lines(digester))
    return digester.digest


def is_empty(conn: Connection, table: Table) -> bool:
    """Whether the table has no row."""
    return not value(conn, f"SELECT EXISTS (SELECT FROM {quote(table.name)})")


def raise_sequence(conn: Connection, table: Table, highest: int) -> None:
    """Let new ids begin above the highest that was ever given away, on either side."""
    highest = max(highest, highest_id(conn, table), next_id(conn, table) - 1)
    execute(
        conn,
        "SELECT setval(pg_get_serial_sequence(%s, %s), %s, %s)",
        (quote(table.name), table.key[0], max(highest, 1), highest > 0),
    )


def has_sequence(conn: Connection, table: Table) -> bool:
    """Whether the database gives out the table's ids."""
    name = (quote(table.name), table.key[0])
    return value(conn, "SELECT pg_get_serial_sequence(%s, %s)", name) is not None


def highest_id(conn: Connection, table: Table) -> int:
    """The highest id in the table, or 0."""
    key = quote(table.key[0])
    return int(value(conn, f"SELECT coalesce(max({key}), 0) FROM {quote(table.name)}"))


def next_id(conn: Connection, table: Table) -> int:
    """The id that the next row would get."""
    sequence = "SELECT pg_get_serial_sequence(%s, %s)"
    name = value(conn, sequence, (quote(table.name), table.key[0]))
    # The last of all ids has none after it that PostgreSQL could compute.
    ((last, called),) = rows(conn, f"SELECT last_value, is_called FROM {name}")
    return int(last) + bool(called)


def owns(conn: Connection, table: Table) -> bool:
    """Whether the connection's role may change the table itself."""
    return bool(
        value(
            conn,
            "SELECT pg_has_role(current_user, relowner, 'USAGE') FROM pg_class "
            "WHERE oid = to_regclass(%s)",
            (quote(table.name),),
        )
    )


class Lock:
    """Keeps a second migration out of the same target; ends with the connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def __enter__(self) -> Self:
        if not value(self._conn, "SELECT pg_try_advisory_lock(%s)", (LOCK,)):
            raise contract.Busy("another migration into this database is running")
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(contract.DatabaseError, psycopg2.Error):
            execute(self._conn, "SELECT pg_advisory_unlock(%s)", (LOCK,))
