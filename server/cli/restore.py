"""The command that brings a backup back."""

from pathlib import Path
from typing import Annotated

import typer

from server.backups import restoring
from server.cli.backup import AsJson, Exit, Json, described, ending, find
from server.migration.report import Screen
from server.settings import Settings


def run(
    file: Annotated[Path, typer.Argument(help="A backup, or its name in BACKUP_DIR.")],
    *,
    admin_url: Annotated[
        str,
        typer.Option(
            envvar="POSTGRES_ADMIN_URL",
            help="A superuser: postgresql://postgres:password@localhost. Needed on PostgreSQL "
            "where the service's role doesn't own the master; makes the roles as well.",
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Bring a backup back, in place of the databases in use; these are kept under other names.

    Stop the service first. The backup is restored beside what is there and compared with what was
    saved; only then the names are exchanged: on PostgreSQL all in one transaction, on SQLite the
    master last. Works in an empty place as well. Killed at any moment, the old is still there:
    run it again.

    Exit codes: 0 restored; 1 the backup is damaged, or came out different; 2 not possible, with
    the reason; 3 the database is in use, or another run is at work; 4 no room on the disk. After
    1 to 4 the databases are as they were.

    Examples:

        ./clawd restore clawd-sqlite-20261121T030000Z.tar.gz

        POSTGRES_ADMIN_URL=postgresql://postgres:secret@localhost ./clawd restore FILE
    """

    def work(settings: Settings, screen: Screen) -> tuple[Json, str]:
        path = find(settings, file)
        restored = restoring.restore(settings, path, admin_url, screen)
        found = {
            "exit": Exit.GOOD,
            "file": str(path),
            "databases": described(restored.manifest),
            "problems": restored.manifest.problems,
            "kept": restored.kept,
        }
        lines = [f"Restored {len(restored.manifest.databases)} databases from {path}"]
        lines += [f"Not in it: {problem}" for problem in restored.manifest.problems]
        lines += [f"Kept: {old}" for old in restored.kept]
        return found, "\n".join(lines)

    ending("restore", work, as_json=as_json)
