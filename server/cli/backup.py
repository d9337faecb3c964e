"""The commands that make backups, list and verify them."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from server.backups import digests, state, taking, verifying
from server.backups.manifest import Damaged, Impossible, Manifest
from server.backups.postgres_databases import PostgresDatabases
from server.backups.sqlite_databases import SqliteDatabases
from server.backups.state import Backup, Verified
from server.migration.report import Screen
from server.settings import BadSettings, Settings, get_settings
from server.storage.contract import Busy, DatabaseError, StorageFull

app = typer.Typer(invoke_without_command=True, rich_markup_mode="markdown")

Json = dict[str, Any]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]


class Exit(IntEnum):
    """The exit codes, as the commands' help and docs/operations.md list them."""

    GOOD = 0
    INCOMPLETE = 1
    IMPOSSIBLE = 2
    BUSY = 3
    FULL = 4


_REASONS: tuple[tuple[type[Exception], Exit], ...] = (
    (Damaged, Exit.INCOMPLETE),
    (Busy, Exit.BUSY),
    (StorageFull, Exit.FULL),
    (DatabaseError, Exit.IMPOSSIBLE),
    (BadSettings, Exit.IMPOSSIBLE),
    (Impossible, Exit.IMPOSSIBLE),
    (OSError, Exit.IMPOSSIBLE),
)


def ending(
    name: str, work: Callable[[Settings, Screen], tuple[Json, str]], *, as_json: bool
) -> None:
    """Do the work, and print what came of it: JSON on stdout, or one text for people.

    Ends the program with the exit code in the JSON, or that of what went wrong.
    """
    try:
        # cron mails whatever is printed: what goes well only matters to who looks on.
        quiet = as_json or not sys.stderr.isatty()
        found, text = work(get_settings(), Screen(quiet=quiet))
    except tuple(kind for kind, _ in _REASONS) as error:
        fail(name, error, as_json=as_json)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        typer.echo(text, err=found["exit"] != Exit.GOOD)
    raise typer.Exit(found["exit"])


def fail(name: str, error: Exception, *, as_json: bool) -> NoReturn:
    """End with the reason, and its exit code."""
    code = next(code for kind, code in _REASONS if isinstance(error, kind))
    if as_json:
        typer.echo(json.dumps({"exit": code, "error": str(error)}, indent=2))
    typer.echo(f"clawd {name}: {error}", err=True)
    raise typer.Exit(code)


@app.callback()
def backup(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Make a backup of everything, while the service goes on.

    The master with its images and every project's database, in one file in BACKUP_DIR. The oldest
    beyond BACKUP_KEEP are removed once it is there, but never the one last verified.

    Exit codes: 0 made; 1 made, but something could not be in it; 2 not possible, with the reason;
    3 another backup, verify or restore is running; 4 no room on the disk. After 2, 3 and 4 the
    backups are as they were.

    Examples:

        ./clawd backup

        ./clawd backup --json

        ./clawd backup && ./clawd backup verify
    """
    if context.invoked_subcommand is None:
        ending("backup", _take, as_json=as_json)


def _take(settings: Settings, screen: Screen) -> tuple[Json, str]:
    databases: taking.Databases
    databases = PostgresDatabases(settings) if settings.postgres else SqliteDatabases(settings)
    taken = taking.take(databases, settings, screen)
    problems = taken.manifest.problems
    found = {
        "exit": Exit.INCOMPLETE if problems else Exit.GOOD,
        "file": str(taken.path),
        "bytes": taken.path.stat().st_size,
        "databases": described(taken.manifest),
        "problems": problems,
        "removed": [path.name for path in taken.removed],
    }
    lines = [f"{taken.path}: {found['bytes']:,} bytes, {len(taken.manifest.databases)} databases"]
    lines += [f"Removed: {path.name}" for path in taken.removed]
    lines += [f"Not in it: {problem}" for problem in problems]
    return found, "\n".join(lines)


def described(manifest: Manifest) -> list[Json]:
    """The databases of a backup with their number of rows."""
    return [
        {"name": entry.name, "project": entry.project_id, "rows": digests.rows(entry.tables)}
        for entry in manifest.databases
    ]


@app.command("list")
def show(*, as_json: AsJson = False) -> None:
    """List the backups, the newest first, with what the last verification found.

    Exit codes: 0, also where there are none; 2 not possible, with the reason.

    Example:

        ./clawd backup list
    """
    ending("backup list", _list, as_json=as_json)


def _list(settings: Settings, screen: Screen) -> tuple[Json, str]:
    verified = state.read_verified(settings.backup_dir)
    backups = state.list_backups(settings.backup_dir)[::-1]
    found = {
        "exit": Exit.GOOD,
        "folder": str(settings.backup_dir),
        "backups": [_shown(one, verified) for one in backups],
        "verified": asdict(verified) | {"at": verified.at.isoformat()} if verified else None,
    }
    lines = [
        f"{one.path.name}  {one.size:>15,} bytes  {_word(one, verified)}".rstrip()
        for one in backups
    ]
    return found, "\n".join(lines) or f"No backups in {settings.backup_dir}"


def _shown(one: Backup, verified: Verified | None) -> Json:
    return {
        "file": one.path.name,
        "backend": one.backend,
        "at": one.at.isoformat(),
        "bytes": one.size,
        "verified": _word(one, verified),
    }


def _word(one: Backup, verified: Verified | None) -> str:
    if verified is None:
        return ""
    if one.path.name == verified.file:
        return "verified" if verified.ok else f"bad: {verified.problem}"
    return "verified" if one.path.name == verified.good else ""


@app.command("verify")
def verify(
    file: Annotated[
        Path | None, typer.Argument(help="A backup, or its name in BACKUP_DIR; the newest without.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into a scratch place, compare what comes out, and remove it again.

    The result is kept for ./clawd backup list, the metrics and ./clawd doctor.

    Exit codes: 0 it came out equal; 1 it is damaged, or came out different; 2 could not be tried,
    with the reason; 3 another backup, verify or restore is running; 4 no room on the disk.

    Examples:

        ./clawd backup verify

        ./clawd backup verify clawd-postgresql-20261121T030000Z.tar.gz
    """

    def work(settings: Settings, screen: Screen) -> tuple[Json, str]:
        return _verify(settings, find(settings, file) if file else None, screen)

    ending("backup verify", work, as_json=as_json)


def _verify(settings: Settings, path: Path | None, screen: Screen) -> tuple[Json, str]:
    result = verifying.verify(settings, path, screen)
    verified = result.verified
    found = {
        "exit": Exit.GOOD if verified.ok else Exit.INCOMPLETE,
        **asdict(verified),
        "at": verified.at.isoformat(),
        "file": str(result.path),
        "databases": described(result.manifest) if result.manifest else [],
    }
    word = "came out equal" if verified.ok else f"BAD: {verified.problem}"
    return found, f"{result.path}: {word} ({verified.seconds} s)"


def find(settings: Settings, file: Path) -> Path:
    """The backup that was named: a path, or a name in BACKUP_DIR."""
    for path in (file, settings.backup_dir / file):
        if path.is_file():
            return path
    raise Impossible(f"there is no {file}: ./clawd backup list shows what there is")
