"""How a command ends: with its answer, as text or JSON, or with one line that says why not."""

import getpass
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

import database_adapter
from server.settings import BadSettings
from server.storage.contract import DatabaseError

Json = dict[str, Any]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]

GOOD = 0
IMPOSSIBLE = 2


class Refused(Exception):
    """Why the command did nothing; one line, with its exit code."""

    def __init__(self, reason: str, code: int = IMPOSSIBLE) -> None:
        super().__init__(reason)
        self.code = code


@contextmanager
def told(name: str, *, as_json: bool) -> Iterator[None]:
    """Say in one line what keeps the command from its work, and end with its exit code."""
    # What the service would log, the command says itself.
    logging.getLogger("clawd").setLevel(logging.CRITICAL)
    try:
        yield
    except (Refused, BadSettings, DatabaseError, OSError) as error:
        code = error.code if isinstance(error, Refused) else IMPOSSIBLE
        if as_json:
            typer.echo(json.dumps({"exit": code, "error": str(error)}, indent=2))
        typer.echo(f"clawd {name}: {error}", err=True)
        raise typer.Exit(code) from error
    finally:
        # With settings that can't be, nothing was opened.
        with suppress(BadSettings):
            database_adapter.close_pool()


def answer(found: Json, text: str, *, as_json: bool, code: int = GOOD) -> None:
    """Print the answer, and end with the code where it isn't 0."""
    typer.echo(json.dumps({"exit": code, **found}, indent=2) if as_json else text)
    if code:
        raise typer.Exit(code)


def printable(text: str) -> str:
    """Somebody else's text for a terminal, which could take a part of it for orders."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def operator() -> str:
    """Who runs the command, for the audit log."""
    try:
        return f"{getpass.getuser()}, ./clawd"
    except (OSError, KeyError):  # a container may have no name for its user
        return "./clawd"
