"""Checks of the backups."""

from datetime import datetime

from server.backups import state
from server.doctor.finding import Finding, problem, warning, well
from server.monitoring.measured import newest_backup
from server.settings import Settings

OLD_HOURS = 26  # one a day, and some time to make it
UNVERIFIED_DAYS = 31


def age(settings: Settings, now: datetime) -> Finding:
    """How old the newest backup is."""
    newest, cure = newest_backup(settings), "./clawd backup, each day by cron"
    if newest is None:
        return warning(f"there is no backup in {settings.backup_dir}", cure)
    hours = (now - newest.at).total_seconds() / 3600
    if hours > OLD_HOURS:
        return warning(f"the newest backup is {hours:.0f} hours old", cure)
    return well(f"the newest is {max(0, hours):.0f} hours old")


def verified(settings: Settings, now: datetime) -> Finding:
    """What the last verification found, and when it was."""
    found, cure = state.read_verified(settings.backup_dir), "./clawd backup verify"
    if found is None:
        return warning("no backup was ever verified", cure)
    if not found.ok:
        return problem(
            f"{found.file} is not as it should be: {found.problem}",
            f"./clawd backup && {cure}",
        )
    days = (now - found.at).days
    if days > UNVERIFIED_DAYS:
        return warning(f"the last verification was {days} days ago", cure)
    return well(f"{found.file} was found whole {max(0, days)} days ago")
