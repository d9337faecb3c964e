"""The command that finds what is wrong."""

import json
import logging

import typer

from server.cli.ending import AsJson, printable
from server.doctor.examination import examine

CODES = {"ok": 0, "warning": 1, "problem": 2}


def run(*, as_json: AsJson = False) -> None:
    """Look at all that the service needs; say what is wrong, and what mends it.

    Settings, files and disks, the database with its role, places and schema, projects and their
    databases, the gateway, backups, clocks. Each check has a deadline; all take 15 seconds at most.
    Nothing is changed. Run it as the user, and with the environment, that the service has.

    On PostgreSQL it sends a DROP of the master, on a connection to the master itself, which
    PostgreSQL never drops: which guard refuses it shows what the role could do. PostgreSQL's log
    has a line of that.

    Exit codes: 0 all is well; 1 there are warnings; 2 there are problems.

    Examples:

        ./clawd doctor

        ./clawd doctor --json
    """
    # What the service would log, the findings say.
    logging.disable(logging.CRITICAL)
    found = examine()
    if as_json:
        rows = [{"check": name, **vars(finding)} for name, finding in found.items()]
        typer.echo(json.dumps(rows, indent=2))
    else:
        for name, finding in found.items():
            typer.echo(f"{finding.status:8}  {name:14}  {printable(finding.detail)}")
            if finding.cure:
                typer.echo(f"{'':26}to mend it: {printable(finding.cure)}")
    raise typer.Exit(max(CODES[finding.status] for finding in found.values()))
