"""The operators' command line: `./clawd`."""

import typer

from server.cli import init_postgres

app = typer.Typer(
    name="clawd",
    help="Commands for those who run the service. Settings are the service's own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.callback()(lambda: None)
app.command("init-postgres")(init_postgres.run)

if __name__ == "__main__":
    app(prog_name="./clawd")
