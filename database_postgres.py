"""The PostgreSQL database: the pool, its transactions, the projects' databases."""

import hashlib
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from server.settings import BadSettings, get_settings
from server.storage import contract, deletion, environment, migrate, names, postgres, roles
from server.storage.breaker import Breaker
from server.storage.contract import (
    AppliedStep,
    ConnectionStatus,
    DatabaseSizes,
    DeletionResult,
    FoundDatabase,
    ProjectDatabase,
)
from server.storage.pool import Pool

BACKEND = "postgresql"
DDL_SECONDS = 30.0
PING_SECONDS = 1.0
# Each takes up to three connections beside the pool.
DDL_AT_ONCE = 4

_HALF_MADE = "clawd_creating"
# A table that is there while a migration fills the others, without their indexes.
UNFINISHED_MIGRATION = "unfinished_migration"
# How the connections of a backup call themselves on the server.
BACKUP = "clawd-backup"

log = logging.getLogger("clawd.database")

_breaker = Breaker()
_pool: Pool[postgres.Connection] | None = None
_opening = threading.Lock()


def _opened() -> Pool[postgres.Connection]:
    global _pool
    with _opening:
        if _pool is None:
            settings = get_settings()
            _pool = Pool(
                lambda: postgres.connect(settings, settings.db_name, settings.db_statement_timeout),
                usable=postgres.is_usable,
                close=postgres.close,
                minimum=settings.db_pool_min,
                maximum=settings.db_pool_max,
                wait=settings.db_pool_wait,
            )
        return _pool


@contextmanager
def get_db() -> Iterator[contract.Connection]:
    """A transaction on a connection of the pool."""
    with postgres.errors(), _lent(_opened()) as conn:
        conn.begins = True
        yield conn
        conn.begins = False
        if conn.failed:
            raise contract.DatabaseError(contract.ROLLED_BACK)
        if conn.idle:
            return
        try:
            contract.execute(conn, "COMMIT")
        except (psycopg2.OperationalError, contract.Unavailable) as error:
            if conn.closed or isinstance(error, contract.Unavailable):
                raise contract.OutcomeUnknown("the connection broke during COMMIT") from error
            raise


@contextmanager
def read_db() -> Iterator[contract.Connection]:
    """A connection of the pool in autocommit: one round trip a statement."""
    with postgres.errors(), _lent(_opened()) as conn:
        yield conn


@contextmanager
def change_db() -> Iterator[contract.Connection]:
    """A connection of the pool in autocommit."""
    lent = False
    try:
        with read_db() as conn:
            lent = True
            yield conn
    except contract.Unavailable as error:
        if not lent:
            raise
        raise contract.OutcomeUnknown("the connection broke during a statement") from error


@contextmanager
def peek_db(patience: float = contract.PEEK_SECONDS) -> Iterator[contract.Connection]:
    """A transaction that can't write, on a connection of its own."""
    with _direct(patience=patience) as conn:
        # Said to the transaction, not to the session, which a pooler may give to the service.
        conn.readonly = True
        conn.autocommit = False
        yield conn
        conn.rollback()


@contextmanager
def _lent(
    pool: Pool[postgres.Connection], wait: float | None = None
) -> Iterator[postgres.Connection]:
    """A connection of the pool; refused at once while the server hangs.

    One that something large went through is closed afterwards, since it keeps memory for that.
    """
    conn = _acquire(pool, wait)
    healthy = False
    try:
        yield conn
        healthy = True
    except contract.Unavailable as error:
        # It may be hung: a rollback would wait just as long.
        if isinstance(error, postgres.Hung):
            _breaker.failed()
        raise
    except BaseException:
        with suppress(psycopg2.Error, contract.Unavailable):
            _roll_back(conn)
            healthy = not conn.closed
        raise
    finally:
        pool.release(conn, healthy and not conn.swollen)


def _roll_back(conn: postgres.Connection) -> None:
    conn.begins = False
    if not conn.idle:
        contract.execute(conn, "ROLLBACK")


def _acquire(pool: Pool[postgres.Connection], wait: float | None) -> postgres.Connection:
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
        if trying or isinstance(error, postgres.Hung):
            _breaker.failed()
        if conn is not None:
            pool.release(conn, healthy=not trying)
        raise
    return conn


def _try(conn: postgres.Connection) -> None:
    patience, conn.patience = conn.patience, PING_SECONDS
    contract.execute(conn, "SELECT 1")
    conn.patience = patience


def transaction_lock(conn: contract.Connection, name: str) -> None:
    """PostgreSQL's advisory lock, which ends with the transaction."""
    contract.execute(conn, "SELECT pg_advisory_xact_lock(%s)", (_lock_key(name),))


def _lock_key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)


@contextmanager
def _direct(
    dbname: str | None = None, patience: float = DDL_SECONDS
) -> Iterator[postgres.Connection]:
    """A connection of its own, for what no pooler and no request's deadline may stand before.

    It goes to the master: "cannot drop the currently open database" is one more guard.
    """
    settings = get_settings()
    conn = postgres.connect(settings, dbname or settings.db_name, patience)
    try:
        with postgres.errors():
            yield conn
    finally:
        postgres.close(conn)


def init_schema() -> None:
    """Bring the master's tables up to date; mark it so that PostgreSQL refuses to drop it."""
    with _direct() as conn:
        if _has_table(conn, UNFINISHED_MIGRATION):
            raise contract.Misconfigured(
                "a migration into this database has not come to its end; run "
                "python3 migrate_to_postgres.py again"
            )
    update_schema()


def update_schema() -> None:
    """The same, also while a migration is filling the tables."""

    @contextmanager
    def transaction() -> Iterator[postgres.Connection]:
        with _direct() as conn:
            conn.autocommit = False
            yield conn
            conn.commit()

    known = migrate.steps(BACKEND)
    with _direct() as conn:
        _check_role(conn)
        _check_places(conn)
        applied = migrate.list_applied(conn) if _has_table(conn, "schema_migrations") else []
    # A role that owns no tables, as it should be, may not even try to make one that exists.
    if todo := migrate.pending(applied, known):
        try:
            migrate.migrate(transaction, _lock_schema, _run_script, known)
        except contract.Misconfigured as error:
            steps = ", ".join(step.name for step in todo)
            raise contract.Misconfigured(
                f"{error}; schema/ has steps for the owner of the tables to apply ({steps}): "
                "./clawd init-postgres"
            ) from error
    with transaction() as conn:
        # Of two that change a database's row at once, one fails: "tuple concurrently updated".
        _lock_schema(conn)
        _protect_master(conn)


def applied_steps() -> list[AppliedStep]:
    """The steps that the master has; none where it has no tables of ours."""
    with peek_db() as conn:
        return migrate.read_steps(conn) if _has_table(conn, "schema_migrations") else []


def is_production() -> bool:
    """Whether the mark is in the master."""
    with _direct() as conn:
        return _has_table(conn, environment.TABLE) and environment.is_production(conn)


def _lock_schema(conn: contract.Connection) -> None:
    transaction_lock(conn, "clawd-backend schema")


def _has_table(conn: contract.Connection, name: str) -> bool:
    row = contract.fetch_one(conn, "SELECT to_regclass(%s) IS NOT NULL AS found", (name,))
    return bool(row and row["found"])


def _run_script(conn: contract.Connection, script: str) -> None:
    contract.execute(conn, script)


def _check_role(conn: contract.Connection) -> None:
    """PostgreSQL refuses a superuser nothing, so the guard in it would be none."""
    settings = get_settings()
    if roles.is_superuser(conn):
        reason = f"the role {settings.db_user} is a superuser, which could drop the master"
        if settings.app_env == "production" and not settings.allow_superuser:
            raise contract.Misconfigured(
                f"{reason}; make one that can't with ./clawd init-postgres, or set "
                "ALLOW_SUPERUSER=true"
            )
        log.warning("%s; ./clawd init-postgres makes one that can't", reason)
    elif strengths := roles.find_strengths(conn):
        log.warning(
            "the role %s %s, so that a defect could harm the master; "
            "./clawd init-postgres takes that from it",
            settings.db_user,
            ", ".join(strengths),
        )


def _check_places(conn: contract.Connection) -> None:
    """Where the server has fewer places than the pool may take, requests fail when it is busy."""
    most, places = get_settings().db_pool_max, count_places(conn)
    if places < most:
        log.warning(
            "DB_POOL_MAX is %d, and the server has only %d places for us; make max_connections "
            "larger there, or DB_POOL_MAX smaller",
            most,
            places,
        )


def count_places(conn: contract.Connection) -> int:
    """How many connections the server has for our role, if nobody else had any."""
    row = contract.fetch_one(
        conn,
        """
        SELECT least(nullif(rolconnlimit, -1), nullif(datconnlimit, -1),
            current_setting('max_connections')::int
            - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0)) AS places
        FROM pg_roles, pg_database
        WHERE rolname = current_user AND datname = current_database()
        """,
    )
    return int(row["places"]) if row else 0


# What PostgreSQL says to a DROP of the master, the first guard first, by SQLSTATE.
_GUARDS: dict[str, contract.Guard] = {
    "42501": "rights",  # insufficient_privilege: the role isn't the owner
    "42809": "template",  # wrong_object_type: a template is never dropped
    "55006": "open",  # object_in_use: nor is the database that one is connected to
}


def try_to_drop_master() -> contract.Guard:
    """Send a DROP of the master as our role, and say which guard PostgreSQL refuses it by.

    It goes to the master itself, which no role may drop on such a connection, a superuser neither.
    """
    with _direct(patience=postgres.CONNECT_SECONDS) as conn:
        row = contract.fetch_one(conn, "SELECT current_database() AS name")
        try:
            _ddl(conn, "DROP DATABASE {}", row["name"] if row else "")
        except psycopg2.Error as error:
            if error.pgcode in _GUARDS:
                return _GUARDS[error.pgcode]
            raise
    raise contract.DatabaseError("PostgreSQL didn't refuse to drop the master")


def set_up_master(admin_url: str) -> None:
    """As a superuser, make the role, the master and its tables as docs/deployment.md says.

    Done again it brings the tables up to date. Raises `Misconfigured` for a master that is newer
    than this code.
    """
    settings = get_settings()
    role, master = settings.db_user, settings.db_name
    with closing(postgres.connect_url(admin_url, settings, DDL_SECONDS)) as conn, postgres.errors():
        contract.execute(conn, roles.cluster_sql(role, settings.db_password.get_secret_value()))
        if not _exists(conn, master):
            contract.execute(conn, roles.database_sql(master))
    with (
        closing(postgres.connect_url(admin_url, settings, DDL_SECONDS, master)) as conn,
        postgres.errors(),
    ):
        conn.autocommit = False
        _lock_schema(conn)
        contract.execute(conn, roles.master_sql(role, master, migrate.steps(BACKEND)))
        migrate.pending(migrate.list_applied(conn), migrate.steps(BACKEND))
        conn.commit()


def _protect_master(conn: postgres.Connection) -> None:
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
    with postgres.errors(), _lent(_opened(), wait=PING_SECONDS / 2) as conn:
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
        with _direct(patience=postgres.CONNECT_SECONDS) as conn:
            row = contract.fetch_one(conn, "SELECT version() AS version")
    except (contract.DatabaseError, psycopg2.Error) as error:
        return {"status": "error", **target, "reason": postgres.first_line(error)}
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
    with _direct() as conn, _letting_go(conn):
        if not _try_lock(conn, f"project database {db_name}") or not _is_free(conn, db_name):
            raise contract.Locked(f"database '{db_name}' is being created or deleted")
        yield


@contextmanager
def _letting_go(conn: postgres.Connection) -> Iterator[None]:
    """Let go of locks before the connection ends, which the server notices a moment after us."""
    try:
        yield
    finally:
        with suppress(psycopg2.Error, contract.DatabaseError):
            contract.execute(conn, "SELECT pg_advisory_unlock_all()")


def _try_lock(conn: postgres.Connection, name: str) -> bool:
    row = contract.fetch_one(conn, "SELECT pg_try_advisory_lock(%s) AS locked", (_lock_key(name),))
    return bool(row and row["locked"])


def _is_free(conn: postgres.Connection, name: str) -> bool:
    """Whether nobody holds the lock `name`."""
    if not _try_lock(conn, name):
        return False
    contract.execute(conn, "SELECT pg_advisory_unlock(%s)", (_lock_key(name),))
    return True


def _ddl(conn: postgres.Connection, statement: str, name: str, **identifiers: str) -> None:
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


def project_mark(project_id: int | None) -> str:
    """The same, for those that bring databases back from elsewhere."""
    return _marker(project_id)


def create_project_database(
    project_name: str, template_sql: str = "", project_id: int | None = None
) -> str:
    """Make the database with the template's tables in it: whole or not at all."""
    db_name = names.new_database_name(project_name, get_settings().db_name)

    def fill(half_made: str) -> None:
        if template_sql.strip():
            _apply_template(half_made, template_sql)

    owner = deletion.find_owner(read_db, db_name) if project_id is None else project_id
    make_project_database(db_name, owner, fill)
    return db_name


def make_project_database(
    db_name: str, project_id: int | None, fill: Callable[[str], None]
) -> None:
    """Make the database under another name, let `fill` fill it there, and rename it at the end."""
    half_made = f"{_half_made_prefix()}{uuid.uuid4().hex}"
    with _renaming(db_name) as conn:
        if _exists(conn, db_name):
            raise contract.DatabaseExists(f"database '{db_name}' already exists")
        _try_lock(conn, half_made)
        try:
            _ddl(conn, "CREATE DATABASE {} TEMPLATE template0", half_made)
            _comment(conn, half_made, _marker(project_id))
            fill(half_made)
            _rename(conn, half_made, db_name)
        except BaseException:
            with suppress(psycopg2.Error, contract.DatabaseError):
                _ddl(conn, "DROP DATABASE IF EXISTS {} WITH (FORCE)", half_made)
            raise


@contextmanager
def _renaming(db_name: str) -> Iterator[postgres.Connection]:
    """A connection on which a database gets the name, or loses it.

    The server ends the statement of a process that was killed in its own time: till then the lock
    says that it isn't over yet.
    """
    with _ddl_slot(), _direct() as conn, _letting_go(conn):
        _try_lock(conn, db_name)
        yield conn


def _rename(conn: postgres.Connection, name: str, to: str) -> None:
    try:
        _ddl(conn, "ALTER DATABASE {} RENAME TO {to}", name, to=to)
    except (psycopg2.errors.DuplicateDatabase, psycopg2.errors.UniqueViolation) as error:
        raise contract.DatabaseExists(f"database '{to}' already exists") from error


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


def _comment(conn: postgres.Connection, db_name: str, comment: str) -> None:
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
            raise contract.TemplateFailed(postgres.first_line(error)) from error
        except psycopg2.Error as error:
            if postgres.error_kind(error) in (contract.Conflict, contract.BadValue, None):
                raise contract.TemplateFailed(postgres.first_line(error)) from error
            raise
        conn.commit()


def drop_project_database(db_name: str, project_id: int | None, force: bool) -> bool:
    """Drop the database if its comment says that it is the project's."""
    _check_name(db_name)
    return _drop(db_name, project_id, force)


def drop_kept_database(kept_name: str, project_id: int, force: bool) -> bool:
    """The same of one that was set aside."""
    _check_kept_name(kept_name, project_id)
    return _drop(kept_name, project_id, force)


def _check_name(db_name: str) -> None:
    """The guard once more, where the statement is made."""
    refusal = names.find_refusal(db_name, get_settings().db_name)
    if refusal is not None:
        raise refusal


def _check_kept_name(kept_name: str, project_id: int) -> None:
    refusal = names.find_kept_refusal(kept_name, project_id)
    if refusal is not None:
        raise refusal


def _drop(name: str, project_id: int | None, force: bool) -> bool:
    with _ddl_slot(), _direct() as conn:
        if not _is_own(conn, name, project_id, force):
            return False
        _end_backups(conn, name)
        with _unless_in_use(name):
            _ddl(conn, f"DROP DATABASE IF EXISTS {{}}{' WITH (FORCE)' if force else ''}", name)
    return True


def _is_own(conn: postgres.Connection, name: str, project_id: int | None, force: bool) -> bool:
    """Whether there is such a database; raises `Refused` unless it is the project's and free."""
    row = contract.fetch_one(
        conn,
        "SELECT shobj_description(oid, 'pg_database') AS comment, "
        "pg_has_role(datdba, 'USAGE') AS owned, "
        "(SELECT count(*) FROM pg_stat_activity "
        # Autovacuum has no user, and makes way by itself; a backup makes way as well.
        "WHERE datname = %(name)s AND usesysid IS NOT NULL "
        "AND application_name <> %(backup)s) AS others "
        "FROM pg_database WHERE datname = %(name)s",
        {"name": name, "backup": BACKUP},
    )
    if row is None:
        return False
    # One that was made by name alone belongs to whoever has its name in this master.
    if row["comment"] not in (_marker(project_id), _marker(None)):
        raise names.Refused(
            f"Database '{name}' is not the one that this project created.", hard=True
        )
    if not row["owned"]:
        raise names.Refused(f"Database '{name}' belongs to another role.", hard=True)
    if row["others"] and not force:
        raise _in_use(name)
    return True


def _in_use(name: str) -> names.Refused:
    return names.Refused(
        f"Database '{name}' is in use by other connections.", hard=False, in_use=True
    )


@contextmanager
def _unless_in_use(name: str) -> Iterator[None]:
    """Somebody came meanwhile, or a superuser is connected whom we can't send away."""
    try:
        yield
    except (psycopg2.errors.ObjectInUse, psycopg2.errors.InsufficientPrivilege) as error:
        raise _in_use(name) from error


def set_project_database_aside(db_name: str, kept_name: str, project_id: int, force: bool) -> bool:
    """Rename the database if its comment says that it is the project's."""
    _check_name(db_name)
    _check_kept_name(kept_name, project_id)
    with _renaming(db_name) as conn:
        if _is_own(conn, kept_name, project_id, force=True):
            return True
        if not _is_own(conn, db_name, project_id, force):
            return False
        _check_may_rename(conn, db_name)
        _end_backups(conn, db_name)
        with _unless_in_use(db_name):
            if force:
                _send_away(conn, db_name)
            _rename(conn, db_name, kept_name)
    return True


def bring_project_database_back(kept_name: str, db_name: str, project_id: int) -> bool:
    """Rename it back; PostgreSQL refuses a name that is taken."""
    _check_name(db_name)
    _check_kept_name(kept_name, project_id)
    with _renaming(db_name) as conn:
        if not _is_own(conn, kept_name, project_id, force=False):
            return _is_own(conn, db_name, project_id, force=True)
        _check_may_rename(conn, kept_name)
        _end_backups(conn, kept_name)
        with _unless_in_use(kept_name):
            _rename(conn, kept_name, db_name)
    return True


def _check_may_rename(conn: postgres.Connection, name: str) -> None:
    """A role that may not create databases may drop its own, yet not rename them."""
    row = contract.fetch_one(
        conn,
        "SELECT rolcreatedb OR rolsuper AS may FROM pg_roles WHERE rolname = current_user",
    )
    if not row or not row["may"]:
        raise names.Refused(f"Database '{name}' may not be renamed by this role.", hard=True)


def _send_away(conn: postgres.Connection, name: str) -> None:
    """End others' connections; a new one finds the database gone, or waits for its new name."""
    contract.execute(
        conn,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = %s AND usesysid IS NOT NULL",
        (name,),
    )


def _end_backups(conn: postgres.Connection, db_name: str) -> None:
    """A backup goes on without a database that goes; nobody shall wait for it."""
    contract.execute(
        conn,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s "
        "AND application_name = %s AND pg_has_role(usesysid, 'USAGE')",
        (db_name, BACKUP),
    )


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


def list_project_databases() -> list[FoundDatabase]:
    """By comment or name; what is half made and locked is in the making."""
    with _direct() as conn:
        rows = contract.fetch_all(
            conn,
            "SELECT datname AS name, datconnlimit <> -2 AS valid, "
            "coalesce(shobj_description(oid, 'pg_database'), '') AS comment "
            "FROM pg_database ORDER BY datname",
        )
        half_made = {
            row["name"]
            for row in rows
            if row["name"].startswith(_half_made_prefix()) and _is_free(conn, row["name"])
        }
    found = [_found(row, half_made) for row in rows]
    return [one for one in found if one["half_made"] or _may_be_a_projects(one)]


def _found(row: contract.Row, half_made: set[str]) -> FoundDatabase:
    mark = _marker(None).removesuffix("unknown")
    project = row["comment"].removeprefix(mark)
    return {
        "name": row["name"],
        "marked": row["comment"].startswith(mark),
        "project_id": int(project) if project.isdecimal() else None,
        "valid": row["valid"],
        "half_made": row["name"] in half_made,
    }


def _may_be_a_projects(found: FoundDatabase) -> bool:
    if found["name"].startswith(_HALF_MADE):
        return False
    forms = (names.PROJECT_DATABASE, names.KEPT_DATABASE)
    return found["marked"] or any(form.fullmatch(found["name"]) for form in forms)


def database_sizes() -> DatabaseSizes:
    """As the server counts; databases that the role may not connect to are left out."""
    with _direct() as conn:
        master = contract.fetch_one(conn, "SELECT pg_database_size(current_database()) AS size")
        rows = contract.fetch_all(
            conn,
            "SELECT datname AS name, pg_database_size(oid) AS size FROM pg_database "
            "WHERE starts_with(coalesce(shobj_description(oid, 'pg_database'), ''), %s) "
            "AND has_database_privilege(oid, 'CONNECT')",
            (_marker(None).removesuffix("unknown"),),
        )
    # One that is dropped at this moment has no size.
    return {
        "master": (master or {}).get("size") or 0,
        "projects": sum(row["size"] or 0 for row in rows),
        "number": len(rows),
        "largest": contract.largest((row["name"], row["size"] or 0) for row in rows),
    }


def creation_obstacle() -> str | None:
    """The role's missing right to create databases."""
    with read_db() as conn:
        row = contract.fetch_one(
            conn,
            "SELECT rolname, rolcreatedb OR rolsuper AS may FROM pg_roles "
            "WHERE rolname = current_user",
        )
    if row is None or row["may"]:
        return None
    role = row["rolname"]
    return f"the role {role} may not create databases; to mend it: ALTER ROLE {role} CREATEDB"


def describe_project_database(db_name: str) -> ProjectDatabase | None:
    """The project's database: its size and tables."""
    with _direct(patience=postgres.CONNECT_SECONDS) as conn:
        if not _exists(conn, db_name):
            return None
    with _direct(db_name, patience=postgres.CONNECT_SECONDS) as conn:
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


def _sweep(conn: postgres.Connection, db_name: str) -> bool:
    try:
        _ddl(conn, "DROP DATABASE IF EXISTS {} WITH (FORCE)", db_name)
    except (psycopg2.Error, contract.DatabaseError) as error:
        log.warning(
            "half-made database not removed",
            extra={"database": db_name, "cause": postgres.first_line(error)},
        )
        return False
    return True
