"""Who is calling: the one way from an Authorization header to a user."""

import hashlib
import re
import secrets
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel, ConfigDict
from starlette.requests import HTTPConnection

import database_adapter
from server.auth import queries
from server.errors import BadRequest, Unauthorized
from server.fields import Instant

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,200}=*", re.ASCII)


class User(BaseModel):
    """An account."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": 1,
                "email": "ada@example.com",
                "name": "Ada",
                "created_at": "2026-11-21T09:00:00.000000Z",
            }
        }
    )

    id: int
    email: str
    name: str | None
    created_at: Instant


class Caller(BaseModel):
    """The user who sent the request, with the hash of the token that says so."""

    user: User
    token_hash: str

    @property
    def id(self) -> int:
        """The user's id, the first argument of every query."""
        return self.user.id


def new_token() -> tuple[str, str]:
    """A random token of 256 bits and its hash; only the hash is stored.

    A fast hash is right for a secret that nobody can guess; it is looked up on every request.
    """
    token = "clawd_" + secrets.token_urlsafe(32)
    return token, hash_token(token)


def hash_token(token: str) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


class _Bearer(OAuth2PasswordBearer):
    """A bearer token (RFC 6750), and nothing else, as its hash."""

    async def __call__(self, request: HTTPConnection) -> str:
        headers = request.headers.getlist("authorization")
        if len(headers) > 1:
            raise BadRequest("More than one Authorization header.", code="invalid_request")
        scheme, _, token = (headers[0] if headers else "").partition(" ")
        if scheme.lower() != "bearer" or not _TOKEN.fullmatch(token):
            raise Unauthorized()
        return hash_token(token)


_scheme = _Bearer(
    tokenUrl="/auth/login",
    scheme_name="OAuth2PasswordBearer",
    description="The `access_token` of a log-in.",
)
TokenHash = Annotated[str, Security(_scheme)]
"""Of a token that may be anybody's: for queries that find the caller themselves."""


def admit(request: Request, user_id: int | None) -> int:
    """The caller's id, from now on in the log; raises `Unauthorized` without one."""
    if user_id is None:
        raise Unauthorized("The token is not valid or has expired.")
    request.state.user_id = user_id
    return user_id


def _caller(request: Request, token_hash: TokenHash) -> Caller:
    with database_adapter.read_db() as conn:
        row: dict[str, Any] | None = queries.find_user_by_token(conn, token_hash, datetime.now(UTC))
    admit(request, row["id"] if row else None)
    return Caller(user=User.model_validate(row), token_hash=token_hash)


CurrentCaller = Annotated[Caller, Depends(_caller)]
