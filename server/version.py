"""Which version of the service this is."""

import subprocess
from functools import cache

from server.settings import ROOT, Settings

VERSION = "0.1.0"
PRODUCTION = ("production", 8002)
# Where only `main` may serve, and where it may not.
_BRANCHES = {
    PRODUCTION: "production on port 8002 runs only from branch main, this is {branch}; "
    "git checkout main, or set ALLOW_ANY_BRANCH=1",
    ("development", 8001): "a second instance on port 8001 runs only from another branch than "
    "main; scripts/dev-tree makes a folder for one, or set ALLOW_ANY_BRANCH=1",
}


def misplaced(settings: Settings) -> str | None:
    """Why this branch may not serve there; None where it may, and outside of a checkout."""
    place = settings.app_env, settings.port
    if settings.allow_any_branch or place not in _BRANCHES:
        return None
    if branch() is None or (branch() == "main") is (place == PRODUCTION):
        return None
    return _BRANCHES[place].format(branch=branch())


@cache
def commit() -> str | None:
    """The commit of the checkout; None outside of one."""
    return _git("rev-parse", "HEAD")


@cache
def branch() -> str | None:
    """The branch of the checkout; None outside of one, "HEAD" when it is detached."""
    return _git("rev-parse", "--abbrev-ref", "HEAD")


def _git(*arguments: str) -> str | None:
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(  # noqa: S603  (fixed arguments)
            # The checkout may belong to another user than the one who runs the service.
            ["git", "-c", "safe.directory=*", "-C", str(ROOT), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
