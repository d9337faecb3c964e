"""Tokens, and the account that they belong to."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.edge.problems import check_problem, without_id
from tests.service import PASSWORD, Api, Service, sign_up
from tests.sql import Sql


def second_token(api: Api) -> Api:
    """Another client of the same user."""
    credentials = {"email": api.user["email"], "password": PASSWORD}
    answer = Api(api.service).post("/auth/login", credentials)
    return Api(api.service, answer.json()["access_token"])


def test_a_logged_out_token_is_dead_at_once_in_every_process(pair: tuple[Service, Service]) -> None:
    """Tokens that other processes cache live on after a log-out; nothing is cached here."""
    first = sign_up(pair[0])
    other = second_token(first)
    elsewhere = Api(pair[1], first.token)
    assert elsewhere.get("/auth/me").status_code == 200
    answer = first.post("/auth/logout")
    assert (answer.status_code, answer.content) == (204, b"")
    check_problem(elsewhere.get("/auth/me"), 401, "invalid_token")
    check_problem(first.post("/auth/logout"), 401, "invalid_token")
    assert other.get("/auth/me").status_code == 200, "only this token ends"


def test_an_expired_token_is_dead(service: Service) -> None:
    """An hour before its end it works, a moment after it doesn't."""
    api, sql = sign_up(service), Sql(service.settings)
    for left, status in ((timedelta(hours=1), 200), (timedelta(seconds=-1), 401)):
        sql.rows(
            "UPDATE auth_tokens SET expires_at = %s WHERE user_id = %s",
            datetime.now(UTC) + left,
            api.user["id"],
        )
        assert api.get("/auth/me").status_code == status


def test_bad_expired_and_logged_out_tokens_look_the_same(service: Service) -> None:
    """One body for all three: it tells nobody that a token was ever good."""
    out, expired = sign_up(service), sign_up(service)
    out.post("/auth/logout")
    Sql(service.settings).rows(
        "UPDATE auth_tokens SET expires_at = %s WHERE user_id = %s",
        datetime.now(UTC) - timedelta(days=1),
        expired.user["id"],
    )
    never = Api(service, "clawd_" + "x" * 43)
    bodies = [without_id(api.get("/auth/me")) for api in (out, expired, never)]
    assert bodies[0] == bodies[1] == bodies[2]


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ("Bearer {}", 200),
        ("bearer {}", 200),
        ("BEARER {}", 200),
        ("{}", 401),
        ("Bearer", 401),
        ("Bearer  {}", 401),
        ("Bearer {} x", 401),
        ("Bearer {},", 401),
        ('Bearer "{}"', 401),
        ("Basic {}", 401),
        ("Token {}", 401),
        ("Bearer\t{}", 401),
        ("Bearer {}\u00e9", 401),
    ],
)
def test_one_way_to_show_a_token(api: Api, form: str, status: int) -> None:
    """`Bearer`, one space, the token (RFC 6750, 2.1); any doubt is 401, never 500."""
    value = form.format(api.token).encode("latin-1")
    answer = httpx.get(f"{api.service.url}/auth/me", headers={b"Authorization": value})
    assert answer.status_code == status
    if status == 401:
        check_problem(answer, 401)


def test_two_authorization_headers_are_400(api: Api) -> None:
    """Which of them counts would be up to each proxy on the way (RFC 6750: invalid_request)."""
    other = sign_up(api.service)
    headers = [("Authorization", f"Bearer {one.token}") for one in (api, other)]
    answer = httpx.get(f"{api.service.url}/auth/me", headers=headers)
    check_problem(answer, 400, "invalid_request")


def test_there_is_no_second_door(api: Api) -> None:
    """Tokens in queries, cookies or headers of other names end up in logs and in other sites."""
    url, token = f"{api.service.url}/auth/me", str(api.token)
    answers = [
        httpx.get(url, params={"access_token": token, "token": token}),
        httpx.get(url, headers={"Cookie": f"access_token={token}; token={token}"}),
        httpx.get(url, headers={"X-API-Key": token, "X-Auth-Token": token}),
    ]
    for answer in answers:
        check_problem(answer, 401)


def test_a_name_can_be_changed(api: Api) -> None:
    """The answer is the account as it now is."""
    changed = api.patch("/auth/me", {"name": "Countess"})
    assert changed.status_code == 200
    assert changed.json() == {**api.user, "name": "Countess"} == api.get("/auth/me").json()
    assert api.patch("/auth/me", {}).json()["name"] == "Countess"
    check_problem(api.patch("/auth/me", {"name": "x" * 201}), 422)
    check_problem(api.patch("/auth/me", {"name": "x\0"}), 422)


def test_a_name_can_be_taken_away_again(api: Api) -> None:
    """`null` sets null, as for a session's title and a project's description."""
    api.patch("/auth/me", {"name": "Countess"})
    assert api.patch("/auth/me", {"name": None}).json()["name"] is None
    assert api.get("/auth/me").json()["name"] is None


def test_a_new_password_needs_the_current_one(api: Api) -> None:
    """An open session must not be enough to take an account over for good."""
    other = second_token(api)
    missing = check_problem(api.patch("/auth/me", {"password": "another password"}), 422)
    assert missing["errors"][0]["loc"] == ["body", "current_password"]
    wrong = {"password": "another password", "current_password": "wrong password"}
    check_problem(api.patch("/auth/me", wrong), 403, "wrong_password")
    short = {"password": "short", "current_password": PASSWORD}
    check_problem(api.patch("/auth/me", short), 422, "bad_password")
    credentials = {"email": api.user["email"], "password": PASSWORD}
    assert api.post("/auth/login", credentials).status_code == 200, "nothing was changed"
    assert other.get("/auth/me").status_code == 200, "and nobody was logged out"


def test_a_changed_password_ends_all_other_sessions(api: Api) -> None:
    """Whoever changes a password because it leaked wants the thief's tokens dead, not theirs."""
    others = [second_token(api), second_token(api)]
    stranger = sign_up(api.service)
    change = {"password": "another password", "current_password": PASSWORD}
    assert api.patch("/auth/me", change).status_code == 200
    for other in others:
        check_problem(other.get("/auth/me"), 401)
    assert api.get("/auth/me").status_code == 200
    assert stranger.get("/auth/me").status_code == 200
    email = api.user["email"]
    old = api.post("/auth/login", {"email": email, "password": PASSWORD})
    check_problem(old, 401, "invalid_credentials")
    new = api.post("/auth/login", {"email": email, "password": "another password"})
    assert new.status_code == 200
