"""The operators' command line: `./clawd`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import typer


@dataclass(frozen=True)
class Command:
    """A command, or a group of them: the module in `server/cli` that has it, and a line of help.

    The module has `run`, or `app` where it is a group.
    """

    module: str
    summary: str


COMMANDS = {
    "doctor": Command(
        "doctor", "Look at all that the service needs; say what is wrong, and what mends it."
    ),
    "init-postgres": Command(
        "init_postgres", "Make the role, the master database and its tables in PostgreSQL."
    ),
    "migrate": Command("migrations", "The steps of the database's schema."),
    "user": Command("users", "Accounts: make, disable, enable, a new password, a list."),
    "stats": Command("stats", "Count what there is, and say how much room it takes."),
    "backup": Command("backup", "Make a backup of everything, while the service goes on."),
    "restore": Command(
        "restore", "Bring a backup back, in place of the databases in use; these are kept."
    ),
    "dev": Command("dev", "For the development instance."),
}


def build(arguments: Sequence[str]) -> typer.Typer:
    """The command line for these arguments.

    Only the module of the command that they name is imported: with all of them the list of
    commands would take seconds.
    """
    app = typer.Typer(
        name="clawd",
        help="Commands for those who run the service. Settings are the service's own.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback()(lambda: None)
    named = next((word for word in arguments if not word.startswith("-")), "")
    for name, command in COMMANDS.items():
        if name == named:
            _load(app, name, command)
        else:
            app.command(name, help=command.summary)(lambda: None)
    return app


def _load(app: typer.Typer, name: str, command: Command) -> None:
    module = import_module(f"server.cli.{command.module}")
    if hasattr(module, "app"):
        app.add_typer(module.app, name=name)
    else:
        app.command(name)(module.run)


if __name__ == "__main__":
    build(sys.argv[1:])(prog_name="./clawd")
