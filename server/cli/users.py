"""The commands about accounts."""

import asyncio
import json
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

import database_adapter
from server.auth import accounts, emails, passwords
from server.auth.fields import NewPassword, Signup
from server.auth.guard import User
from server.chat.queries import stop_all
from server.cli import queries
from server.cli.ending import AsJson, Json, Refused, answer, operator, printable, told
from server.errors import Invalid
from server.fields import Instant
from server.settings import get_settings
from server.storage import migrate
from server.storage.contract import Connection, Misconfigured, Row

app = typer.Typer(
    help="Accounts: make, disable, enable, a new password, a list.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

REFUSED = 1
NO_ACCOUNT = 3
PAGE = 1000
MOST_READ = 64 * 1024


@app.callback()
def users() -> None:
    """Accounts: make, disable, enable, a new password, a list."""


Email = Annotated[str, typer.Argument(help="The account's e-mail address, in any spelling.")]
Generate = Annotated[
    bool, typer.Option("--generate", help="Make a password, and show it this once.")
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(help="A file that has the password, in place of the prompt or of stdin."),
]


class Account(User):
    """An account as operators see it."""

    projects: int
    disabled_at: Instant | None


@app.command()
def create(
    email: Annotated[str, typer.Argument(help="The new account's e-mail address.")],
    *,
    name: Annotated[str | None, typer.Option(help="The user's name.")] = None,
    generate: Generate = False,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Make an account, by the rules of `POST /auth/signup`.

    The password is asked for, or read from stdin where that is no terminal: on a command line
    everybody on the machine could see it.

    Exit codes: 0 made; 1 the address or the password is refused; 2 not possible, with the reason;
    3 somebody has the address.

    Examples:

        ./clawd user create ada@example.com --generate

        ./clawd user create ada@example.com --name Ada --password-file password.txt
    """
    with told("user create", as_json=as_json):
        _check_schema()
        password = _read_password(generate, password_file)
        signup = _signup(email, name, password)
        with _allowed():
            address = emails.normalize(signup.email)
        hashed = _hash(signup.password, address)
        with database_adapter.get_db() as conn:
            user = accounts.create(conn, address, signup.name, hashed, operator())
        if user is None:
            raise Refused(f"somebody has the address {address} already", NO_ACCOUNT)
        shown = {"password": password} if generate else {}
        shown = {"password": password} if generate else {}
        found = _shown({**user, "projects": 0, "disabled_at": None})
        lines = [f"Made account {_named(found)}.", *_passwords(shown)]
        answer(found | shown, "\n".join(lines), as_json=as_json)


@app.command()
def disable(email: Email, *, as_json: AsJson = False) -> None:
    """Shut an account: it can't log in, and its tokens are void from the next request on.

    Its running answers are stopped; its projects stay. Whoever tries to log in is told the same
    as with a wrong password.

    Exit codes: 0 disabled, also where it was; 2 not possible, with the reason; 3 no such account.

    Example:

        ./clawd user disable ada@example.com
    """

    def work(conn: Connection) -> Row | None:
        user = accounts.disable(conn, email, operator())
        if user is not None:
            stop_all(conn, user["id"])
        return user

    with told("user disable", as_json=as_json):
        found = _change(email, work)
        answer(found, f"Disabled account {_named(found)}.", as_json=as_json)


@app.command()
def enable(email: Email, *, as_json: AsJson = False) -> None:
    """Open an account again that was disabled; its password is the one that it had.

    Exit codes: 0 enabled, also where it was; 2 not possible, with the reason; 3 no such account.

    Example:

        ./clawd user enable ada@example.com
    """

    with told("user enable", as_json=as_json):
        found = _change(email, lambda conn: accounts.enable(conn, email, operator()))
        answer(found, f"Enabled account {_named(found)}.", as_json=as_json)


@app.command("reset-password")
def reset_password(
    email: Email,
    *,
    generate: Generate = False,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Give an account another password; all of its tokens are void from the next request on.

    Exit codes: 0 done; 1 the password is refused; 2 not possible, with the reason; 3 no such
    account.

    Examples:

        ./clawd user reset-password ada@example.com --generate

        ./clawd user reset-password ada@example.com --password-file password.txt
    """
    with told("user reset-password", as_json=as_json):
        password = _read_password(generate, password_file)
        hashed = _hash(password, emails.account_key(email))
        found = _change(
            email, lambda conn: accounts.reset_password(conn, email, hashed, operator())
        )
        shown = {"password": password} if generate else {}
        lines = [f"New password for account {_named(found)}.", *_passwords(shown)]
        answer(found | shown, "\n".join(lines), as_json=as_json)


@app.command("list")
def show(*, as_json: AsJson = False) -> None:
    """List all accounts by their ids: projects, address and name, and whether it is disabled.

    They are printed as they are read, however many there are; --json prints one array.

    Exit codes: 0; 2 not possible, with the reason.

    Examples:

        ./clawd user list

        ./clawd user list --json
    """
    with told("user list", as_json=False):
        _check_schema()
        separator = "[\n"
        for row in _all():
            if as_json:
                typer.echo(f"{separator}{json.dumps(_shown(row))}", nl=False)
                separator = ",\n"
            else:
                typer.echo(_line(row))
        if as_json:
            typer.echo("[]" if separator == "[\n" else "\n]")


def _change(email: str, work: Callable[[Connection], Row | None]) -> Json:
    """Do something to the account in one transaction; what it is like then."""
    _check_schema()
    with database_adapter.get_db() as conn:
        user = work(conn)
        projects = queries.count_projects(conn, user["id"]) if user else 0
    if user is None:
        raise Refused(f"nobody has the address {printable(email)}", NO_ACCOUNT)
    return _shown({**user, "projects": projects})


def _named(found: Json) -> str:
    return f"{found['id']}, {printable(found['email'])}"


def _passwords(shown: Json) -> list[str]:
    return [f"Password: {password}" for password in shown.values()]


def _check_schema() -> None:
    """Raise unless the tables are those of this code, all of them."""
    settings, current = get_settings(), database_adapter.current()
    if not settings.postgres and not settings.db_path.exists():
        raise Misconfigured(f"there is no database at {settings.db_path}: start the service first")
    applied = [(step["name"], step["checksum"]) for step in current.applied_steps()]
    if todo := migrate.pending(applied, migrate.steps(current.BACKEND)):
        names = ", ".join(step.name for step in todo)
        raise Misconfigured(
            f"the database lacks steps of schema/ ({names}): start the service, or run "
            "./clawd init-postgres where another role owns the tables"
        )


def _read_password(generate: bool, file: Path | None) -> str:
    if generate:
        return secrets.token_urlsafe(18)
    if file is None and sys.stdin.isatty():
        typed: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return typed
    with file.open("rb") if file else sys.stdin.buffer as source:
        raw = source.read(MOST_READ)
    try:
        # Editors and `echo` end a file with a newline that isn't part of the password.
        return raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise Refused("the password is not UTF-8", REFUSED) from error


def _signup(email: str, name: str | None, password: str) -> Signup:
    try:
        return Signup(email=email, name=name, password=password)
    except ValidationError as error:
        raise _refused(error) from None


def _refused(error: ValidationError) -> Refused:
    """The first reason, without the value, which may be the password."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"])) or "password"
    return Refused(f"{place}: {first['msg'].removeprefix('Value error, ')}", REFUSED)


def _hash(password: str, email: str) -> str:
    """The hash of a password that keeps to the rules."""
    try:
        TypeAdapter(NewPassword).validate_python(password)
    except ValidationError as error:
        raise _refused(error) from None
    production = get_settings().app_env == "production" or database_adapter.is_production()
    with _allowed():
        passwords.check_new(password, email, refuse_common=production)
    return asyncio.run(passwords.Hashing().hash(password))


@contextmanager
def _allowed() -> Iterator[None]:
    """What the routes would answer with 422, the command refuses."""
    try:
        yield
    except Invalid as error:
        raise Refused(error.detail, REFUSED) from error


def _all() -> Iterator[Row]:
    """Every account; no connection is held while whoever reads the list takes their time."""
    after = 0
    while True:
        with database_adapter.peek_db() as conn:
            rows = queries.list_users(conn, after, PAGE)
        yield from rows
        if len(rows) < PAGE:
            return
        after = rows[-1]["id"]


def _shown(row: Row) -> Json:
    return Account.model_validate(row).model_dump(mode="json")


def _line(row: Row) -> str:
    found = _shown(row)
    state = "disabled" if found["disabled_at"] else ""
    line = (
        f"{found['id']:>8}  {found['created_at'][:10]}  {found['projects']:>5} projects  "
        f"{state:8}  {printable(found['email'])}  {printable(found['name'] or '')}"
    )
    return line.rstrip()
