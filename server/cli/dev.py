"""The commands for the development instance."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from server.auth import passwords
from server.cli.ending import AsJson, Refused, answer, told
from server.cloning import tree
from server.cloning.clone import Cloned, Wish, clone
from server.errors import Invalid
from server.migration.report import Screen
from server.settings import get_settings

app = typer.Typer(
    help="For the development instance.", no_args_is_help=True, rich_markup_mode="markdown"
)

NOTES = 1
OCCUPIED = 3


@app.callback()
def dev() -> None:
    """For the development instance."""


@app.command("clone")
def run(
    folder: Annotated[
        Path | None,
        typer.Argument(help="The development instance's folder; the one of scripts/dev-tree."),
    ] = None,
    *,
    password: Annotated[
        str,
        typer.Option(
            help="Every account's in the clone; others on the machine may see it: use it nowhere "
            "else. Without it nobody can log in to the accounts that come."
        ),
    ] = "",
    with_projects: Annotated[
        bool,
        typer.Option(
            "--with-projects",
            help="Bring what is in the projects' databases, too, as it is: users' data. Without "
            "it they have the empty tables of their types.",
        ),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of the databases there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a scrubbed copy of production for development, in SQLite files.

    Run it in production's folder. Accounts come as user1@example.invalid and so on, without
    passwords and tokens; failed log-ins, details of the audit log and deleted projects stay behind,
    and so does the mark by which production keeps others off its database. Sessions get new keys,
    so that the gateway doesn't take them for production's. What users wrote comes as it is: titles,
    messages, images. Nothing is written to production, which may run meanwhile.

    Exit codes: 0 made; 1 made, but a project's database isn't as it was to be; 2 not possible, with
    the reason; 3 there is something in its place already.

    Examples:

        scripts/dev-tree && ./clawd dev clone

        ./clawd dev clone ../clawd-development --replace --password "one for trying out"
    """
    with told("dev clone", as_json=as_json):
        settings = get_settings()
        place = tree.place_of((folder or tree.default()).resolve())
        wish = Wish(replace, with_projects, _hash(password))
        try:
            made = clone(settings, place, wish, Screen(quiet=as_json))
        except tree.Occupied as error:
            raise Refused(str(error), OCCUPIED) from error
        found = {"file": str(place.master), "projects": str(place.projects), **vars(made)}
        code = NOTES if made.notes else 0
        answer(found, "\n".join(_lines(made, place)), as_json=as_json, code=code)


def _hash(password: str) -> str:
    if not password:
        return ""
    try:
        passwords.check_new(password, "", refuse_common=False)
    except Invalid as error:
        raise Refused(error.detail) from error
    return asyncio.run(passwords.Hashing().hash(password))


def _lines(made: Cloned, place: tree.Place) -> list[str]:
    rows = ", ".join(f"{count:,} {table}" for table, count in made.rows.items() if count)
    return [
        f"{place.master}: {rows or 'nothing'}",
        f"{place.projects}: {made.databases:,} databases",
        *made.notes,
    ]
