"""Logging in."""

import statistics
import time

import httpx
import pytest
from argon2 import PasswordHasher

from tests.edge.problems import check_problem, without_id
from tests.service import PASSWORD, Api, Service, sign_up
from tests.sql import Sql


def test_json_and_the_oauth2_form_log_in_alike(service: Service) -> None:
    """The *Authorize* button of /docs sends a form (RFC 6749, 4.3), clients send JSON."""
    user = sign_up(service).user
    json = Api(service).post("/auth/login", {"email": user["email"], "password": PASSWORD})
    form = Api(service).request(
        "POST",
        "/auth/login",
        data={"grant_type": "password", "username": user["email"].upper(), "password": PASSWORD},
    )
    for answer in (json, form):
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert set(body) == {"user", "access_token", "token_type", "expires_in"}
        assert body["user"] == user
        assert body["token_type"] == "bearer"
        assert Api(service, body["access_token"]).get("/auth/me").status_code == 200
    assert json.json()["access_token"] != form.json()["access_token"]


def test_an_unknown_user_and_a_wrong_password_look_the_same(service: Service) -> None:
    """Otherwise log-in tells which addresses have accounts: same status, text and headers."""
    email = sign_up(service).user["email"]
    answers = [
        Api(service).post("/auth/login", {"email": who, "password": "wrong password"})
        for who in (email, "nobody@example.com", "no address at all")
    ]
    bodies = []
    for answer in answers:
        check_problem(answer, 401, "invalid_credentials")
        bodies.append(without_id(answer))
    assert bodies[0] == bodies[1] == bodies[2]
    assert set(answers[0].headers) == set(answers[1].headers)


def test_an_unknown_user_takes_as_long_as_a_wrong_password(service: Service) -> None:
    """Without a hash to check against, unknown users answered ten times faster (CWE-208)."""
    email = sign_up(service).user["email"]
    api = Api(service)
    taken: dict[str, list[float]] = {email: [], "nobody@example.com": []}
    for _ in range(9):
        for who, times in taken.items():
            started = time.perf_counter()
            api.post("/auth/login", {"email": who, "password": "wrong password"})
            times.append(time.perf_counter() - started)
    known, unknown = (statistics.median(times) for times in taken.values())
    assert 0.5 < unknown / known < 2


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "", "json"])
def test_other_media_types_are_refused(service: Service, kind: str) -> None:
    """A page of another origin can send text/plain without asking first: it logs nobody in."""
    email = sign_up(service).user["email"]
    body = f'{{"email": "{email}", "password": "{PASSWORD}"}}'
    answer = Api(service).request(
        "POST", "/auth/login", content=body, headers={"Content-Type": kind}
    )
    check_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "body", ["", "null", "[]", '"x"', "{", '{"email": "a@b.cc"}', '{"email": 1, "password": 2}']
)
def test_a_body_without_credentials_is_422(service: Service, body: str) -> None:
    """What is missing is named, under `body`, as for every other route."""
    answer = Api(service).request(
        "POST", "/auth/login", content=body, headers={"Content-Type": "application/json"}
    )
    problem = check_problem(answer, 422)
    assert all(error["loc"][0] == "body" for error in problem["errors"])


def test_a_form_without_password_is_422_and_not_repeated(service: Service) -> None:
    """FastAPI's own answer would hold what was sent."""
    answer = Api(service).request("POST", "/auth/login", data={"username": "ada@secret.example"})
    check_problem(answer, 422)
    assert "secret.example" not in answer.text


@pytest.mark.parametrize("stored", ["", "x", "$argon2id$v=19$m=19456,t=2,p=1$AAAA", "$2b$12$abc"])
def test_a_damaged_hash_is_a_wrong_password(service: Service, stored: str) -> None:
    """A row that a migration damaged locks one account out; it was a 500 in other services."""
    user = sign_up(service).user
    Sql(service.settings).update("users", user["id"], password_hash=stored)
    credentials = {"email": user["email"], "password": PASSWORD}
    check_problem(Api(service).post("/auth/login", credentials), 401, "invalid_credentials")


def test_a_hash_with_old_parameters_is_renewed(service: Service) -> None:
    """Accounts grow stronger as their owners log in, without being asked for anything."""
    user, sql = sign_up(service).user, Sql(service.settings)
    old = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=2).hash(PASSWORD)
    sql.update("users", user["id"], password_hash=old)
    credentials = {"email": user["email"], "password": PASSWORD}
    for _ in range(2):
        assert Api(service).post("/auth/login", credentials).status_code == 200
    stored = sql.value("SELECT password_hash FROM users WHERE id = %s", user["id"])
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_credentials_in_the_query_are_not_read(service: Service) -> None:
    """Query strings end up in logs and histories."""
    email = sign_up(service).user["email"]
    answer = httpx.post(
        f"{service.url}/auth/login", params={"email": email, "password": PASSWORD}, json={}
    )
    check_problem(answer, 422)
