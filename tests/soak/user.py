"""A user at work, who holds each answer against what may be answered."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn, Protocol

import httpx

from tests.service import PASSWORD, Json
from tests.soak.ledger import Ledger


class Wrong(Exception):
    """An answer that nobody should get."""


class Place(Protocol):
    """What users share: the way to the service, and the books about it."""

    http: httpx.AsyncClient
    ledger: Ledger
    statuses: Counter[int]
    events: Counter[str]


class User:
    """One user after another, at one desk: an account, what belongs to it, what it is about."""

    def __init__(self, place: Place, number: int, seed: int) -> None:
        self.place = place
        self.number = number
        self.random = random.Random(f"{seed}.{number}")
        self._texts = 0
        self._accounts = 0
        self.become_new()

    def become_new(self) -> None:
        """Be somebody else from now on, at another address: limits count by both."""
        self._accounts += 1
        self.email = f"u{self.number}.{self._accounts}@example.com"
        self.address = f"10.{self.number}.{self._accounts // 250}.{self._accounts % 250 + 1}"
        self.known = False
        self.token = ""
        self.sessions: dict[int, list[int]] = {}  # of each project
        self.unread: dict[int, int] = {}  # the answer that a session may still be busy with

    def text(self, longest: int = 600) -> str:
        """Something that nobody has said before."""
        self._texts += 1
        filler = self.random.choice(("words ", "Wörter ", "\u2028 \N{GRINNING FACE} ", "x"))
        return f"{self.number}.{self._texts} " + filler * self.random.randrange(longest // 6)

    def session(self) -> int | None:
        """One of the sessions, if there is one."""
        every = [one for sessions in self.sessions.values() for one in sessions]
        return self.random.choice(every) if every else None

    @property
    def _headers(self) -> dict[str, str]:
        who = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return {"X-Forwarded-For": self.address, **who}

    async def ask(self, method: str, path: str, *allowed: int, **options: Any) -> httpx.Response:
        """Send a request; raises `Wrong` unless the status is one of those allowed."""
        options["headers"] = {**self._headers, **options.get("headers", {})}
        response = await self.place.http.request(method, path, **options)
        self.check(response, *allowed)
        return response

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *allowed: int, **options: Any
    ) -> AsyncIterator[httpx.Response]:
        """The same, with an answer that is still to be read."""
        options["headers"] = {**self._headers, **options.get("headers", {})}
        async with self.place.http.stream(method, path, **options) as response:
            if response.status_code != 200:
                await response.aread()
            self.check(response, *allowed)
            yield response

    def check(self, response: httpx.Response, *allowed: int) -> None:
        """Count the answer, and raise `Wrong` unless its status is one of those allowed."""
        self.place.statuses[response.status_code] += 1
        if response.status_code not in allowed:
            asked = response.request
            self.wrong(f"{asked.method} {asked.url.path} -> {response.status_code}", response.text)

    def wrong(self, *words: str) -> NoReturn:
        """Raise `Wrong`."""
        raise Wrong(": ".join(words)[:500])

    def count(self, event: str) -> None:
        """Note that something has happened that the figures name."""
        self.place.events[event] += 1

    async def come(self) -> None:
        """Sign up or log in, sometimes with a wrong password first."""
        if not self.known:
            body = {"email": self.email, "password": PASSWORD}
            self._enter((await self.ask("POST", "/auth/signup", 201, json=body)).json())
            self.known = True
            return
        if self.random.random() < 0.25:
            await self._log_in("not the password", 401, 429)
        # Ten failures within a quarter of an hour, and the right password is refused as well.
        answer = await self._log_in(PASSWORD, 200, 429)
        if answer.status_code == 429:
            self.become_new()
            await self.come()
        else:
            self._enter(answer.json())

    async def _log_in(self, password: str, *allowed: int) -> httpx.Response:
        if self.random.random() < 0.5:
            body = {"email": self.email, "password": password}
            return await self.ask("POST", "/auth/login", *allowed, json=body)
        form = {"username": self.email, "password": password}
        return await self.ask("POST", "/auth/login", *allowed, data=form)

    def _enter(self, answer: Json) -> None:
        self.token = answer["access_token"]

    async def go(self) -> None:
        """Log out, after which the token is void."""
        await self.ask("POST", "/auth/logout", 204)
        await self.ask("GET", "/auth/me", 401)
        self.token = ""
