"""Signing up."""

import hashlib
import json
import re
import secrets
from functools import partial
from typing import Any

import httpx
import pytest

from tests.edge.problems import check_problem
from tests.parallel import at_once
from tests.service import PASSWORD, Api, Service, sign_up
from tests.sql import Sql


def new_email() -> str:
    """An address that no other test has, with letters to spell differently."""
    return f"ada-{secrets.token_hex(6)}@example.com"


def full_width(text: str) -> str:
    """The same ASCII text as an East Asian keyboard may type it."""
    return "".join(chr(ord(character) + 0xFEE0) for character in text)


def test_signup_answers_the_user_and_a_token_that_works(service: Service) -> None:
    """The contract's body, word for word; the frontend keeps it as it is."""
    email = new_email()
    answer = Api(service).post(
        "/auth/signup", {"email": email, "password": PASSWORD, "name": "Ada Løvelace 🦊"}
    )
    assert answer.status_code == 201
    body = answer.json()
    assert set(body) == {"user", "access_token", "token_type", "expires_in"}
    assert set(body["user"]) == {"id", "email", "name", "created_at"}
    assert (body["user"]["email"], body["user"]["name"]) == (email, "Ada Løvelace 🦊")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", body["user"]["created_at"])
    assert (body["token_type"], body["expires_in"]) == ("bearer", 604_800)
    assert Api(service, body["access_token"]).get("/auth/me").json() == body["user"]


def test_the_database_holds_neither_password_nor_token(service: Service) -> None:
    """A stolen database opens no account: argon2id (OWASP's profile) and a token's SHA-256."""
    api, sql = sign_up(service), Sql(service.settings)
    stored = sql.value("SELECT password_hash FROM users WHERE id = %s", api.user["id"])
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    tokens = sql.rows("SELECT * FROM auth_tokens WHERE user_id = %s", api.user["id"])
    assert [row["token_hash"] for row in tokens] == [
        hashlib.sha256(str(api.token).encode()).hexdigest()
    ]
    assert str(api.token) not in str(tokens)


def test_an_address_is_taken_in_any_spelling(service: Service) -> None:
    """Ada@Example.com and ada@example.com are one mailbox, hence one account."""
    email = new_email()
    sign_up(service, email=email)
    for spelling in (email, email.upper(), email.title(), f" {email} "):
        answer = Api(service).post("/auth/signup", {"email": spelling, "password": PASSWORD})
        check_problem(answer, 409, "email_taken")


def test_letters_beyond_ascii_have_one_case(service: Service) -> None:
    """SQLite's `lower` knows ASCII only, PostgreSQL's knows more: the service must not ask them."""
    mark = secrets.token_hex(4)
    sign_up(service, email=f"Jürgen-{mark}@example.com")
    for spelling in (f"JÜRGEN-{mark}@EXAMPLE.com", f"ju\u0308rgen-{mark}@example.com"):
        taken = Api(service).post("/auth/signup", {"email": spelling, "password": PASSWORD})
        check_problem(taken, 409, "email_taken")
        credentials = {"email": spelling, "password": PASSWORD}
        assert Api(service).post("/auth/login", credentials).status_code == 200


def test_ten_sign_ups_at_once_make_one_account(service: Service) -> None:
    """The unique index decides the race, not a look beforehand; the losers get 409, not 500."""
    email = new_email()
    spellings = [email, *(email[:n].upper() + email[n:] for n in (1, 2, 3))]
    spellings += [email[:n] + email[n:].upper() for n in range(18, 24)]

    def attempt(spelling: str) -> int:
        body = {"email": spelling, "password": PASSWORD}
        return httpx.post(f"{service.url}/auth/signup", json=body, timeout=30).status_code

    statuses = at_once([partial(attempt, spelling) for spelling in spellings])
    assert sorted(statuses) == [201] + [409] * 9
    sql = Sql(service.settings)
    assert sql.value("SELECT count(*) FROM users WHERE lower(email) = %s", email) == 1


@pytest.mark.parametrize(
    ("password", "status"),
    [
        ("1234567", 422),
        ("12345678", 201),
        ("        ", 201),
        ("\u043f\u0430\u0440\u043e\u043b\u044c12", 201),
        ("a" * 1024, 201),
        ("a" * 1025, 422),
        ("🦊" * 256, 201),
        ("🦊" * 257, 422),
        ("e\u0301" * 7, 422),
        ("\ufdfa", 422),
        ("pass\0word", 422),
        ("", 422),
        (None, 422),
        (12345678, 422),
        (["12345678"], 422),
    ],
    ids=repr,
)
def test_which_passwords_are_taken(service: Service, password: Any, status: int) -> None:
    """8 characters to 1,024 bytes, any characters but NUL; never cut off.

    One U+FDFA becomes 18 characters under NFKC, seven letters with combining accents are
    fourteen code points before it: neither way of counting may make a short password long.
    """
    answer = Api(service).post("/auth/signup", {"email": new_email(), "password": password})
    assert answer.status_code == status, answer.text
    if status == 422:
        body = check_problem(answer, 422)
        assert body["errors"][0]["loc"] == ["body", "password"]
        if isinstance(password, str) and password:
            assert password not in answer.text


@pytest.mark.parametrize("field", ["email", "password", "name"])
def test_text_that_a_database_cannot_store_is_refused(service: Service, field: str) -> None:
    """PostgreSQL has no NUL, UTF-8 no lone surrogates: both were a 500 in the services we saw."""
    for piece in (b"\\u0000", b"\\ud800", b"\\udfff\\ud800"):
        body = {"email": new_email(), "password": PASSWORD, "name": "Ada", field: "abcdefgh@MARK"}
        raw = json.dumps(body).encode().replace(b"MARK", piece)
        answer = Api(service).request(
            "POST", "/auth/signup", content=raw, headers={"Content-Type": "application/json"}
        )
        check_problem(answer, 422)
        assert "abcdefgh" not in answer.text


def test_the_same_password_from_another_keyboard_logs_in(service: Service) -> None:
    """NFKC before hashing (NIST SP 800-63B): full-width letters are the same letters."""
    email = new_email()
    sign_up(service, email=email, password=full_width("Geheim123"))
    credentials = {"email": email, "password": "Geheim123"}
    assert Api(service).post("/auth/login", credentials).status_code == 200
    wrong = {"email": email, "password": "geheim123"}
    check_problem(Api(service).post("/auth/login", wrong), 401)


def test_no_part_of_a_long_password_is_ignored(service: Service) -> None:
    """bcrypt stops reading at 72 bytes; here the 1,024th still counts."""
    email = new_email()
    sign_up(service, email=email, password="a" * 1023 + "b")
    wrong = {"email": email, "password": "a" * 1023 + "c"}
    check_problem(Api(service).post("/auth/login", wrong), 401)


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ada",
        "ada@",
        "@example.com",
        "ada@example",
        "ada@exa mple.com",
        "ada lovelace@example.com",
        "ada@example.com\nbcc: eve@example.com",
        "ada\uff20example.com",
        "ada@@example.com",
        "ada\u200b@example.com",
        "a@" + "b" * 260 + ".com",
        None,
        7,
        {"a": 1},
    ],
    ids=repr,
)
def test_what_is_no_address_is_refused(service: Service, email: Any) -> None:
    """Only addresses that mail could reach, so that case and spelling have one meaning."""
    before = Sql(service.settings).count("users")
    answer = Api(service).post("/auth/signup", {"email": email, "password": PASSWORD})
    body = check_problem(answer, 422)
    assert body["errors"][0]["loc"] == ["body", "email"]
    assert PASSWORD not in answer.text
    assert Sql(service.settings).count("users") == before


def test_fields_that_are_not_ours_to_take_are_ignored(service: Service) -> None:
    """Mass assignment: nobody chooses an id, a hash or a date for themselves."""
    email = new_email()
    body = {
        "email": email,
        "password": PASSWORD,
        "id": 999_999,
        "is_admin": True,
        "password_hash": "x",
        "created_at": "1999-01-01T00:00:00Z",
    }
    user = Api(service).post("/auth/signup", body).json()["user"]
    assert user["id"] != 999_999
    assert not user["created_at"].startswith("1999")
    credentials = {"email": email, "password": PASSWORD}
    assert Api(service).post("/auth/login", credentials).status_code == 200


def test_production_refuses_common_passwords(production: Service) -> None:
    """The first guesses of every attacker; development lets them pass, for its test clients."""
    email = new_email()
    for password in ("password123", "Password1", "12345678", full_width("password1"), email):
        body = {"email": email, "password": password}
        refused = httpx.post(f"{production.url}/auth/signup", json=body, timeout=30)
        check_problem(refused, 422, "bad_password")
        assert password not in refused.text
    body = {"email": email, "password": PASSWORD}
    assert httpx.post(f"{production.url}/auth/signup", json=body, timeout=30).status_code == 201


def test_production_refuses_to_change_to_a_common_password(production: Service) -> None:
    """The rule of sign-up holds for a changed password too."""
    api = sign_up(production)
    change = {"password": "password123", "current_password": PASSWORD}
    answer = api.http.patch("/auth/me", json=change)
    check_problem(answer, 422, "bad_password")
