"""`./clawd user`: what an operator does to accounts."""

import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from server.auth import queries
from server.cli import users
from server.storage import contract
from tests.cli.conftest import Cli
from tests.conftest import fresh_master
from tests.edge.problems import check_problem, without_id
from tests.service import PASSWORD, Api, Service, sign_up
from tests.sql import Sql

NEW = "another long password"


def log_in(service: Service, email: str, password: str) -> httpx.Response:
    """An attempt to log in."""
    return Api(service).post("/auth/login", {"email": email, "password": password})


def audited(service: Service, user_id: int) -> list[str]:
    """What the audit log says of an account."""
    rows = Sql(service.settings).rows(
        "SELECT action, target, outcome FROM audit_log WHERE user_id = %s ORDER BY id", user_id
    )
    assert {(row["target"], row["outcome"]) for row in rows} <= {(f"user {user_id}", "done")}
    return [row["action"] for row in rows]


def new_email() -> str:
    """An address that nobody has."""
    return f"Ada.{time.monotonic_ns()}@Example.com"


def test_an_account_that_was_made_can_log_in(cli: Cli, service: Service, tmp_path: Path) -> None:
    """From stdin, a file, or generated; the newline of an editor is no part of a password."""
    (tmp_path / "password").write_text(f"{NEW}\r\n")
    ways: list[tuple[list[str], str]] = [
        ([], f"{NEW}\n"),
        (["--password-file", str(tmp_path / "password")], ""),
        (["--generate"], ""),
    ]
    for options, stdin in ways:
        email = new_email()
        made = cli.run(
            service.settings,
            "user",
            "create",
            email,
            "--name",
            "Ada",
            "--json",
            *options,
            stdin=stdin,
        )
        assert made.code == 0, made.said
        answer = log_in(service, email.upper(), made.json.get("password", NEW))
        assert answer.status_code == 200
        shown = {name: made.json[name] for name in ("id", "email", "name", "created_at")}
        assert answer.json()["user"] == shown
        assert ("password" in made.json) is ("--generate" in options)
        assert audited(service, made.json["id"]) == ["user.create"]
    assert NEW not in cli.everything


def test_an_account_is_made_by_the_rules_of_signing_up(cli: Cli, service: Service) -> None:
    """One line with the reason and its exit code; nothing is made, and no password repeated."""
    taken = sign_up(service).user["email"]
    before = Sql(service.settings).count("users")
    cases: list[tuple[str, str | bytes, int, str]] = [
        (taken.upper(), NEW, 3, "somebody has the address"),
        ("ada", NEW, 1, "email: "),
        ("a@b.cc" + "c" * 300, NEW, 1, "email: "),
        (new_email(), "sesame", 1, "password: must have at least 8 characters"),
        (new_email(), "sesame" * 200, 1, "password: must have at most 1024 bytes"),
        (new_email(), "sesame\0sesame", 1, "password: must not contain NUL"),
        (new_email(), "", 1, "password: "),
        (new_email(), b"sesame\xff\xff\xff", 1, "the password is not UTF-8"),
    ]
    for email, password, code, reason in cases:
        done = cli.run(service.settings, "user", "create", email, stdin=password)
        assert (done.code, done.out) == (code, ""), (email, done.said)
        assert done.said.startswith(f"clawd user create: {reason}"), done.said
        assert done.said.count("\n") == 1
    assert Sql(service.settings).count("users") == before
    assert "sesame" not in cli.everything


def test_production_refuses_common_passwords_here_too(
    cli: Cli, backend: str, database: contract.Database
) -> None:
    """PM2 sets APP_ENV, an operator's shell doesn't: the database's mark says that it counts."""
    for code in (0, 1):
        done = cli.run({}, "user", "create", new_email(), stdin="password123")
        assert done.code == code, done.said
        with database.get_db() as conn:
            contract.execute(
                conn,
                "INSERT INTO environment (name, marked_at) VALUES ('production', %s) "
                "ON CONFLICT DO NOTHING",
                (datetime.now(UTC),),
            )


def test_a_disabled_account_is_out_at_once(cli: Cli, service: Service) -> None:
    """Its tokens die with the command; log-in answers as for a wrong password; projects stay."""
    api, stranger = sign_up(service), sign_up(service)
    project = api.project()
    email = api.user["email"]
    assert cli.run(service.settings, "user", "disable", email.upper()).code == 0
    check_problem(api.get("/auth/me"), 401, "invalid_token")
    right, wrong = log_in(service, email, PASSWORD), log_in(service, email, "wrong password")
    check_problem(right, 401, "invalid_credentials")
    assert without_id(right) == without_id(wrong)
    assert set(right.headers) == set(wrong.headers)
    assert stranger.get("/auth/me").status_code == 200
    again = cli.run(service.settings, "user", "disable", email, "--json")
    assert (again.code, again.json["projects"]) == (0, 1)
    enabled = cli.run(service.settings, "user", "enable", email, "--json")
    assert (enabled.code, enabled.json["disabled_at"]) == (0, None)
    check_problem(api.get("/auth/me"), 401, "invalid_token")
    back = Api(service, log_in(service, email, PASSWORD).json()["access_token"])
    assert [one["id"] for one in back.get("/projects").json()["items"]] == [project["id"]]
    names = ["user.disable", "user.disable", "user.enable"]
    assert [name for name in audited(service, api.user["id"]) if name in names] == names


def test_a_disabled_account_takes_as_long_as_a_wrong_password(cli: Cli, service: Service) -> None:
    """Refused before the password's hash, log-in would tell who was disabled (CWE-208)."""
    email = sign_up(service).user["email"]
    cli.run(service.settings, "user", "disable", email)
    taken: dict[str, list[float]] = {PASSWORD: [], "wrong password": []}
    for _ in range(9):
        for password, times in taken.items():
            started = time.perf_counter()
            log_in(service, email, password)
            times.append(time.perf_counter() - started)
    right, wrong = (statistics.median(times) for times in taken.values())
    assert 0.5 < right / wrong < 2


def test_a_disabled_account_stops_talking(cli: Cli, service: Service) -> None:
    """An answer that is on its way ends with the text it has: nobody pays for the rest."""
    api = sign_up(service)
    session = api.session()["id"]
    with api.stream(session, "[[gateway:answer tokens=300 delay=0.05]]") as response:
        lines = response.iter_lines()
        next(line for line in lines if line.startswith("event: delta"))
        cli.run(service.settings, "user", "disable", api.user["email"])
        assert [line for line in lines if line.startswith("event: ")][-1] == "event: done"
    rows = Sql(service.settings).rows(
        "SELECT status FROM messages WHERE user_id = %s ORDER BY id", api.user["id"]
    )
    assert [row["status"] for row in rows] == ["complete", "stopped"]


def test_no_token_outlives_the_mark(service: Service) -> None:
    """However the account was marked, and whenever the token was made."""
    api = sign_up(service)
    Sql(service.settings).update("users", api.user["id"], disabled_at=datetime.now(UTC))
    check_problem(api.get("/auth/me"), 401, "invalid_token")


def test_a_log_in_under_way_gets_no_token(database: contract.Database) -> None:
    """The password was right, then the account was disabled, then the token would be made."""
    now = datetime.now(UTC)
    with database.get_db() as conn:
        user = queries.create_user(conn, "ada@example.com", None, "hash", now)
        assert user is not None
        assert queries.hold_password(conn, user["id"], "hash")
        queries.set_disabled(conn, "ada@example.com", now)
        assert not queries.hold_password(conn, user["id"], "hash")
        assert not queries.replace_password(conn, user["id"], "hash", "new", now)


def test_a_new_password_ends_everything_old(cli: Cli, service: Service) -> None:
    """For somebody who lost the password, or whose password somebody else has."""
    api, stranger = sign_up(service), sign_up(service)
    email = api.user["email"]
    short = cli.run(service.settings, "user", "reset-password", email, stdin="short")
    assert (short.code, api.get("/auth/me").status_code) == (1, 200)
    done = cli.run(service.settings, "user", "reset-password", email, "--generate", "--json")
    assert done.code == 0, done.said
    check_problem(api.get("/auth/me"), 401, "invalid_token")
    assert stranger.get("/auth/me").status_code == 200
    check_problem(log_in(service, email, PASSWORD), 401, "invalid_credentials")
    assert log_in(service, email, done.json["password"]).status_code == 200
    given = cli.run(service.settings, "user", "reset-password", email, stdin=f"{NEW}\n")
    assert (given.code, NEW in given.out) == (0, False)
    assert log_in(service, email, NEW).status_code == 200
    assert audited(service, api.user["id"])[-2:] == ["user.reset_password"] * 2


def test_an_unknown_account_is_said_to_be_none(cli: Cli, service: Service) -> None:
    """Exit code 3, and one line, whatever was to be done."""
    for command in ("disable", "enable", "reset-password"):
        done = cli.run(service.settings, "user", command, "no\x1b[31mbody", "--json", stdin=NEW)
        assert (done.code, done.json["exit"]) == (3, 3)
        assert done.said == f"clawd user {command}: nobody has the address no\\x1b[31mbody\n"


def test_the_list_has_everybody_and_no_orders_to_the_terminal(
    cli: Cli, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pages, so that it needs no memory; a name is text that somebody chose."""
    monkeypatch.setattr(users, "PAGE", 2)
    made = [sign_up(service, name=f"\x1b]0;owned\x07{number}\u202e") for number in range(3)]
    made[1].project()
    cli.run(service.settings, "user", "disable", made[2].user["email"])
    listed = {row["id"]: row for row in cli.run(service.settings, "user", "list", "--json").rows}
    assert len(listed) == Sql(service.settings).count("users")
    assert list(listed) == sorted(listed)
    for number, api in enumerate(made):
        row = listed[api.user["id"]]
        assert row | api.user == row
        assert (row["projects"], row["disabled_at"] is None) == (number == 1, number < 2)
    text = cli.run(service.settings, "user", "list").out
    lines = {int(line.split()[0]): line for line in text.splitlines()}
    assert "disabled" in lines[made[2].user["id"]]
    assert lines[made[0].user["id"]].endswith(r"\x1b]0;owned\x070\u202e")
    assert text.replace("\n", "").isprintable()


def test_nothing_is_made_where_there_is_nothing(
    cli: Cli, backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A mistyped DB_PATH would give an account in a database that nobody serves."""
    settings = fresh_master(backend, request, tmp_path)
    for arguments in (["list"], ["create", "ada@example.com", "--generate"]):
        done = cli.run(settings, "user", *arguments)
        assert done.code == 2
        assert "start the service" in done.said
    assert list(tmp_path.iterdir()) == []


def test_an_older_schema_is_left_to_the_service(cli: Cli, database: contract.Database) -> None:
    """A command that brought it up to date would do so under a service of the older version."""
    with database.get_db() as conn:
        name = "0010_disabled_users"
        contract.execute(conn, "DELETE FROM schema_migrations WHERE name = %s", (name,))
    done = cli.run({}, "user", "list")
    assert done.code == 2
    assert "lacks steps of schema/ (0010_disabled_users)" in done.said
