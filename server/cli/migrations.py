"""The command that shows the steps of the database's schema."""

from collections import Counter

import typer

import database_adapter
from server.cli.ending import GOOD, AsJson, answer, told
from server.storage import migrate
from server.storage.migrate import Standing

app = typer.Typer(
    help="The steps of the database's schema.", no_args_is_help=True, rich_markup_mode="markdown"
)

PENDING = 1
PROBLEM = 2


@app.callback()
def migrations() -> None:
    """The steps of the database's schema."""


@app.command()
def status(*, as_json: AsJson = False) -> None:
    """Show which steps of schema/ the database has; nothing is changed.

    A step is applied, pending, unknown (a newer version of the service applied it) or edited (its
    file differs from what was applied).

    Exit codes: 0 all are applied; 1 some are pending: the service applies them at its start, or
    ./clawd init-postgres where another role owns the tables; 2 some are unknown or edited, so that
    this version won't start, or the database can't be read.

    Examples:

        ./clawd migrate status

        ./clawd migrate status --json
    """
    with told("migrate status", as_json=as_json):
        current = database_adapter.current()
        steps = migrate.survey(current.applied_steps(), migrate.steps(current.BACKEND))
        found = {"backend": current.BACKEND, "steps": [vars(step) for step in steps]}
        lines = [f"{step.state:8}  {step.name}  {step.applied_at or ''}".rstrip() for step in steps]
        answer(found, "\n".join(lines), as_json=as_json, code=_code(steps))


def _code(steps: list[Standing]) -> int:
    states = Counter(step.state for step in steps)
    if states["unknown"] or states["edited"]:
        return PROBLEM
    return PENDING if states["pending"] else GOOD
