"""Checks of the settings, and of who runs what with them."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dotenv import dotenv_values

from server.doctor.finding import Finding, problem, warning, well
from server.settings import FILES, SECRETS, BadSettings, Settings, is_well_known
from server.version import misplaced

_NAME = re.compile(r"\b([A-Z][A-Z_]+): ")


def bad(error: BadSettings) -> Finding:
    """Settings that the service would end for, each with where it stands."""
    names = dict.fromkeys(_NAME.findall(str(error)))
    places = [f"{name} in {place}" for name in names for place in _places(name)]
    where = f" ({', '.join(places)})" if places else ""
    cure = f"set it right{where}; docs/configuration.md has every setting. Then run this again"
    return problem(str(error), cure)


def _places(name: str) -> Iterator[str]:
    """Where the setting stands, the one that counts first."""
    for wanted in (name, f"{name}_FILE"):
        if os.environ.get(wanted):
            yield "the environment"
        for file in reversed(FILES):
            if read(file).get(wanted):
                yield file.name


def read(file: Path) -> Mapping[str, str | None]:
    """The names in a file of settings; none where it can't be read."""
    try:
        return dotenv_values(file)
    except (OSError, UnicodeDecodeError):
        return {}


def good(settings: Settings) -> Finding:
    """Which settings there are, and what they choose."""
    files = [file.name for file in reversed(FILES) if file.exists()]
    source = " and ".join(["the environment", *files])
    backend, reason = settings.backend_choice
    return well(f"{settings.app_env}, from {source}; {backend}, because {reason}")


def passwords(settings: Settings) -> Finding:
    """Whether a password or token is one that everybody knows."""
    known = [name for name, value in _secrets(settings) if is_well_known(value)]
    if not known:
        return well("none is a published example or among the most common")
    names = ", ".join(known)
    cure = f"set {names} to what `openssl rand -hex 32` prints, there and where it is checked"
    return warning(f"{names}: a published example, or among the most common", cure)


def _secrets(settings: Settings) -> Iterator[tuple[str, str]]:
    for name in SECRETS:
        secret = getattr(settings, name)
        # A URL's password is DB_PASSWORD by now.
        used = name != "database_url" and (settings.postgres or name != "db_password")
        if secret is not None and used and secret.get_secret_value():
            yield name.upper(), secret.get_secret_value()


def branch(settings: Settings) -> Finding:
    """Whether the service may run from this branch."""
    reason = misplaced(settings)
    if reason is None:
        return well(f"{settings.app_env} may run on port {settings.port} from here")
    detail, _, cure = reason.partition("; ")
    return problem(detail, cure)


def user(uid: int) -> Finding:
    """Whether a user runs it to whom the system refuses nothing."""
    if uid:
        return well(f"runs as user {uid}")
    cure = "make a user for the service, and run it and this as that user: "
    return warning(
        "runs as root: what breaks into the service has the whole machine",
        cure + "sudo useradd --system clawd; sudo -u clawd ./clawd doctor",
    )


def secret_files(files: Sequence[Path] = FILES) -> list[Path]:
    """The files that hold secrets: those of settings, and those that `NAME_FILE` names."""
    known = [os.environ, *(read(file) for file in files)]
    named = [
        files[0].parent / path
        for values in known
        for name in SECRETS
        if (path := values.get(f"{name.upper()}_FILE"))
    ]
    return [path for path in dict.fromkeys([*files, *named]) if path.exists()]
