"""Which version of the service this is."""

import subprocess
from functools import cache

from server.settings import ROOT

VERSION = "0.1.0"


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
