"""Users at work while the database fails, and what must hold for them, during it and after."""

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Self

import httpx

from tests.chat.following import wait_until
from tests.service import PASSWORD, Api, Service
from tests.sql import Sql

# What the contract gives a request that the database does not serve, and the noise of a machine.
REFUSED_SECONDS = 4.5
HEALTH_SECONDS = 2.0
BACK_SECONDS = 2.0


def check_refused(response: httpx.Response, *codes: str) -> None:
    """503 that says when to come again, with one of these codes if any are named."""
    assert response.status_code == 503, response.text
    assert response.headers["retry-after"]
    assert not codes or response.json()["code"] in codes, response.text


def check_served_or_refused(response: httpx.Response) -> None:
    """2xx or 503 that says when to come again: never 500, and never 401, which logs users out."""
    if not response.is_success:
        check_refused(response)


def log_in(api: Api) -> httpx.Response:
    """A log-in of the user."""
    return api.http.post("/auth/login", json={"email": api.user["email"], "password": PASSWORD})


def works(api: Api) -> bool:
    """Whether the service reads and writes again."""
    writes = api.http.patch("/auth/me", json={"name": secrets.token_hex(4)})
    check_served_or_refused(writes)
    return writes.is_success and api.http.get("/projects").is_success


def check_back(api: Api, seconds: float = BACK_SECONDS) -> None:
    """It reads and writes again in time, without a restart of its own."""
    deadline = time.monotonic() + seconds
    while not works(api):
        assert time.monotonic() < deadline, f"not right again within {seconds} s"
        time.sleep(0.02)


def check_sound(service: Service) -> None:
    """No connection is lost, and none is left inside a transaction."""
    sql = Sql(service.settings)
    deadline = time.monotonic() + 5
    while True:
        # The service's own chores may be at work at any one moment.
        in_use = httpx.get(service.url + "/health/db", verify=False).json()["pool"]["in_use"]
        idle = sql.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND starts_with(state, 'idle in transaction')"
        )
        if in_use == idle == 0:
            return
        assert time.monotonic() < deadline, f"{in_use} in use, {idle} idle in transaction"
        time.sleep(0.05)


class Users:
    """Clients that write, read and log in without a pause, inside `with`; one asks for health.

    Each session that they make has a title of its own, so that afterwards one can see whether what
    was acknowledged is there, once.
    """

    def __init__(self, api: Api, count: int = 6) -> None:
        self.api = api
        self.project = api.project()["id"]
        self.statuses: Counter[int] = Counter()
        self.acknowledged: set[str] = set()
        self.slowest = self.slowest_health = 0.0
        self._wrong: list[BaseException] = []
        self._end = threading.Event()
        work = [self._use(number) for number in range(count)]
        self._threads = [
            threading.Thread(target=self._repeat, args=(step,))
            for step in [*work, self._ask_for_health]
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int, *statuses: int) -> None:
        """Wait until they have had so many more answers with one of these statuses."""
        had = sum(self.statuses[status] for status in statuses)
        wait_until(lambda: sum(self.statuses[status] for status in statuses) >= had + count)

    def check(self) -> None:
        """Only 2xx and 503 with Retry-After, all in time; what was acknowledged is there once."""
        if self._wrong:
            raise self._wrong[0]
        assert set(self.statuses) <= {200, 201, 503}, self.statuses
        assert self.slowest < REFUSED_SECONDS
        assert self.slowest_health < HEALTH_SECONDS
        rows = Sql(self.api.service.settings).rows(
            "SELECT title FROM sessions WHERE project_id = %s", self.project
        )
        titles = Counter(row["title"] for row in rows)
        assert self.acknowledged <= set(titles), "acknowledged, and lost"
        assert max(titles.values(), default=1) == 1, "stored twice"

    def _repeat(self, step: Callable[[], None]) -> None:
        try:
            while not self._end.is_set():
                step()
        except BaseException as error:
            self._wrong.append(error)

    def _use(self, number: int) -> Callable[[], None]:
        api = Api(self.api.service, self.api.token)
        api.user = self.api.user
        sessions = f"/projects/{self.project}/sessions"

        def step() -> None:
            title = secrets.token_hex(8)
            made = self._timed(lambda: api.http.post(sessions, json={"title": title}))
            if made.is_success:
                self.acknowledged.add(title)
            self._timed(lambda: api.http.get(sessions))
            if number == 0:
                self._timed(lambda: log_in(api))

        return step

    def _timed(self, ask: Callable[[], httpx.Response]) -> httpx.Response:
        started = time.monotonic()
        response = ask()
        self.slowest = max(self.slowest, time.monotonic() - started)
        self.statuses[response.status_code] += 1
        check_served_or_refused(response)
        return response

    def _ask_for_health(self) -> None:
        started = time.monotonic()
        response = httpx.get(self.api.service.url + "/health", timeout=30, verify=False)
        self.slowest_health = max(self.slowest_health, time.monotonic() - started)
        assert response.status_code in {200, 503}
        time.sleep(0.05)
