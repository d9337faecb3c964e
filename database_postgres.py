"""The PostgreSQL database: the pool, its transactions, the projects' databases."""

import hashlib
import logging
import select
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2 import sql
from psycopg2.extras import RealDictCursor

from server.settings import BadSettings, Settings, get_settings
from server.storage import contract, deletion, migrate, names, sqlstates
from server.storage.breaker import Breaker
from server.storage.contract import ConnectionStatus, DeletionResult, ProjectDatabase
from server.storage.pool import Pool

BACKEND = "postgresql"
CONNECT_SECONDS = 2.0
DDL_SECONDS = 30.0
PING_SECONDS = 1.0
# Each takes up to three connections beside the pool.
DDL_AT_ONCE = 4
# How much longer than the server's own limit we wait for its answer before we call it hung.
GRACE_SECONDS = 0.5

_HALF_MADE = "clawd_creating"

log = logging.getLogger("clawd.database")


class _Connection(psycopg2.extensions.connection):
    """A connection that gives up on a server that doesn't answer.

    No server setting and no TCP setting covers a server that hangs; the deadline here does. It
    counts for each statement, and for connecting, where libpq's own doesn't work in this mode.
    """

    patience = CONNECT_SECONDS


class _Hung(contract.Unavailable):
    """The server took the statement, or the connection, and said nothing within the deadline."""


class _Cursor(RealDictCursor):
    """A cursor that takes a statement without parameters as it stands, percent signs too."""

    def execute(self, query: Any, vars: Any = None) -> None:
        try:
            super().execute(query, vars or None)
        except ValueError as error:
            # psycopg2 itself refuses a NUL, and text that is not Unicode.
            raise contract.BadValue(str(error)) from error


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
            raise _Hung("the database server does not answer")


def _connect(settings: Settings, dbname: str, patience: float) -> _Connection:
    psycopg2.extensions.set_wait_callback(_wait)
    with _errors(settings):
        conn: _Connection = psycopg2.connect(
            host=settings.db_host,
            port=settings.db_port,
            dbname=dbname,
            user=settings.db_user,
            password=settings.db_password.get_secret_value(),
            sslmode=settings.db_sslmode,
            application_name="clawd-backend",
            client_encoding="UTF8",
            connection_factory=_Connection,
            cursor_factory=_Cursor,
        )
        try:
            conn.patience = patience + GRACE_SECONDS
            conn.autocommit = True
            _set_limits(conn, patience)
        except BaseException:
            conn.close()
            raise
    return conn


def _set_limits(conn: _Connection, patience: float) -> None:
    """The server's own limits, the same for all of us, so that a pooler between may mix us."""
    milliseconds = int(patience * 1000)
    contract.execute(
        conn,
        "SELECT set_config('timezone', 'UTC', false), "
        "set_config('statement_timeout', %(ms)s, false), "
        "set_config('lock_timeout', %(ms)s, false), "
        "set_config('idle_in_transaction_session_timeout', '10000', false)",
        {"ms": str(milliseconds)},
    )


@contextmanager
def _errors(settings: Settings | None = None) -> Iterator[None]:
    """Turn the driver's errors into the contract's; with `settings`, those of connecting."""
    try:
        yield
    except psycopg2.Error as error:
        if settings is not None and (cure := _cure(error, settings)):
            raise contract.Misconfigured(cure) from error
        kind = _kind(error)
        if kind is None:
            raise
        reason = _first_line(error)
        if kind is contract.Misconfigured:
            reason += "; docs/deployment.md says what the role needs"
        raise kind(reason) from error


def _kind(error: psycopg2.Error) -> type[contract.DatabaseError] | None:
    lost = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    return sqlstates.kind(error.pgcode, str(error)) if lost or error.pgcode else None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _cure(error: psycopg2.Error, settings: Settings) -> str | None:
    """One line about a connection that will never work, with what mends it, or None."""
    host, port, name = settings.db_host, settings.db_port, settings.db_name
    mending = sqlstates.cure(str(error), host=host, port=port, name=name, user=settings.db_user)
    if mending is None:
        return None
    reason = str(error).strip().rpartition("FATAL:")[2].strip().partition("\n")[0]
    return f"PostgreSQL at {host}:{port}, database {name}: {reason}; to mend it: {mending}"


def _usable(conn: _Connection) -> bool:
    """An idle connection has nothing to say: one that is readable has been closed."""
    if conn.closed:
        return False
    waiter = select.poll()
    waiter.register(conn.fileno(), select.POLLIN)
    return not waiter.poll(0)


def _close(conn: _Connection) -> None:
    with suppress(psycopg2.Error):
        conn.close()


_breaker = Breaker()
_pool: Pool[_Connection] | None = None
_opening = threading.Lock()


def _opened() -> Pool[_Connection]:
    global _pool
    with _opening:
        if _pool is None:
            settings = get_settings()
            _pool = Pool(
                lambda: _connect(settings, settings.db_name, settings.db_statement_timeout),
                usable=_usable,
                close=_close,
                minimum=settings.db_pool_min,
                maximum=settings.db_pool_max,
                wait=settings.db_pool_wait,
            )
        return _pool


@contextmanager
def get_db() -> Iterator[contract.Connection]:
    """A transaction on a connection of the pool."""
    with _errors(), _lent(_opened()) as conn:
        conn.autocommit = False
        yield conn
        if conn.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_INERROR:
            # COMMIT would roll back and not say so.
            raise contract.DatabaseError(contract.ROLLED_BACK)
        try:
            conn.commit()
        except (psycopg2.OperationalError, contract.Unavailable) as error:
            if conn.closed or isinstance(error, contract.Unavailable):
                raise contract.OutcomeUnknown("the connection broke during COMMIT") from error
            raise


@contextmanager
def read_db() -> Iterator[contract.Connection]:
    """A connection of the pool in autocommit: one round trip a statement."""
    with _errors(), _lent(_opened()) as conn:
        conn.autocommit = True
        yield conn


@contextmanager
def _lent(pool: Pool[_Connection], wait: float | None = None) -> Iterator[_Connection]:
    """A connection of the pool; refused at once while the server hangs."""
    conn = _acquire(pool, wait)
    healthy = False
    try:
        yield conn
        healthy = True
    except contract.Unavailable as error:
        # It may be hung: a rollback would wait just as long.
        if isinstance(error, _Hung):
            _breaker.failed()
        raise
    except BaseException:
        with suppress(psycopg2.Error, contract.Unavailable):
            conn.rollback()
            healthy = not conn.closed
        raise
    finally:
        pool.release(conn, healthy)


def _acquire(pool: Pool[_Connection], wait: float | None) -> _Connection:
    trying = _breaker.check()
    conn = None
    try:
        conn = pool.acquire(wait)
        if trying:
            _try(conn)
            _breaker.answered()
        else:
            # The server may have begun to hang while this caller waited.
            _breaker.check_again()
    except BaseException as error:
        if trying or isinstance(error, _Hung):
            _breaker.failed()
        if conn is not None:
            pool.release(conn, healthy=not trying)
        raise
    return conn


def _try(conn: _Connection) -> None:
    patience, conn.patience = conn.patience, PING_SECONDS
    conn.autocommit = True
    contract.execute(conn, "SELECT 1")
    conn.patience = patience


def transaction_lock(conn: contract.Connection, name: str) -> None:
    """PostgreSQL's advisory lock, which ends with the transaction."""
    contract.execute(conn, "SELECT pg_advisory_xact_lock(%s)", (_lock_key(name),))


def _lock_key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)


@contextmanager
def _direct(dbname: str | None = None, patience: float = DDL_SECONDS) -> Iterator[_Connection]:
    """A connection of its own, for what no pooler and no request's deadline may stand before.

    It goes to the master: "cannot drop the currently open database" is one more guard.
    """
    settings = get_settings()
    conn = _connect(settings, dbname or settings.db_name, patience)
    try:
        with _errors():
            yield conn
    finally:
        _close(conn)


def init_schema() -> None:
    """Bring the master's tables up to date; mark it so that PostgreSQL refuses to drop it."""

    @contextmanager
    def transaction() -> Iterator[_Connection]:
        with _direct() as conn:
            conn.autocommit = False
            yield conn
            conn.commit()

    def lock(conn: contract.Connection) -> None:
        transaction_lock(conn, "clawd-backend schema")

    migrate.migrate(transaction, lock, _run_script, migrate.steps(BACKEND))
    with transaction() as conn:
        # Of two that change a database's row at once, one fails: "tuple concurrently updated".
        lock(conn)
        _protect_master(conn)


def _run_script(conn: contract.Connection, script: str) -> None:
    contract.execute(conn, script)


def _protect_master(conn: _Connection) -> None:
    """Where our role owns the master it could drop it; PostgreSQL never drops a template."""
    row = contract.fetch_one(
        conn,
        "SELECT datname, datistemplate, pg_get_userbyid(datdba) = current_user AS owned "
        "FROM pg_database WHERE datname = current_database()",
    )
    if row and row["owned"] and not row["datistemplate"]:
        contract.execute(
            conn,
            sql.SQL("ALTER DATABASE {} IS_TEMPLATE true")
            .format(sql.Identifier(row["datname"]))
            .as_string(conn),
        )


def ping() -> None:
    """One round trip to the server."""
    with _errors(), _lent(_opened(), wait=PING_SECONDS / 2) as conn:
        patience, conn.patience = conn.patience, PING_SECONDS / 2
        try:
            conn.autocommit = True
            contract.fetch_one(conn, "SELECT count(*) FROM schema_migrations")
        finally:
            conn.patience = patience


def pool_stats() -> dict[str, int]:
    """The numbers of the pool."""
    return _opened().stats()


def test_connection() -> ConnectionStatus:
    """Connect afresh to the master."""
    try:
        settings = get_settings()
    except BadSettings as error:
        return {"status": "error", "reason": str(error)}
    target: ConnectionStatus = {
        "host": settings.db_host,
        "port": settings.db_port,
        "database": settings.db_name,
    }
    try:
        with _direct(patience=CONNECT_SECONDS) as conn:
            row = contract.fetch_one(conn, "SELECT version() AS version")
    except (contract.DatabaseError, psycopg2.Error) as error:
        return {"status": "error", **target, "reason": _first_line(error)}
    return {"status": "ok", "version": row["version"] if row else "", **target}


def close_pool() -> None:
    """Close the pool's connections; the next use opens a new pool."""
    global _pool
    with _opening:
        pool, _pool = _pool, None
    _breaker.answered()
    if pool is not None:
        pool.close()


def is_master_database(db_name: str) -> bool:
    """Whether the name is the master's or a maintenance database's."""
    return names.is_master(db_name, get_settings().db_name)


def validate_project_database_deletion(project_name: str, db_name: str) -> tuple[bool, str]:
    """The guard's word on dropping `db_name` for the project."""
    return names.validate_deletion(project_name, db_name, get_settings().db_name)


@contextmanager
def lock_project_database(db_name: str) -> Iterator[None]:
    """An advisory lock on a connection of its own, which a dying process lets go."""
    with _direct() as conn:
        if not _try_lock(conn, f"project database {db_name}"):
            raise contract.Busy(f"database '{db_name}' is being created or deleted")
        yield


def _try_lock(conn: _Connection, name: str) -> bool:
    row = contract.fetch_one(conn, "SELECT pg_try_advisory_lock(%s) AS locked", (_lock_key(name),))
    return bool(row and row["locked"])


def _ddl(conn: _Connection, statement: str, name: str, **identifiers: str) -> None:
    """Run a statement about the database `name`; names meet SQL here and nowhere else."""
    for identifier in (name, *identifiers.values()):
        # psycopg2 cuts an identifier at a NUL and PostgreSQL cuts it at 63 bytes.
        if not identifier.isascii() or "\0" in identifier or len(identifier) > 63:
            raise names.Refused(f"{identifier!r} is not the name of a database", hard=True)
    composed = sql.SQL(statement).format(
        sql.Identifier(name), **{key: sql.Identifier(value) for key, value in identifiers.items()}
    )
    contract.execute(conn, composed.as_string(conn))


def _marker(project_id: int | None) -> str:
    """The comment that says whose a project database is.

    It names the master too: the copy of a master must not drop the original's databases.
    """
    master = get_settings().db_name
    return f"clawd-backend: master {master}, project {project_id if project_id else 'unknown'}"


def create_project_database(
    project_name: str, template_sql: str = "", project_id: int | None = None
) -> str:
    """Make the database under another name and rename it at the end: whole or not at all."""
    settings = get_settings()
    db_name = names.new_database_name(project_name, settings.db_name)
    half_made = f"{_half_made_prefix()}{uuid.uuid4().hex}"
    with _ddl_slot(), _direct() as conn:
        if _exists(conn, db_name):
            raise contract.DatabaseExists(f"database '{db_name}' already exists")
        owner = deletion.find_owner(read_db, db_name) if project_id is None else project_id
        _try_lock(conn, half_made)
        try:
            _ddl(conn, "CREATE DATABASE {} TEMPLATE template0", half_made)
            _comment(conn, half_made, _marker(owner))
            if template_sql.strip():
                _apply_template(half_made, template_sql)
            _ddl(conn, "ALTER DATABASE {} RENAME TO {to}", half_made, to=db_name)
        except BaseException as error:
            with suppress(psycopg2.Error, contract.DatabaseError):
                _ddl(conn, "DROP DATABASE IF EXISTS {} WITH (FORCE)", half_made)
            if isinstance(
                error, psycopg2.errors.DuplicateDatabase | psycopg2.errors.UniqueViolation
            ):
                raise contract.DatabaseExists(f"database '{db_name}' already exists") from error
            raise
    return db_name


_ddl_slots = threading.BoundedSemaphore(DDL_AT_ONCE)


@contextmanager
def _ddl_slot() -> Iterator[None]:
    """One of the few creations or drops that a process does at a time."""
    if not _ddl_slots.acquire(timeout=DDL_SECONDS):
        raise contract.Busy(f"{DDL_AT_ONCE} databases are being created or dropped")
    try:
        yield
    finally:
        _ddl_slots.release()


def _half_made_prefix() -> str:
    """The start of the names that creations by this master's service use on the way."""
    master = hashlib.sha256(get_settings().db_name.encode()).hexdigest()
    return f"{_HALF_MADE}_{master[:8]}_"


def _comment(conn: _Connection, db_name: str, comment: str) -> None:
    statement = sql.SQL("COMMENT ON DATABASE {} IS {}").format(
        sql.Identifier(db_name), sql.Literal(comment)
    )
    contract.execute(conn, statement.as_string(conn))


def _exists(conn: contract.Connection, db_name: str) -> bool:
    return bool(
        contract.fetch_one(conn, "SELECT 1 FROM pg_database WHERE datname = %s", (db_name,))
    )


def _apply_template(db_name: str, template_sql: str) -> None:
    with _direct(db_name) as conn:
        conn.autocommit = False
        try:
            contract.execute(conn, template_sql)
        except psycopg2.ProgrammingError as error:
            raise contract.TemplateFailed(_first_line(error)) from error
        except psycopg2.Error as error:
            if _kind(error) in (contract.Conflict, contract.BadValue, None):
                raise contract.TemplateFailed(_first_line(error)) from error
            raise
        conn.commit()


def drop_project_database(db_name: str, project_id: int | None, force: bool) -> bool:
    """Drop the database if its comment says that it is the project's."""
    refusal = names.find_refusal(db_name, get_settings().db_name)
    if refusal is not None:
        raise refusal
    with _ddl_slot(), _direct() as conn:
        row = contract.fetch_one(
            conn,
            "SELECT shobj_description(oid, 'pg_database') AS comment, "
            "pg_has_role(datdba, 'USAGE') AS owned, "
            "(SELECT count(*) FROM pg_stat_activity "
            # Autovacuum has no user, and makes way by itself.
            "WHERE datname = %(name)s AND usesysid IS NOT NULL) AS others "
            "FROM pg_database WHERE datname = %(name)s",
            {"name": db_name},
        )
        if row is None:
            return False
        # One that was made by name alone belongs to whoever has its name in this master.
        if row["comment"] not in (_marker(project_id), _marker(None)):
            raise names.Refused(
                f"Database '{db_name}' is not the one that this project created.", hard=True
            )
        if not row["owned"]:
            raise names.Refused(f"Database '{db_name}' belongs to another role.", hard=True)
        in_use = names.Refused(
            f"Database '{db_name}' is in use by other connections.", hard=False, in_use=True
        )
        if row["others"] and not force:
            raise in_use
        try:
            _ddl(conn, f"DROP DATABASE IF EXISTS {{}}{' WITH (FORCE)' if force else ''}", db_name)
        except (psycopg2.errors.ObjectInUse, psycopg2.errors.InsufficientPrivilege) as error:
            # Somebody came meanwhile, or a superuser is connected whom we can't send away.
            raise in_use from error
    return True


def project_database_exists(db_name: str) -> bool:
    """Whether the server has a database of that name."""
    with read_db() as conn:
        return _exists(conn, db_name)


def made_project_database(db_name: str, project_id: int) -> bool:
    """Whether the database's comment names this project of this master."""
    with read_db() as conn:
        row = contract.fetch_one(
            conn,
            "SELECT shobj_description(oid, 'pg_database') AS comment "
            "FROM pg_database WHERE datname = %s",
            (db_name,),
        )
    return row is not None and row["comment"] == _marker(project_id)


def delete_project_database(project_name: str, force: bool = False) -> DeletionResult:
    """Drop the named project's database, within the guard."""
    return deletion.delete_by_name(
        project_name,
        force,
        master=get_settings().db_name,
        read_db=read_db,
        lock=lock_project_database,
        drop=drop_project_database,
    )


def describe_project_database(db_name: str) -> ProjectDatabase | None:
    """The project's database: its size and tables."""
    with _direct(patience=CONNECT_SECONDS) as conn:
        if not _exists(conn, db_name):
            return None
    with _direct(db_name, patience=CONNECT_SECONDS) as conn:
        row = contract.fetch_one(
            conn,
            "SELECT pg_database_size(current_database()) AS size, "
            "(SELECT array_agg(tablename::text ORDER BY tablename) FROM pg_tables "
            "WHERE schemaname = 'public') AS tables",
        )
    found = row or {}
    return {
        "name": db_name,
        "backend": BACKEND,
        "size_bytes": found.get("size") or 0,
        "tables": found.get("tables") or [],
    }


def sweep_project_databases() -> list[str]:
    """Drop the databases of creations whose process died half-way."""
    with _direct() as conn:
        rows = contract.fetch_all(
            conn,
            "SELECT datname FROM pg_database WHERE starts_with(datname, %s)",
            (_half_made_prefix(),),
        )
        found = [row["datname"] for row in rows]
        return [name for name in found if _try_lock(conn, name) and _sweep(conn, name)]


def _sweep(conn: _Connection, db_name: str) -> bool:
    try:
        _ddl(conn, "DROP DATABASE IF EXISTS {} WITH (FORCE)", db_name)
    except (psycopg2.Error, contract.DatabaseError) as error:
        log.warning(
            "half-made database not removed",
            extra={"database": db_name, "cause": _first_line(error)},
        )
        return False
    return True
