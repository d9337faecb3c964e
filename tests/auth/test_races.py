"""Log-ins and changes of a password that meet."""

import secrets
import time
from datetime import UTC, datetime, timedelta
from functools import partial

import anyio
import anyio.to_thread
import pytest
from argon2 import PasswordHasher

from server.auth import guard, limits, passwords, queries, routes
from server.errors import Forbidden, Overloaded
from server.settings import get_settings
from server.storage.contract import Database, Row, fetch_all, fetch_one
from tests.edge.problems import check_problem
from tests.parallel import at_once
from tests.service import PASSWORD, Api, Service, sign_up
from tests.sql import Sql


@pytest.fixture
def account(database: Database) -> Row:
    """A user as a log-in has read it."""
    with database.get_db() as conn:
        queries.create_user(conn, "ada@example.com", None, "first", datetime.now(UTC))
        row = queries.find_account(conn, "ada@example.com")
    assert row is not None
    return row


def caller(account: Row) -> guard.Caller:
    """Somebody with a token of the account."""
    return guard.Caller(user=guard.User.model_validate(account), token_hash="t")


def stored(database: Database) -> tuple[str, int]:
    """The account's hash, and how many tokens it has."""
    with database.read_db() as conn:
        row = fetch_one(conn, "SELECT password_hash FROM users")
        tokens = fetch_all(conn, "SELECT token_hash FROM auth_tokens")
    assert row is not None
    return row["password_hash"], len(tokens)


@pytest.mark.parametrize("rehashed", [None, "first, rehashed"])
def test_a_log_in_from_before_the_change_gets_no_token(
    database: Database, account: Row, rehashed: str | None
) -> None:
    """It outlived the change, and stored the old password again in a newer hash."""
    changes = routes.Changes(password="another password")
    routes._change(caller(account), changes, ("first", "second"))
    assert routes._log_in(account, rehashed, get_settings()) is None
    assert stored(database) == ("second", 0)


def test_a_change_from_before_a_change_is_refused(database: Database, account: Row) -> None:
    """And what else it would have changed stays as well."""
    changes = routes.Changes(password="another password", name="Eve")
    routes._change(caller(account), routes.Changes(), ("first", "second"))
    with pytest.raises(Forbidden):
        routes._change(caller(account), changes, ("first", "third"))
    assert stored(database) == ("second", 0)
    with database.read_db() as conn:
        assert fetch_all(conn, "SELECT name FROM users") == [{"name": None}]


def test_of_five_changes_at_once_one_wins(service: Service) -> None:
    """All five answered 200, and only one of the new passwords was right afterwards."""
    api = sign_up(service)
    new = [f"another password {number}" for number in range(5)]
    clients = [Api(service, api.token) for _ in new]

    def change(client: Api, password: str) -> int:
        body = {"password": password, "current_password": PASSWORD}
        answer = client.patch("/auth/me", body)
        if answer.status_code != 200:
            check_problem(answer, 403, "wrong_password")
        return answer.status_code

    calls = [partial(change, client, word) for client, word in zip(clients, new, strict=True)]
    answers = at_once(calls)
    assert sorted(answers) == [200, 403, 403, 403, 403]
    credentials = {"email": api.user["email"], "password": new[answers.index(200)]}
    assert api.post("/auth/login", credentials).status_code == 200


def test_log_ins_at_once_that_all_rehash_all_pass(service: Service) -> None:
    """The first stores a newer hash of the same password: the others were not wrong."""
    api = sign_up(service)
    old = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    Sql(service.settings).update("users", api.user["id"], password_hash=old)
    credentials = {"email": api.user["email"], "password": PASSWORD}
    clients = [Api(service) for _ in range(6)]
    calls = [partial(client.post, "/auth/login", credentials) for client in clients]
    assert [answer.status_code for answer in at_once(calls)] == [200] * 6


def test_expired_tokens_of_everybody_are_removed(database: Database, account: Row) -> None:
    """Those of users who never came back stayed for ever."""
    now = datetime.now(UTC)
    with database.get_db() as conn:
        for name, left in (("dead", -1), ("alive", 60)):
            queries.add_token(conn, account["id"], name, now, now + timedelta(seconds=left))
    limits.forget_old()
    with database.read_db() as conn:
        assert fetch_all(conn, "SELECT token_hash FROM auth_tokens") == [{"token_hash": "alive"}]


def test_only_what_a_limit_counts_by_is_locked(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sign-ups of the world waited for one lock."""
    locked: list[str] = []
    monkeypatch.setattr(database, "transaction_lock", lambda _, name: locked.append(name))
    limits.begin("signup", "", "10.0.0.1")
    limits.begin("login", "a@example.com", "10.0.0.1")
    assert locked == [
        "signup address 10.0.0.1",
        "login address 10.0.0.1",
        "login account a@example.com",
    ]


def test_waiting_attempts_leave_the_threads_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-ins to one account held all 16 threads; beyond a hundred they are refused at once."""
    at_work = 0
    most = 0

    def slow(*_: str) -> int:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        time.sleep(0.01)
        at_work -= 1
        return 1

    monkeypatch.setattr(limits, "begin", slow)

    async def crowd() -> list[str]:
        queue, ends = limits.Queue(), list[str]()

        async def enter() -> None:
            try:
                await queue.begin("login", "a", "b")
                ends.append("in")
            except Overloaded as error:
                ends.append(str(error.body()["code"]))

        async with anyio.create_task_group() as group:
            for _ in range(limits.MAX_WAITING + 5):
                group.start_soon(enter)
        return ends

    ends = anyio.run(crowd)
    assert (ends.count("login_busy"), ends.count("in")) == (5, limits.MAX_WAITING)
    assert most <= 4


def test_an_attempt_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others' attempts stay pending it is told to come again."""
    tries: list[str] = []
    monkeypatch.setattr(limits, "begin", lambda *args: tries.append(args[1]))
    monkeypatch.setattr(limits, "PATIENCE", 0.3)
    with pytest.raises(Overloaded):
        anyio.run(limits.Queue().begin, "login", "a", "b")
    assert 2 <= len(tries) <= 6


def test_the_first_unknown_account_does_not_stop_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash that stands for nobody's was made between all other requests."""
    threads: list[str] = []
    real = passwords._nobody.__wrapped__

    def nobody() -> str:
        threads.append("loop" if _in_event_loop() else "thread")
        return str(real())

    monkeypatch.setattr(passwords, "_nobody", nobody)
    assert not anyio.run(passwords.Hashing().verify, None, secrets.token_hex(8))
    assert threads == ["thread"]


def _in_event_loop() -> bool:
    try:
        anyio.get_current_task()
    except anyio.NoEventLoopError:
        return False
    return True
