"""The command that makes the roles, the master database and its tables on PostgreSQL."""

import os
import secrets
from typing import Annotated
from urllib.parse import urlsplit

import typer

import database_postgres
from server.settings import ROOT, BadSettings, Settings, get_settings
from server.storage import migrate, roles
from server.storage.contract import DatabaseError

FILE = ROOT / ".env.postgres"


def run(
    admin_url: Annotated[
        str,
        typer.Option(
            envvar="POSTGRES_ADMIN_URL",
            help="A superuser: postgresql://postgres:password@localhost. Host and port are "
            "DB_HOST and DB_PORT unless it names others.",
        ),
    ] = "",
    sql: Annotated[
        bool, typer.Option("--sql", help="Connect nowhere; print what psql should run.")
    ] = False,
) -> None:
    """Make the role, the master database and its tables in PostgreSQL.

    The role that serves may then use the tables, and PostgreSQL refuses it to drop, truncate or
    empty the master. Run again it does no harm: after an update it applies the new steps of
    schema/, and a master that the role owned is taken from it.

    Where there is no .env.postgres, one is made, with a password.

    Examples:

        POSTGRES_ADMIN_URL=postgresql://postgres:secret@localhost ./clawd init-postgres

        ./clawd init-postgres --sql | sudo -u postgres psql
    """
    if not sql and not admin_url:
        _fail("needs POSTGRES_ADMIN_URL or --admin-url, or --sql to print what to run", 2)
    try:
        settings = _settings(admin_url)
        if sql:
            print(_script(settings))
            return
        database_postgres.set_up_master(admin_url)
    except (BadSettings, DatabaseError) as error:
        _fail(str(error), 1)
    typer.echo(
        f"Database {settings.db_name} at {settings.db_host}:{settings.db_port} is ready: role "
        f"{settings.db_user} uses it, role {roles.owner(settings.db_user)} owns its tables."
    )


def _settings(admin_url: str) -> Settings:
    settings = get_settings()
    if not FILE.exists() and not settings.db_password.get_secret_value():
        _write_file(admin_url)
        get_settings.cache_clear()
        settings = get_settings()
    if not settings.db_password.get_secret_value():
        raise BadSettings("DB_PASSWORD: set one in .env.postgres; openssl rand -hex 32 makes one")
    return settings


def _write_file(admin_url: str) -> None:
    """Settings for the same server, with a password that nobody needs to know."""
    place = urlsplit(admin_url)
    values = {
        "DB_HOST": place.hostname or "localhost",
        "DB_PORT": place.port or 5432,
        "DB_PASSWORD": secrets.token_hex(32),
    }
    lines = (ROOT / ".env.postgres.example").read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        name = line.partition("=")[0]
        if name in values:
            lines[number] = f"{name}={values[name]}"
    with os.fdopen(os.open(FILE, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write("\n".join([*lines, ""]))
    typer.echo(f"Made {FILE.name} with a new password.", err=True)


def _script(settings: Settings) -> str:
    """The same for psql."""
    role, master = settings.db_user, settings.db_name
    create = roles.database_sql(master)
    return f"""\\set ON_ERROR_STOP on
SET client_min_messages = warning;
{roles.cluster_sql(role, settings.db_password.get_secret_value())}
SELECT {roles.literal(create)}
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = {roles.literal(master)}) \\gexec
\\connect {roles.identifier(master)}
SET client_min_messages = warning;
BEGIN;
{roles.master_sql(role, master, migrate.steps(database_postgres.BACKEND))}
COMMIT;"""


def _fail(reason: str, status: int) -> None:
    typer.echo(f"clawd init-postgres: {reason}", err=True)
    raise typer.Exit(status)
