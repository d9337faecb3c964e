"""The command `scripts/import_chats`."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

import database_adapter
from server.auth.emails import account_key
from server.auth.queries import find_account
from server.errors import Problem
from server.importing.formats import Format
from server.importing.queries import find_project
from server.importing.report import UNREADABLE, Report
from server.importing.run import Run, Tell
from server.importing.store import Target
from server.projects import creation
from server.settings import BadSettings, get_settings
from server.storage.contract import DatabaseError


class _CannotRun(Exception):
    """The reason why nothing can be imported."""


def run(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, readable=True)],
    *,
    email: Annotated[str, typer.Option(help="Whose conversations they become.")],
    project: Annotated[str, typer.Option(help="The project that they come into.")],
    form: Annotated[
        Format, typer.Option("--format", help="Refuse what is in another format.")
    ] = Format.AUTO,
    create_project: Annotated[
        bool, typer.Option("--create-project", help="Make the project if there is none.")
    ] = False,
    source_user: Annotated[
        str | None,
        typer.Option(help="Take only what belongs to this user_id in the files."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what there is to import.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Import conversations from ChatGPT, Open WebUI or llmcouncil into a user's project.

    What is there already is left as it is, so that running it again does no harm. Exits with 0
    when everything is in, 1 when something was refused or has changed since (it is listed), 2
    when a file can't be read or nothing could be done.
    """
    report = Report(dry_run)
    try:
        target = _target(email, project, create=create_project and not dry_run)
        if target.project_id is None and not (dry_run and create_project):
            raise _CannotRun(f"{email} has no project {project}; --create-project makes one")
        work = Run(target, email, form, report, source_user)
        with _progress() as tell:
            for file in files:
                work.take(file, tell)
    except (_CannotRun, BadSettings, DatabaseError, Problem) as error:
        typer.echo(f"import_chats: {error}", err=True)
        typer.echo("Nothing is half imported: mend that and run this again.", err=True)
        raise typer.Exit(UNREADABLE) from error
    finally:
        database_adapter.close_pool()
    _tell(report, as_json=as_json)
    raise typer.Exit(report.status)


def _target(email: str, project: str, *, create: bool) -> Target:
    settings = get_settings()
    if not settings.postgres and not settings.db_path.exists():
        raise _CannotRun(f"there is no database at {settings.db_path}: start the service first")
    # What is to be said about the role on PostgreSQL, the service says at its start.
    logging.getLogger("clawd").setLevel(logging.ERROR)
    database_adapter.init_schema()
    with database_adapter.read_db() as conn:
        account = find_account(conn, account_key(email))
        if account is None:
            raise _CannotRun(f"nobody has the address {email}: sign up first")
        project_id = find_project(conn, account["id"], project)
    if project_id is None and create:
        project_id = creation.create(account["id"], project, None, "blank")["id"]
    return Target(account["id"], project_id, datetime.now(UTC))


@contextmanager
def _progress() -> Iterator[Tell]:
    """How far it is, for people at a terminal; nothing elsewhere."""
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda name, read: bar.update(task, description=f"{name}: {read / 1e6:,.1f} MB read")


def _tell(report: Report, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
        return
    for line in report.lines():
        typer.echo(line)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(run)
    app(prog_name="scripts/import_chats")
