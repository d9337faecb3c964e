"""HTTP of accounts: sign up, log in, log out, me."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import database_adapter
from server.auth import emails, limits, passwords, queries
from server.auth.fields import Name, NewPassword, Password, Signup
from server.auth.guard import CurrentCaller, User, new_token
from server.errors import (
    Conflicting,
    Forbidden,
    Invalid,
    Overloaded,
    Unauthorized,
    Unsupported,
    problems,
)
from server.fields import Text
from server.settings import Settings, get_settings
from server.storage.contract import Connection, Row

router = APIRouter(prefix="/auth", tags=["auth"])

_attempts = limits.Queue()


class Credentials(BaseModel):
    """What an account logs in with."""

    email: Annotated[Text, Field(max_length=1024, examples=["ada@example.com"])]
    password: Password


class Changes(BaseModel):
    """What to change of one's account; a new password needs the current one."""

    name: Name | None = None
    password: NewPassword | None = None
    current_password: Password | None = None


class LoggedIn(BaseModel):
    """A token to send as `Authorization: Bearer <access_token>`."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "user": User.model_config["json_schema_extra"]["example"],  # type: ignore[index]
                "access_token": "clawd_5Zk0b3h1Q0mJr0Zr0a9M2c8m3v7y1d6s4f5g6h7j8k9",
                "token_type": "bearer",
                "expires_in": 604800,
            }
        }
    )

    user: User
    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: int = Field(description="Seconds.")


async def _hashing(request: Request) -> passwords.Hashing:
    hashing: passwords.Hashing = request.app.state.hashing
    return hashing


async def _settings() -> Settings:
    return get_settings()


Hashing = Annotated[passwords.Hashing, Depends(_hashing)]
CurrentSettings = Annotated[Settings, Depends(_settings)]


@router.post("/signup", status_code=201, responses=problems(400, 409, 413, 422, 429))
async def signup(
    body: Signup, request: Request, hashing: Hashing, settings: CurrentSettings
) -> LoggedIn:
    """Make an account and log in to it."""
    email = emails.normalize(body.email)
    passwords.check_new(body.password, email, refuse_common=settings.app_env == "production")
    if settings.auth_rate_limit == "on":
        await _attempts.begin("signup", "", _address(request))
    password_hash = await hashing.hash(body.password)
    return await run_in_threadpool(_create_user, email, body.name, password_hash, settings)


def _create_user(email: str, name: str | None, password_hash: str, settings: Settings) -> LoggedIn:
    now = datetime.now(UTC)
    with database_adapter.get_db() as conn:
        user = queries.create_user(conn, email, name, password_hash, now)
        if user is None:
            raise Conflicting("An account with this e-mail exists.", code="email_taken")
        return _add_token(conn, user, now, settings)


def _add_token(conn: Connection, user: Row, now: datetime, settings: Settings) -> LoggedIn:
    token, token_hash = new_token()
    lifetime = timedelta(hours=settings.token_ttl_hours)
    queries.add_token(conn, user["id"], token_hash, now, now + lifetime)
    return LoggedIn(
        user=User.model_validate(user),
        access_token=token,
        expires_in=int(lifetime.total_seconds()),
    )


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


_LOGIN_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": Credentials.model_json_schema()},
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "required": ["username", "password"],
                    "properties": {
                        "grant_type": {"type": "string", "pattern": "^password$"},
                        "username": {"type": "string"},
                        "password": {"type": "string", "format": "password"},
                    },
                }
            },
        },
    }
}


@router.post("/login", responses=problems(400, 401, 413, 415, 422, 429), openapi_extra=_LOGIN_BODY)
async def login(request: Request, hashing: Hashing, settings: CurrentSettings) -> LoggedIn:
    """Log in, with JSON or with the OAuth2 password form (RFC 6749, 4.3)."""
    credentials = await _read_credentials(request)
    account = emails.account_key(credentials.email)
    # Once more where another log-in stored a newer hash of the same password meanwhile.
    for _ in range(2):
        user = await _check_password(account, credentials.password, request, hashing, settings)
        if user is None:
            break
        new_hash = None
        if passwords.needs_rehash(user["password_hash"]):
            new_hash = await hashing.hash(credentials.password)
        logged_in = await run_in_threadpool(_log_in, user, new_hash, settings)
        if logged_in is not None:
            return logged_in
    raise Unauthorized("Wrong e-mail or password.", code="invalid_credentials")


async def _check_password(
    account: str,
    password: str,
    request: Request,
    hashing: passwords.Hashing,
    settings: Settings,
) -> Row | None:
    """The account if the password is its own; the same work where there is no account."""
    if settings.auth_rate_limit == "off":
        return await _verify(account, password, hashing)
    attempt = await _attempts.begin("login", account, _address(request))
    try:
        row = await _verify(account, password, hashing)
    except Overloaded:
        await _attempts.end(attempt, failed=False)
        raise
    await _attempts.end(attempt, failed=row is None)
    return row


async def _verify(account: str, password: str, hashing: passwords.Hashing) -> Row | None:
    row = await run_in_threadpool(_find_account, account)
    right = await hashing.verify(row["password_hash"] if row else None, password)
    # Looked at afterwards: a disabled account takes as long as a wrong password.
    return row if right and row and row["disabled_at"] is None else None


async def _read_credentials(request: Request) -> Credentials:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/x-www-form-urlencoded":
            form = await request.form()
            return Credentials.model_validate(
                {"email": form.get("username"), "password": form.get("password")}
            )
        if kind == "application/json":
            return Credentials.model_validate_json(await request.body())
    except ValidationError as error:
        errors = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
        raise RequestValidationError(errors) from None
    raise Unsupported("Send JSON or a URL-encoded form.")


def _find_account(account: str) -> Row | None:
    with database_adapter.read_db() as conn:
        return queries.find_account(conn, account)


def _log_in(user: Row, new_hash: str | None, settings: Settings) -> LoggedIn | None:
    """A token, unless the password that was verified is no longer the account's."""
    now, verified = datetime.now(UTC), user["password_hash"]
    with database_adapter.get_db() as conn:
        if new_hash is None:
            valid = queries.hold_password(conn, user["id"], verified)
        else:
            valid = queries.replace_password(conn, user["id"], verified, new_hash, now)
        return _add_token(conn, user, now, settings) if valid else None


@router.post("/logout", status_code=204, responses=problems(400, 401))
def logout(caller: CurrentCaller) -> Response:
    """Make this token void, in every process, from the next request on."""
    with database_adapter.change_db() as conn:
        queries.delete_token(conn, caller.id, caller.token_hash)
    return Response(status_code=204)


@router.get("/me", responses=problems(400, 401))
def me(caller: CurrentCaller) -> User:
    """The account that the token belongs to."""
    return caller.user


@router.patch("/me", responses=problems(400, 401, 403, 413, 422, 429))
async def change_me(
    body: Changes,
    request: Request,
    caller: CurrentCaller,
    hashing: Hashing,
    settings: CurrentSettings,
) -> User:
    """Change the name or the password; a new password makes all other tokens void."""
    hashes = None
    if body.password is not None:
        if body.current_password is None:
            raise Invalid(
                "current_password: is needed to set a new one", loc=("body", "current_password")
            )
        account = emails.account_key(caller.user.email)
        user = await _check_password(account, body.current_password, request, hashing, settings)
        if user is None:
            raise _wrong_password()
        passwords.check_new(
            body.password, caller.user.email, refuse_common=settings.app_env == "production"
        )
        hashes = user["password_hash"], await hashing.hash(body.password)
    return await run_in_threadpool(_change, caller, body, hashes)


def _wrong_password() -> Forbidden:
    return Forbidden("The current password is wrong.", code="wrong_password")


def _change(caller: CurrentCaller, changes: Changes, hashes: tuple[str, str] | None) -> User:
    """The changed account; `hashes` are the verified password's and the new one's."""
    now = datetime.now(UTC)
    with database_adapter.get_db() as conn:
        if "name" in changes.model_fields_set:
            queries.set_name(conn, caller.id, changes.name, now)
        if hashes is not None:
            if not queries.replace_password(conn, caller.id, *hashes, now):
                raise _wrong_password()
            queries.delete_other_tokens(conn, caller.id, caller.token_hash)
        user = queries.find_user(conn, caller.id)
    if user is None:
        raise Unauthorized()
    return User.model_validate(user)
