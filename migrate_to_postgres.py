"""Moves everything from SQLite to PostgreSQL, or back: the master and the projects' databases.

    python3 migrate_to_postgres.py --dry-run        what would happen; nothing is written
    python3 migrate_to_postgres.py                  copy, and prove that both sides are equal
    python3 migrate_to_postgres.py --validate-only  compare the two sides
    python3 migrate_to_postgres.py --to sqlite      the way back, with the same options

The settings name both: DB_PATH and PROJECT_DB_DIR the files, DB_HOST and the others the server.
docs/migration.md walks through it. Exit codes: 0 both sides hold the same, 1 they differ, 2 usage,
or a side that can't be reached, 3 the source needs decisions, 4 the target holds something else,
5 the source was written to meanwhile.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from server.migration.census import Options
from server.migration.report import Exit, Report, Screen, show
from server.migration.to_postgres import Request, Run
from server.migration.to_sqlite import WayBack
from server.settings import ROOT, BadSettings, get_settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command(help=__doc__)
def main(
    *,
    to: Annotated[
        Literal["postgres", "sqlite"], typer.Option(help="Where to: the other is the source.")
    ] = "postgres",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; say what would happen.")
    ] = False,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Write nothing; compare the two sides.")
    ] = False,
    merge: Annotated[
        bool,
        typer.Option("--merge", help="Add to a target in use; what collides gets new ids."),
    ] = False,
    assume_timezone: Annotated[
        str, typer.Option(metavar="ZONE", help="The zone of times without one, such as UTC.")
    ] = "",
    nul: Annotated[
        Literal["fail", "replace"], typer.Option(help="NUL in text: refuse, or U+FFFD instead.")
    ] = "fail",
    invalid_utf8: Annotated[
        Literal["fail", "replace"],
        typer.Option(help="Text that is not UTF-8: refuse, or U+FFFD instead."),
    ] = "fail",
    misfits: Annotated[
        Literal["fail", "quarantine"],
        typer.Option(help="A value that isn't of its column's type: refuse, or keep the row out."),
    ] = "fail",
    orphans: Annotated[
        Literal["fail", "quarantine", "null"],
        typer.Option(help="A row that names one which isn't there; null where the column may be."),
    ] = "fail",
    duplicate_emails: Annotated[
        Literal["fail", "quarantine"],
        typer.Option(help="E-mails that differ only by case: refuse, or keep later users out."),
    ] = "fail",
    unknown: Annotated[
        Literal["fail", "keep"],
        typer.Option(help="Tables and columns of nobody's: refuse, or leave in the backup."),
    ] = "fail",
    missing_databases: Annotated[
        Literal["fail", "skip"],
        typer.Option(help="Projects whose file isn't there: refuse, or go without."),
    ] = "fail",
    backup_dir: Annotated[
        Path, typer.Option(help="Where the backup and the report are kept.")
    ] = ROOT / "backups",
    admin_url: Annotated[
        str,
        typer.Option(
            envvar="POSTGRES_ADMIN_URL",
            help="A superuser's, where the service's role doesn't own the tables: faster.",
        ),
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON, and nothing else.")
    ] = False,
) -> None:
    screen = Screen(quiet=as_json)
    report = Report(" ".join(sys.argv[1:]))
    if dry_run and validate_only:
        _fail(report, "--dry-run and --validate-only exclude each other", as_json=as_json)
    if merge and to == "sqlite":
        _fail(report, "--merge brings a file home into PostgreSQL, not back", as_json=as_json)
    try:
        zone = ZoneInfo(assume_timezone) if assume_timezone else None
    except (ZoneInfoNotFoundError, ValueError):
        _fail(report, f"--assume-timezone: {assume_timezone} is no time zone", as_json=as_json)
    options = Options(
        zone=zone,
        nul=nul,
        invalid_utf8=invalid_utf8,
        misfits=misfits,
        orphans=orphans,
        duplicate_emails=duplicate_emails,
        unknown=unknown,
        missing_databases=missing_databases,
    )
    request = Request(
        backups=backup_dir.resolve(),
        options=options,
        admin_url=admin_url,
        dry_run=dry_run,
        validate_only=validate_only,
        merge=merge,
    )
    try:
        settings = get_settings()
        if not settings.names_postgres:
            raise BadSettings("no PostgreSQL is named: .env.postgres, DB_HOST or DATABASE_URL do")
    except BadSettings as error:
        _fail(report, str(error), as_json=as_json)
    run = WayBack if to == "sqlite" else Run
    report = run(request, screen, report).go()
    if as_json:
        print(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
    else:
        show(report, screen)
    raise typer.Exit(report.exit)


def _fail(report: Report, reason: str, *, as_json: bool) -> None:
    """End with what is wrong with the command or the settings."""
    report.exit, report.result = Exit.UNREACHABLE, reason
    if as_json:
        print(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
    else:
        print(f"migrate_to_postgres: {reason}", file=sys.stderr)
    raise typer.Exit(report.exit)


if __name__ == "__main__":
    app()
