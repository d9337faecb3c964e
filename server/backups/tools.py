"""PostgreSQL's own programs: found, and run without a password on their command line."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import make_dsn

from database_postgres import BACKUP
from server.backups.folder import NO_ROOM
from server.backups.manifest import Impossible
from server.settings import Settings
from server.storage import contract

# Where Debian and Red Hat put the versions beside each other.
_SYSTEM = ("lib/postgresql/*/bin", "pgsql-*/bin")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
# What is to be as it was; whose it is and who else may use it is this service's own matter.
_RESTORE = (
    "--exit-on-error",
    "--no-owner",
    "--no-privileges",
    "--no-tablespaces",
    "--no-publications",
    "--no-subscriptions",
)


class ToolFailed(contract.DatabaseError):
    """pg_dump or pg_restore gave up; the line with which it did."""


@dataclass(frozen=True)
class Tools:
    """`pg_dump` and `pg_restore` of one version; `place` is where the server is, and as whom."""

    folder: Path
    major: int
    place: dict[str, Any]

    def dump(self, database: str, snapshot: str, file: Path) -> None:
        """Write what the database holds in a snapshot that a transaction has exported."""
        self._run(
            "pg_dump", database, f"--snapshot={snapshot}", "--format=custom", f"--file={file}"
        )

    def restore(self, file: Path, database: str, role: str = "") -> None:
        """Fill an empty database; with `role`, as that role."""
        become = (f"--role={role}",) if role else ()
        self._run("pg_restore", database, *_RESTORE, *become, str(file))

    def _run(self, program: str, database: str, *options: str) -> None:
        place = {name: value for name, value in self.place.items() if name != "password"}
        target = make_dsn(**{**place, "dbname": database})
        done = subprocess.run(  # noqa: S603  (no shell; names are quoted in the connection string)
            [self.folder / program, "--no-password", f"--dbname={target}", *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={
                **os.environ,
                "PGPASSWORD": str(self.place.get("password") or ""),
                "PGAPPNAME": BACKUP,
                "LC_ALL": "C",
            },
            check=False,
        )
        if done.returncode:
            reason = _reason(done.stderr) or f"ended with {done.returncode}"
            if "No space left on device" in done.stderr:
                raise contract.StorageFull(NO_ROOM)
            raise ToolFailed(f"{program} of {database}: {reason}")


def _reason(said: str) -> str:
    """The first line of an error, without the program's name."""
    lines = [line for line in said.splitlines() if "error" in line.lower()] or said.splitlines()
    return re.sub(r"^pg_\w+: (error: )?", "", lines[0]) if lines else ""


def find(settings: Settings, server: int, place: dict[str, Any]) -> Tools:
    """The lowest version that isn't older than the server, since newer ones may say what it can't.

    Raises `Impossible` with the name of the package that has it.
    """
    found = [
        (major, folder) for folder in _folders(settings) if (major := _major(folder)) >= server
    ]
    if not found:
        raise Impossible(
            f"needs pg_dump and pg_restore of PostgreSQL {server} or newer: "
            f"apt install postgresql-client-{server}, or set PG_BIN_DIR to their folder"
        )
    major, folder = min(found, key=lambda one: one[0])
    return Tools(folder, major, place)


def _folders(settings: Settings) -> Iterator[Path]:
    if settings.pg_bin_dir:
        yield settings.pg_bin_dir
        return
    if on_path := shutil.which("pg_dump"):
        yield Path(on_path).parent
    for pattern in _SYSTEM:
        yield from sorted(Path("/usr").glob(pattern))


def _major(folder: Path) -> int:
    """The version of both programs in the folder, 0 without them."""
    try:
        majors = {
            int(match[1])
            for program in ("pg_dump", "pg_restore")
            if (match := _VERSION.search(_said_version(folder / program)))
        }
    except OSError:
        return 0
    return majors.pop() if len(majors) == 1 else 0


def _said_version(program: Path) -> str:
    done = subprocess.run(  # noqa: S603  (a program in a folder of PostgreSQL's)
        [program, "--version"], capture_output=True, text=True, check=False
    )
    return done.stdout
