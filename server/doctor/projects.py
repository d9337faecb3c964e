"""The check that projects and databases fit together."""

from collections.abc import Iterable

from server.doctor.finding import Finding, problem, warning, well
from server.projects import consistency
from server.settings import Settings

SHOWN = 5
# What a running service mends by itself.
_PASSING = ("unfinished_project", "half_made_database")


def fit(settings: Settings) -> Finding:
    """Orphaned, missing and foreign databases, as the service reports them at its start."""
    if not settings.postgres and not settings.project_databases.exists():
        # The look would make the folder.
        return well(f"there is no {settings.project_databases} yet: no project has a database")
    found = consistency.check()
    if not found:
        return well("each project has its database, each database its project")
    detail = _some(f"{one.database or 'the server'}: {one.meaning}" for one in found)
    cure = _some(dict.fromkeys(f"{one.database}: {one.cure}".removeprefix(": ") for one in found))
    passing = all(one.kind in _PASSING for one in found)
    return (warning if passing else problem)(f"{len(found)} don't fit: {detail}", cure)


def _some(texts: Iterable[str]) -> str:
    every = list(texts)
    more = [f"and {len(every) - SHOWN} more, which the log has after a start"]
    return "; ".join(every[:SHOWN] + more * (len(every) > SHOWN))
