"""The command line in this process, which costs no start of Python."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from server.cli.__main__ import build
from tests.conftest import with_settings, without_settings
from tests.service import Json


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it printed."""

    code: int
    out: str
    said: str

    @property
    def json(self) -> Json:
        """What it printed as a JSON object."""
        found: Json = json.loads(self.out)
        return found

    @property
    def rows(self) -> list[Json]:
        """What it printed as a JSON array."""
        found: list[Json] = json.loads(self.out)
        return found


class Cli:
    """`./clawd`, with the settings of a service or of nobody."""

    def __init__(self) -> None:
        self.everything = ""

    def run(self, settings: Mapping[str, str], *arguments: str, stdin: str | bytes = "") -> Outcome:
        """One command to its end; without settings, with those that this process has."""
        if settings:
            with_settings(dict(settings))
        try:
            done = CliRunner().invoke(
                build(arguments), list(arguments), input=stdin, prog_name="./clawd"
            )
        finally:
            if settings:
                without_settings()
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        self.everything += done.stdout + done.stderr
        return Outcome(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def cli() -> Iterator[Cli]:
    """The command line; what the service logs is heard again afterwards."""
    level = logging.getLogger("clawd").level
    yield Cli()
    logging.getLogger("clawd").setLevel(level)
    logging.disable(logging.NOTSET)
