"""Limits on failed log-ins and on sign-ups, on two processes with one database."""

import secrets
import time
from datetime import UTC, datetime, timedelta
from functools import partial

import httpx
import pytest

from tests.edge.problems import check_problem, without_id
from tests.parallel import at_once
from tests.service import PASSWORD, Service
from tests.sql import Sql

WRONG = "a wrong password"
Pair = tuple[Service, Service]


@pytest.fixture(autouse=True)
def _nothing_counted_yet(pair: Pair) -> None:
    Sql(pair[0].settings).rows("DELETE FROM auth_attempts")


def send(
    service: Service, path: str, body: object, address: str = "127.0.0.1", **options: object
) -> httpx.Response:
    """One request from a client at this address of the loopback network."""
    transport = httpx.HTTPTransport(local_address=address, verify=False)
    with httpx.Client(base_url=service.url, transport=transport, timeout=30) as client:
        return client.request(str(options.get("method", "POST")), path, json=body)


def log_in(
    service: Service, email: str, password: str = WRONG, address: str = "127.0.0.1"
) -> httpx.Response:
    """One log-in."""
    return send(service, "/auth/login", {"email": email, "password": password}, address)


def account(service: Service) -> str:
    """A new account's address."""
    email = f"{secrets.token_hex(6)}@example.com"
    made = send(service, "/auth/signup", {"email": email, "password": PASSWORD}, "127.0.0.9")
    assert made.status_code == 201, made.text
    return email


def test_the_eleventh_failure_is_429_the_right_password_included(pair: Pair) -> None:
    """Guessing stops at ten in 15 minutes; a right guess must not show through the limit."""
    email = account(pair[0])
    for _ in range(10):
        check_problem(log_in(pair[0], email), 401)
    for password in (WRONG, PASSWORD):
        answer = log_in(pair[0], email.upper(), password)
        check_problem(answer, 429, "too_many_requests")
        assert 14 * 60 < int(answer.headers["retry-after"]) <= 15 * 60


def test_an_unknown_account_is_limited_alike(pair: Pair) -> None:
    """A limit that only accounts have would tell which addresses have one."""
    known, unknown = account(pair[0]), f"{secrets.token_hex(6)}@example.com"
    bodies = []
    for email in (known, unknown):
        assert [log_in(pair[0], email).status_code for _ in range(10)] == [401] * 10
        refused = log_in(pair[0], email)
        check_problem(refused, 429)
        bodies.append(without_id(refused))
    assert bodies[0] == bodies[1]


def test_two_processes_share_the_limit(pair: Pair) -> None:
    """Behind a load balancer every process would otherwise give ten guesses more."""
    email = account(pair[0])
    statuses = [log_in(pair[turn % 2], email).status_code for turn in range(12)]
    assert statuses == [401] * 10 + [429] * 2


def test_neither_other_accounts_nor_other_addresses_are_affected(pair: Pair) -> None:
    """Nobody locks another user out: the owner still gets in from elsewhere."""
    email, other = account(pair[0]), account(pair[0])
    for _ in range(11):
        log_in(pair[0], email)
    assert log_in(pair[0], email, PASSWORD).status_code == 429
    assert log_in(pair[0], email, PASSWORD, "127.0.0.2").status_code == 200
    assert log_in(pair[0], other, PASSWORD).status_code == 200


def test_failures_are_forgotten_after_a_quarter_of_an_hour(pair: Pair) -> None:
    """The clock of the database's rows is turned back rather than waited for."""
    email = account(pair[0])
    for _ in range(11):
        log_in(pair[0], email)
    Sql(pair[0].settings).rows(
        "UPDATE auth_attempts SET at = %s", datetime.now(UTC) - timedelta(minutes=14, seconds=50)
    )
    refused = log_in(pair[0], email, PASSWORD)
    check_problem(refused, 429)
    assert int(refused.headers["retry-after"]) <= 11
    Sql(pair[0].settings).rows(
        "UPDATE auth_attempts SET at = %s", datetime.now(UTC) - timedelta(minutes=15, seconds=1)
    )
    assert log_in(pair[0], email, PASSWORD).status_code == 200


def test_a_success_is_not_counted(pair: Pair) -> None:
    """Clients that log in for every run of theirs are not attackers."""
    email = account(pair[0])
    assert [log_in(pair[0], email, PASSWORD).status_code for _ in range(15)] == [200] * 15
    assert Sql(pair[0].settings).count("auth_attempts", kind="login") == 0


def test_twenty_right_log_ins_at_once_all_pass(pair: Pair) -> None:
    """What is only being checked fills no limit: those beyond ten wait for their turn."""
    email = account(pair[0])
    answers = at_once([lambda: log_in(pair[0], email, PASSWORD).status_code] * 20)
    assert answers == [200] * 20


def test_thirty_wrong_log_ins_at_once_are_ten_guesses(pair: Pair) -> None:
    """A burst of guesses must not pass the check before the first failure is counted."""
    email = account(pair[0])
    calls = [partial(log_in, pair[turn % 2], email) for turn in range(30)]
    assert sorted(answer.status_code for answer in at_once(calls)) == [401] * 10 + [429] * 20


def test_an_address_has_a_hundred_failures_over_all_accounts(pair: Pair) -> None:
    """One guess at each of many accounts (password spraying) ends too, for that address alone."""
    email, now = account(pair[0]), datetime.now(UTC)
    sql = Sql(pair[0].settings)
    log_in(pair[0], "someone@example.com", WRONG, "127.0.0.3")
    for number in range(98):
        sql.insert(
            "auth_attempts",
            kind="login",
            account=f"{number}@example.com",
            address="127.0.0.3",
            pending=False,
            at=now,
        )
    assert log_in(pair[0], email, WRONG, "127.0.0.3").status_code == 401
    assert log_in(pair[0], email, PASSWORD, "127.0.0.3").status_code == 429
    assert log_in(pair[0], email, PASSWORD, "127.0.0.4").status_code == 200


def test_an_account_has_a_hundred_failures_an_hour_over_all_addresses(pair: Pair) -> None:
    """A botnet guessing at one account ends at NIST's hundred (SP 800-63B, 5.2.2)."""
    email, now = account(pair[0]), datetime.now(UTC) - timedelta(minutes=50)
    sql = Sql(pair[0].settings)
    for number in range(99):
        sql.insert(
            "auth_attempts",
            kind="login",
            account=email,
            address=f"10.0.0.{number}",
            pending=False,
            at=now,
        )
    assert log_in(pair[0], email).status_code == 401
    refused = log_in(pair[0], email, PASSWORD, "127.0.0.5")
    check_problem(refused, 429)
    assert int(refused.headers["retry-after"]) <= 10 * 60 + 1


def test_sixty_sign_ups_at_once_pass_and_the_next_waits(pair: Pair) -> None:
    """Suites sign up hundreds of users from one address: generous, yet not without end."""
    sql, address, now = Sql(pair[0].settings), "127.0.0.6", datetime.now(UTC)
    for _ in range(59):
        sql.insert(
            "auth_attempts", kind="signup", account="", address=address, pending=False, at=now
        )

    def sign_up() -> httpx.Response:
        body = {"email": f"{secrets.token_hex(6)}@example.com", "password": PASSWORD}
        return send(pair[0], "/auth/signup", body, address)

    assert sign_up().status_code == 201
    refused = sign_up()
    check_problem(refused, 429)
    assert int(refused.headers["retry-after"]) <= 61


def test_a_wrong_current_password_counts_as_a_failed_log_in(pair: Pair) -> None:
    """Whoever finds an open session must not guess the password without end through PATCH."""
    email = account(pair[0])
    token = log_in(pair[0], email, PASSWORD).json()["access_token"]
    statuses = []
    with httpx.Client(base_url=pair[0].url, headers={"Authorization": f"Bearer {token}"}) as client:
        for _ in range(11):
            change = {"password": "another password", "current_password": WRONG}
            statuses.append(client.patch("/auth/me", json=change).status_code)
    assert statuses == [403] * 10 + [429]


def test_a_process_that_died_in_the_middle_locks_nobody_out(pair: Pair) -> None:
    """Attempts that stay pending for ever (kill -9 while checking) stop counting soon."""
    email, sql = account(pair[0]), Sql(pair[0].settings)
    for _ in range(10):
        sql.insert(
            "auth_attempts",
            kind="login",
            account=email,
            address="127.0.0.1",
            pending=True,
            at=datetime.now(UTC) - timedelta(seconds=19),
        )
    started = time.monotonic()
    assert log_in(pair[0], email, PASSWORD).status_code == 200
    assert time.monotonic() - started < 5
