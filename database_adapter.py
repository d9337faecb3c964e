"""The one database that the service uses, chosen at run time by the settings.

Each function looks its module up when it is called: a name bound at import would keep the
database of the import.
"""

from contextlib import AbstractContextManager
from typing import Any

from server.settings import BadSettings, get_settings
from server.storage import contract, names
from server.storage.contract import (
    AppliedStep,
    Connection,
    ConnectionStatus,
    DatabaseSizes,
    DeletionResult,
    FoundDatabase,
    ProjectDatabase,
)


def current() -> contract.Database:
    """The module that the settings choose; the other one is not even imported."""
    if get_settings().postgres:
        import database_postgres

        return database_postgres
    import database

    return database


def get_db() -> AbstractContextManager[Connection]:
    """A transaction on the master database."""
    return current().get_db()


def read_db() -> AbstractContextManager[Connection]:
    """A connection for reading from the master database."""
    return current().read_db()


def change_db() -> AbstractContextManager[Connection]:
    """A connection for one statement that changes something: a transaction by itself."""
    return current().change_db()


def peek_db(patience: float = contract.PEEK_SECONDS) -> AbstractContextManager[Connection]:
    """A connection beside the pool that can only read."""
    return current().peek_db(patience)


def applied_steps() -> list[AppliedStep]:
    """The steps of schema/ that the master has."""
    return current().applied_steps()


def transaction_lock(conn: Connection, name: str) -> None:
    """Hold the lock `name` until the transaction ends."""
    current().transaction_lock(conn, name)


def init_schema() -> None:
    """Bring the master database to this code's schema."""
    current().init_schema()


def is_production() -> bool:
    """Whether production has marked the master as its own."""
    return current().is_production()


def ping() -> None:
    """Raise unless the master database answers."""
    current().ping()


def pool_stats() -> dict[str, int]:
    """The numbers of the pool."""
    return current().pool_stats()


def test_connection() -> ConnectionStatus:
    """Connect afresh and say what was found; never raises."""
    return current().test_connection()


def close_pool() -> None:
    """Close every connection."""
    current().close_pool()


def is_master_database(db_name: str) -> bool:
    """Whether the name is a master or maintenance database's."""
    return current().is_master_database(db_name)


def validate_project_database_deletion(project_name: str, db_name: str) -> tuple[bool, str]:
    """Whether the guard lets the database be dropped for the project, with the reason."""
    return current().validate_project_database_deletion(project_name, db_name)


def check_deletion(project_name: str, db_name: str) -> names.Refused | None:
    """The same, with whether the refusal is hard; None when the guard lets it pass."""
    return names.check_deletion(project_name, db_name, get_settings().db_name)


def new_database_name(project_name: str) -> str:
    """The database of a new project of this name; raises `names.Refused` for a reserved one."""
    db_name = names.new_database_name(project_name, get_settings().db_name)
    if current().is_master_database(db_name):
        raise names.Refused(f"The name '{project_name}' is reserved.", hard=True)
    return db_name


def lock_project_database(db_name: str) -> AbstractContextManager[None]:
    """Keep others from creating or dropping the database meanwhile."""
    return current().lock_project_database(db_name)


def create_project_database(
    project_name: str, template_sql: str = "", project_id: int | None = None
) -> str:
    """Make the project's database, all or nothing; returns its name."""
    return current().create_project_database(project_name, template_sql, project_id)


def drop_project_database(db_name: str, project_id: int | None, force: bool) -> bool:
    """Drop the project's database; False when there was none."""
    return current().drop_project_database(db_name, project_id, force)


def set_project_database_aside(db_name: str, kept_name: str, project_id: int, force: bool) -> bool:
    """Rename the project's database to a name under which it is kept; False: there was none."""
    return current().set_project_database_aside(db_name, kept_name, project_id, force)


def bring_project_database_back(kept_name: str, db_name: str, project_id: int) -> bool:
    """Rename what was set aside back; False where there is nothing."""
    return current().bring_project_database_back(kept_name, db_name, project_id)


def drop_kept_database(kept_name: str, project_id: int, force: bool) -> bool:
    """Drop what was set aside; False when there was none."""
    return current().drop_kept_database(kept_name, project_id, force)


def delete_project_database(project_name: str, force: bool = False) -> DeletionResult:
    """Drop the named project's database, within the guard."""
    return current().delete_project_database(project_name, force)


def project_database_exists(db_name: str) -> bool:
    """Whether anything of that name is there, whoever made it."""
    return current().project_database_exists(db_name)


def made_project_database(db_name: str, project_id: int) -> bool:
    """Whether it is there and carries the mark of `create_project_database`."""
    return current().made_project_database(db_name, project_id)


def describe_project_database(db_name: str) -> ProjectDatabase | None:
    """The project's database, read from itself; None when it is missing."""
    return current().describe_project_database(db_name)


def sweep_project_databases() -> list[str]:
    """Remove what creations that died left half made."""
    return current().sweep_project_databases()


def list_project_databases() -> list[FoundDatabase]:
    """Each database that is a project's or looks like one."""
    return current().list_project_databases()


def database_sizes() -> DatabaseSizes:
    """How large the master and the projects' databases are."""
    return current().database_sizes()


def creation_obstacle() -> str | None:
    """Why no project's database can be made, with what mends it."""
    return current().creation_obstacle()


def get_database_info() -> dict[str, Any]:
    """Which database is in use, why, and where it is; never the password."""
    try:
        settings = get_settings()
    except BadSettings as error:
        return {"backend": None, "status": "error", "reason": str(error)}
    backend, reason = settings.backend_choice
    if backend == "sqlite":
        return {
            "backend": backend,
            "reason": reason,
            "path": str(settings.db_path),
            "project_databases": str(settings.project_databases),
        }
    return {
        "backend": backend,
        "reason": reason,
        "host": settings.db_host,
        "port": settings.db_port,
        "database": settings.db_name,
        "user": settings.db_user,
        "sslmode": settings.db_sslmode,
        "pool": {"min": settings.db_pool_min, "max": settings.db_pool_max},
    }
