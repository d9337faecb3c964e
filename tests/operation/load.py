"""Clients that ask without a pause and without a second try, and streams, while processes change.

Half of the clients keep their connections, the others open one for each request.
"""

import asyncio
import itertools
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

import httpx

from tests.service import Api

CLIENTS = 8
STREAMS = 4


class Load:
    """Requests and streams of one user, in a thread of their own inside `with`.

    Whatever isn't the answer that a service at rest gives is a failure; it ends at the first ten.
    """

    def __init__(
        self, api: Api, clients: int = CLIENTS, streams: int = STREAMS, tokens: int = 30
    ) -> None:
        project = api.project()["id"]
        self.url = api.service.url
        self.headers = {"Authorization": f"Bearer {api.token}"}
        self.sessions = [api.session(project)["id"] for _ in range(streams)]
        self.paths = ["/projects", "/auth/me", f"/projects/{project}/sessions"]
        self.project, self.clients, self.tokens = project, clients, tokens
        # A process that ends waits for idle connections, of which this would be one.
        api.http.close()
        self.requests = self.streams = 0
        self.failures: Counter[str] = Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def reaches(self, requests: int, streams: int) -> Callable[[], bool]:
        """Whether there have been so many more of both by then."""
        wanted = self.requests + requests, self.streams + streams
        return lambda: (
            bool(self.failures) or (self.requests >= wanted[0] and self.streams >= wanted[1])
        )

    def check(self) -> None:
        """Raise unless all went well."""
        assert not self.failures, dict(self.failures)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.clients):
                group.create_task(self._ask(keep=number % 2 == 0))
            for session in self.sessions:
                group.create_task(self._stream(session))

    @asynccontextmanager
    async def _client(self, *, keep: bool) -> AsyncIterator[httpx.AsyncClient]:
        kept = None if keep else 0
        async with httpx.AsyncClient(
            base_url=self.url,
            headers=self.headers,
            limits=httpx.Limits(max_keepalive_connections=kept),
            timeout=60,
            trust_env=False,
            verify=False,
        ) as client:
            yield client

    async def _ask(self, *, keep: bool) -> None:
        async with self._client(keep=keep) as client:
            for number in itertools.count():
                if self._is_over():
                    return
                try:
                    if number % 10:
                        response = await client.get(self.paths[number % 3])
                    else:
                        title = {"title": f"number {number}"}
                        path = f"/projects/{self.project}/sessions"
                        response = await client.post(path, json=title)
                    self._count(response)
                except httpx.HTTPError as error:
                    self._fail(keep, error)

    def _count(self, response: httpx.Response) -> None:
        self.requests += 1
        if not response.is_success:
            self.failures[f"{response.request.url.path}: {response.text[:300]}"] += 1

    def _fail(self, kept: object, error: Exception) -> None:
        self.failures[f"kept={kept}: {type(error).__name__} {error}"] += 1

    def _is_over(self) -> bool:
        return self._over.is_set() or self.failures.total() >= 10

    async def _stream(self, session: int) -> None:
        """One turn after the other, each read to its end."""
        async with self._client(keep=True) as client:
            while not self._is_over():
                text = f"[[gateway:answer tokens={self.tokens} delay=0.05]]"
                body = {"session_id": session, "message": text, "stream": True}
                try:
                    response = await client.post("/chat", json=body)
                    self._count_stream(response)
                except httpx.HTTPError as error:
                    self._fail("stream", error)

    def _count_stream(self, response: httpx.Response) -> None:
        self.streams += 1
        last = response.text.rpartition("event: ")[2]
        message = json.loads(last.partition("data: ")[2].partition("\n")[0]).get("message", {})
        whole = str(message.get("content", "")).endswith(f" w{self.tokens - 1}")
        if not last.startswith("done") or message["status"] != "complete" or not whole:
            self.failures[f"stream: {response.text[-300:]}"] += 1
