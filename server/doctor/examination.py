"""All checks of the doctor's: which there are, and that none of them hangs."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from server.doctor import backups, clock, database, files, gateway, projects
from server.doctor import settings as of_settings
from server.doctor.finding import Finding, problem, warning
from server.settings import BadSettings, Settings, get_settings
from server.storage.contract import DatabaseError

# There are two rounds, the second for what needs the database.
SECONDS = 5.0


@dataclass(frozen=True)
class Check:
    """One check: what it looks at, and how."""

    name: str
    find: Callable[[], Finding]


Found = dict[str, Finding]


def examine() -> Found:
    """What every check found, by its name, in the order in which they are shown; 11 s at most."""
    first = _settings_found()
    try:
        settings = get_settings()
    except BadSettings as error:
        return {"settings": of_settings.bad(error), **run(first)}
    found = {"settings": of_settings.good(settings), **run([*first, *_apart(settings)])}
    if found["database"].status == "ok":
        return found | run(_in_database(settings))
    return found | {check.name: _left_out() for check in _in_database(settings)}


def _settings_found() -> list[Check]:
    """What can be looked at with bad settings, too."""
    return [
        Check("user", lambda: of_settings.user(os.geteuid())),
        Check("permissions", lambda: files.permissions(of_settings.secret_files())),
    ]


def _apart(settings: Settings) -> list[Check]:
    """What needs no database, and whether it is there."""
    now = datetime.now(UTC)
    found = [
        Check("passwords", lambda: of_settings.passwords(settings)),
        Check("branch", lambda: of_settings.branch(settings)),
        Check("disk", lambda: files.disks(settings)),
        Check("backup", lambda: backups.age(settings, now)),
        Check("verified", lambda: backups.verified(settings, now)),
        Check("gateway", lambda: gateway.reach(settings)),
        Check("gateway safety", lambda: gateway.safety(settings)),
        Check("database", lambda: database.reach(settings)),
    ]
    if settings.openclaw_url is not None:
        found.append(Check("gateway clock", lambda: clock.against_gateway(settings, _now)))
    if not settings.postgres:
        paths = [settings.db_path]
        found += [
            Check("database file", lambda: files.permissions(paths)),
            Check(
                "file system", lambda: files.file_system(settings, files.MOUNTS.read_text("utf-8"))
            ),
        ]
    return found


def _in_database(settings: Settings) -> list[Check]:
    found = [
        Check("schema", database.schema),
        Check("projects", lambda: projects.fit(settings)),
    ]
    if settings.postgres:
        found += [
            Check("role", lambda: database.role(settings)),
            Check(
                "connections",
                lambda: database.connections(settings, database.count_processes(settings)),
            ),
            Check("database clock", lambda: clock.against_database(_now)),
        ]
    return found


def _now() -> datetime:
    return datetime.now(UTC)


def _left_out() -> Finding:
    return warning("not looked at: it needs the database", "mend the database first")


def run(checks: list[Check], seconds: float = SECONDS) -> Found:
    """What the checks find, all at once; one that takes longer is a problem by that."""
    found: Found = {}
    threads = []
    for check in checks:
        # One that hangs, on a dead disk say, must not keep the process from its end.
        thread = threading.Thread(target=_one, args=(check, found), daemon=True)
        thread.start()
        threads.append(thread)
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = problem(f"no answer within {seconds:g} s", "find out what it waits for, and try again")
    return {check.name: found.get(check.name, late) for check in checks}


def _one(check: Check, found: Found) -> None:
    try:
        found[check.name] = check.find()
    except (DatabaseError, OSError) as error:
        found[check.name] = problem(str(error), "mend that, and run this again")
    except Exception as error:
        kind = type(error).__name__
        found[check.name] = problem(f"the check itself failed: {kind}", "report it as a defect")
