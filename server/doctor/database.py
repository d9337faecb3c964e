"""Checks of the master database."""

import json
from contextlib import suppress
from pathlib import Path

import database_adapter
import database_postgres
from server.doctor import queries
from server.doctor.finding import Finding, problem, warning, well
from server.settings import ROOT, Settings
from server.storage import migrate, roles
from server.storage.contract import Busy, DatabaseError, Misconfigured

APPS = ROOT / "ecosystem.config.json"
PRODUCTION = "clawd-backend"
# Making and dropping projects' databases takes some beside the pool, and so do people.
SPARE = 5


def reach(settings: Settings) -> Finding:
    """Whether the database is there, and is a master of this service."""
    if not settings.postgres and not settings.db_path.exists():
        return _no_file(settings)
    try:
        steps = database_adapter.applied_steps()
        with database_adapter.peek_db() as conn:
            tables = queries.count_tables(conn, postgres=settings.postgres)
        production = database_adapter.is_production()
    except DatabaseError as error:
        return _unreachable(settings, error)
    place = _place(settings)
    if steps:
        return well(f"{place} answers{', production has marked it as its own' * production}")
    if tables:
        name = "DB_NAME" if settings.postgres else "DB_PATH"
        return problem(
            f"{place} holds {tables} tables, and is no master of this service",
            f"set {name} to the right one",
        )
    return warning(f"{place} is empty", "start the service: it makes the tables")


def _place(settings: Settings) -> str:
    if settings.postgres:
        return f"{settings.db_name} at {settings.db_host}:{settings.db_port}"
    return str(settings.db_path)


def _no_file(settings: Settings) -> Finding:
    if next(settings.project_databases.glob("*_db.sqlite3"), None):
        return problem(
            f"there is no {settings.db_path}, but there are projects' databases",
            f"put the file back, or set DB_PATH to where it is: ./clawd restore brings a backup "
            f"back; {settings.project_databases} has the projects",
        )
    return warning(
        f"there is no {settings.db_path} yet", "start the service: ./start-backend.sh makes it"
    )


def _unreachable(settings: Settings, error: DatabaseError) -> Finding:
    detail, _, cure = str(error).partition("; to mend it: ")
    if cure:
        return problem(detail, cure)
    if not settings.postgres:
        return problem(
            f"{settings.db_path}: {detail}",
            "give this user the right to read it, or bring a backup back: ./clawd backup list",
        )
    where = f"PostgreSQL at {settings.db_host}:{settings.db_port}"
    if isinstance(error, Busy):
        return problem(
            f"{where}: {detail}",
            "end what takes its connections, or raise max_connections there",
        )
    return problem(
        f"{where}: {detail}",
        f"start it, for instance with sudo systemctl restart postgresql, or set DB_HOST and "
        f"DB_PORT right; pg_isready -h {settings.db_host} -p {settings.db_port} asks it",
    )


def schema() -> Finding:
    """Whether the tables are those of this code."""
    current = database_adapter.current()
    known = migrate.steps(current.BACKEND)
    applied = [(step["name"], step["checksum"]) for step in current.applied_steps()]
    try:
        todo = migrate.pending(applied, known)
    except Misconfigured as error:
        detail, _, cure = str(error).rpartition("; ")
        return problem(detail, f"{cure}; ./clawd migrate status shows every step")
    if todo:
        return warning(
            f"behind this code by {', '.join(step.name for step in todo)}",
            "restart the service, which applies them; where another role owns the tables, "
            "./clawd init-postgres first",
        )
    return well(f"has all {len(known)} steps of this code")


def role(settings: Settings) -> Finding:
    """Whether our role could drop the master: it tries."""
    with database_adapter.peek_db() as conn:
        superuser, strengths = roles.is_superuser(conn), roles.find_strengths(conn)
    guard = database_postgres.try_to_drop_master()
    name, cure = settings.db_user, "./clawd init-postgres"
    tried = f"tried to drop the master as {name}: refused"
    if superuser:
        return (warning if settings.allow_superuser else problem)(
            f"{name} is a superuser, which could drop the master", cure
        )
    if guard == "open":
        return problem(f"{tried} only since a connection to it was open", cure)
    if guard == "template":
        return warning(
            f"{tried} since it is marked as a template; but the role owns it, and could unmark it",
            cure,
        )
    if strengths:
        return warning(f"{tried}; but the role {', '.join(strengths)}", cure)
    return well(f"{tried}, it isn't the role's")


def connections(settings: Settings, processes: int) -> Finding:
    """Whether the server has room for the pools of all processes."""
    with database_adapter.peek_db() as conn:
        places = database_postgres.count_places(conn)
    wanted = settings.db_pool_max * processes
    each = f"{processes} process{'es' * (processes > 1)}"
    detail = f"DB_POOL_MAX {settings.db_pool_max} x {each}, of {places} places"
    if wanted + SPARE <= places:
        return well(detail)
    fitting = max(1, (places - SPARE) // processes)
    return warning(
        f"{detail}: requests fail when all are busy",
        f"set DB_POOL_MAX={fitting}, or as a superuser: ALTER SYSTEM SET max_connections = "
        f"{max(100, 2 * wanted)}, and restart PostgreSQL",
    )


def count_processes(settings: Settings, apps: Path = APPS) -> int:
    """How many processes share the database, as PM2 runs it; one where production doesn't."""
    production = settings.app_env == "production" or database_adapter.is_production()
    if production:
        with suppress(OSError, ValueError, KeyError, TypeError):
            for app in json.loads(apps.read_text("utf-8"))["apps"]:
                if app["name"] == PRODUCTION:
                    return max(1, int(app.get("instances", 1)))
    return 1
