"""Passwords: what is accepted, how they are hashed, checked in the same time for everybody.

argon2id with OWASP's first profile (m=19456 KiB, t=2, p=1; OWASP Password Storage Cheat Sheet):
about 20 ms a hash. Hashes run in threads of their own, at most one a core, since more at once are
slower in all.
"""

import os
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from server.common_passwords import is_common
from server.errors import Invalid, Overloaded

MIN_CHARACTERS = 8
MAX_BYTES = 1024
MAX_WAITING = 60

T = TypeVar("T")

_hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)


class Hashing:
    """The hashing of one process: as many at once as cores, a bounded queue before them."""

    def __init__(self) -> None:
        self._limiter = CapacityLimiter(os.cpu_count() or 1)

    async def hash(self, password: str) -> str:
        """The password's hash, with its parameters and salt in it."""
        return await self._run(_hash, password)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether the password is the stored one; takes as long where there is no account."""
        return await self._run(_verify, stored, password)

    async def _run(self, function: Callable[..., T], *args: str | None) -> T:
        if self._limiter.statistics().tasks_waiting >= MAX_WAITING:
            raise Overloaded("Too many log-ins at once.", code="login_busy", retry_after=2)
        return await anyio.to_thread.run_sync(function, *args, limiter=self._limiter)


def _normalize(password: str) -> str:
    # The same characters from another keyboard must give the same bytes (NIST SP 800-63B).
    return unicodedata.normalize("NFKC", password)


def _hash(password: str) -> str:
    return _hasher.hash(_normalize(password))


def _verify(stored: str | None, password: str) -> bool:
    try:
        _hasher.verify(stored or _nobody(), _normalize(password))
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None


def needs_rehash(stored: str) -> bool:
    """Whether the hash was made with other parameters than today's."""
    return _hasher.check_needs_rehash(stored)


@cache
def _nobody() -> str:
    """A hash with today's parameters to check against where there is no account."""
    return _hasher.hash(os.urandom(16).hex())


def check_new(password: str, email: str, *, refuse_common: bool) -> None:
    """Raise `Invalid` for a password that may not be set."""
    normal = _normalize(password)
    # NFKC makes one letter of a letter and its accents, and eighteen of U+FDFA.
    if min(len(password), len(normal)) < MIN_CHARACTERS:
        raise _refusal(f"must have at least {MIN_CHARACTERS} characters")
    if len(normal.encode()) > MAX_BYTES:
        raise _refusal(f"must have at most {MAX_BYTES} bytes")
    word = normal.lower()
    if refuse_common and (word in (email.lower(), "clawd-backend") or is_common(word)):
        raise _refusal("is one of the most common passwords; choose another one")


def _refusal(reason: str) -> Invalid:
    return Invalid(f"password: {reason}", loc=("body", "password"), code="bad_password")
