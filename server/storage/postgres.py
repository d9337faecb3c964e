"""Connections to PostgreSQL: psycopg2 with deadlines, its errors as the contract's."""

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from server.settings import Settings
from server.storage import contract, plans, sqlstates
from server.storage.contract import Row

CONNECT_SECONDS = 2.0
# How much longer than the server's own limit we wait for its answer before we call it hung.
GRACE_SECONDS = 0.5
# What goes through a connection at once and makes it not worth keeping.
LARGE_BYTES = 256 * 1024
# The types of columns that may hold so much, by the numbers that they have in every PostgreSQL:
# bytea, text, json, varchar.
_LONG_TYPES = frozenset({17, 25, 114, 1043})


class Connection(psycopg2.extensions.connection):
    """A connection that gives up on a server that doesn't answer.

    No server setting and no TCP setting covers a server that hangs; the deadline here does. It
    counts for each statement, and for connecting, where libpq's own doesn't work in this mode.
    """

    patience = CONNECT_SECONDS
    swollen = False
    """Whether something large went through: libpq's buffers grow to six times that, for good."""
    planned: set[plans.Plan] | None = None
    """The statements that the server has planned for it; None where it can't keep any."""
    begins = False
    """Whether a transaction begins with the next statement, in one round trip with it."""

    @property
    def idle(self) -> bool:
        """Whether it is whole, and in no transaction."""
        return self.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE

    @property
    def failed(self) -> bool:
        """Whether a statement has failed, so that COMMIT would roll back and not say so."""
        return self.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_INERROR


class Hung(contract.Unavailable):
    """The server took the statement, or the connection, and said nothing within the deadline."""


class Cursor(psycopg2.extensions.cursor):
    """A cursor whose rows are dicts.

    A statement without parameters is taken as it stands, percent signs too. A `Planned` one is
    planned once for each connection.
    """

    def execute(self, query: Any, vars: Any = None) -> None:
        try:
            if not (isinstance(query, contract.Planned) and self._execute_planned(query, vars)):
                super().execute(self._opened(query), vars or None)
        except ValueError as error:
            # psycopg2 itself refuses a NUL, and text that is not Unicode.
            raise contract.BadValue(str(error)) from error
        finally:
            self._carried(len(self.query or b""))
            # One that the driver itself refused was never sent, and BEGIN with it neither.
            if isinstance(self.connection, Connection) and not self.connection.idle:
                self.connection.begins = False

    def _opened(self, query: Any) -> Any:
        """The statement, after BEGIN where a transaction begins with it."""
        if not getattr(self.connection, "begins", False):
            return query
        text = query if isinstance(query, str) else query.as_string(self.connection)
        return f"BEGIN; {text}"

    def _execute_planned(self, query: contract.Planned, vars: Any) -> bool:
        """Execute it by its name; False where the connection can't keep one.

        In a transaction a name that is missing would be the end of all that went before.
        """
        conn: Any = self.connection
        if conn.planned is None or conn.begins or not conn.idle or not conn.autocommit:
            return False
        plan = plans.plan(query)
        try:
            if plan not in conn.planned:
                super().execute(plan.prepare)
                conn.planned.add(plan)
            super().execute(plan.execute, vars or None)
        except (
            psycopg2.errors.InvalidSqlStatementName,
            psycopg2.errors.DuplicatePreparedStatement,
        ):
            # A pooler between mixes the server's connections, and with them the names.
            conn.planned = None
            return False
        return True

    def fetchone(self) -> Any:
        row = super().fetchone()
        return None if row is None else self._named([row])[0]

    def fetchmany(self, size: int | None = None) -> list[Any]:
        return self._named(super().fetchmany(size or self.arraysize))

    def fetchall(self) -> list[Any]:
        return self._named(super().fetchall())

    def __next__(self) -> Any:
        return self._named([super().__next__()])[0]

    def _named(self, rows: list[tuple[Any, ...]]) -> list[Row]:
        columns = self.description or ()
        # Whatever is long is text or bytes.
        for at, column in enumerate(columns):
            if column.type_code in _LONG_TYPES:
                self._carried(sum(len(row[at]) for row in rows if row[at] is not None))
        names = [column.name for column in columns]
        return [dict(zip(names, row, strict=False)) for row in rows]

    def _carried(self, size: int) -> None:
        if size > LARGE_BYTES and isinstance(self.connection, Connection):
            self.connection.swollen = True


def _wait(conn: Any) -> None:
    """psycopg2's wait callback: `select`, with the connection's deadline."""
    deadline = time.monotonic() + getattr(conn, "patience", CONNECT_SECONDS)
    while (state := conn.poll()) != psycopg2.extensions.POLL_OK:
        # libpq changes its socket from one of a host's addresses to the next.
        waiter = select.poll()
        waiter.register(
            conn.fileno(),
            select.POLLIN if state == psycopg2.extensions.POLL_READ else select.POLLOUT,
        )
        left = deadline - time.monotonic()
        if left <= 0 or not waiter.poll(left * 1000):
            raise Hung("the database server does not answer")


def connect(settings: Settings, dbname: str, patience: float) -> Connection:
    """A connection in autocommit; each statement on it may take `patience` seconds."""
    with errors(settings):
        return _open(settings_place(settings) | {"dbname": dbname}, patience)


def settings_place(settings: Settings) -> dict[str, Any]:
    """Where the settings say that the server is, and as whom to go there, for psycopg2."""
    return {
        "host": settings.db_host,
        "port": settings.db_port,
        "dbname": settings.db_name,
        "user": settings.db_user,
        "password": settings.db_password.get_secret_value(),
        "sslmode": settings.db_sslmode,
    }


def connect_url(
    url: str, settings: Settings, patience: float, dbname: str | None = None
) -> Connection:
    """The same as another role."""
    place = url_place(url, settings)
    with errors():
        return _open(place | {"dbname": dbname or place["dbname"]}, patience)


def url_place(url: str, settings: Settings) -> dict[str, Any]:
    """Where a URL says; host and port are the settings' unless it has its own."""
    try:
        parts = psycopg2.extensions.parse_dsn(url)
    except psycopg2.ProgrammingError as error:
        # The driver's message would show the password.
        raise contract.Misconfigured("the URL must be postgresql://user:password@host") from error
    place = {"host": settings.db_host, "port": settings.db_port, "dbname": "postgres"}
    return {**place, **parts}


def _open(place: dict[str, Any], patience: float) -> Connection:
    psycopg2.extensions.set_wait_callback(_wait)
    conn: Connection = psycopg2.connect(
        **place,
        application_name="clawd-backend",
        client_encoding="UTF8",
        connection_factory=Connection,
        cursor_factory=Cursor,
    )
    try:
        conn.patience = patience + GRACE_SECONDS
        conn.autocommit = True
        conn.planned = set()
        _set_limits(conn, patience)
    except BaseException:
        conn.close()
        raise
    return conn


def _set_limits(conn: Connection, patience: float) -> None:
    """The server's own limits, the same for all of us, so that a pooler between may mix us."""
    milliseconds = int(patience * 1000)
    contract.execute(
        conn,
        "SELECT set_config('timezone', 'UTC', false), "
        "set_config('statement_timeout', %(ms)s, false), "
        "set_config('lock_timeout', %(ms)s, false), "
        "set_config('idle_in_transaction_session_timeout', '10000', false), "
        "set_config('jit', 'off', false), "
        "set_config('plan_cache_mode', 'force_generic_plan', false)",
        {"ms": str(milliseconds)},
    )


@contextmanager
def errors(settings: Settings | None = None) -> Iterator[None]:
    """Turn the driver's errors into the contract's; with `settings`, those of connecting."""
    try:
        yield
    except psycopg2.Error as error:
        if settings is not None and (cure := _cure(error, settings)):
            raise contract.Misconfigured(cure) from error
        kind = error_kind(error)
        if kind is None:
            raise
        reason = first_line(error)
        if kind is contract.Misconfigured:
            reason += "; docs/deployment.md says what the role needs"
        raise kind(reason) from error


def error_kind(error: psycopg2.Error) -> type[contract.DatabaseError] | None:
    """The contract's error for one of psycopg2's; None for a defect of ours."""
    lost = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    return sqlstates.kind(error.pgcode, str(error)) if lost or error.pgcode else None


def first_line(error: BaseException) -> str:
    """An error's message without the server's hints and positions."""
    return str(error).strip().partition("\n")[0]


def _cure(error: psycopg2.Error, settings: Settings) -> str | None:
    """One line about a connection that will never work, with what mends it, or None."""
    host, port, name = settings.db_host, settings.db_port, settings.db_name
    mending = sqlstates.cure(str(error), host=host, port=port, name=name, user=settings.db_user)
    if mending is None:
        return None
    reason = str(error).strip().rpartition("FATAL:")[2].strip().partition("\n")[0]
    return f"PostgreSQL at {host}:{port}, database {name}: {reason}; to mend it: {mending}"


def is_usable(conn: Connection) -> bool:
    """An idle connection has nothing to say: one that is readable has been closed."""
    if conn.closed:
        return False
    waiter = select.poll()
    waiter.register(conn.fileno(), select.POLLIN)
    return not waiter.poll(0)


def close(conn: Connection) -> None:
    """Close a connection, also one that is broken."""
    with suppress(psycopg2.Error):
        conn.close()
