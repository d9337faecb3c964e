"""Many users at work at once, at a pace that leaves half of the service's time free."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import httpx

from tests.soak import talk, work
from tests.soak.ledger import Ledger
from tests.soak.user import User, Wrong

# What a user does, and how often.
ACTIONS: dict[Callable[[User], Awaitable[None]], int] = {
    talk.chat: 14,
    talk.show: 4,
    talk.stream: 9,
    talk.cut: 14,
    talk.stop: 5,
    talk.interrupt: 2,
    talk.repeat: 3,
    talk.branch: 3,
    talk.be_troubled: 6,
    work.look_around: 8,
    work.look_into: 5,
    work.create: 4,
    work.delete: 1,
    work.new_session: 6,
    work.rename_session: 4,
    work.delete_session: 4,
    work.read: 10,
    work.err: 14,
    work.hang_up: 2,
    work.check_health: 2,
    work.leave: 1,
}
HALF = 0.5
PAUSES = (0.02, 10.0)
MOST_WRONG = 50


class Load:
    """So many users of one service; `start`, then `rest` and `go_on`, at last `rest` again."""

    def __init__(self, url: str, users: int, seed: int) -> None:
        self.url = url
        self.ledger = Ledger()
        self.statuses: Counter[int] = Counter()
        self.events: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.pause = 0.5
        self.at_work = 0
        self._users = [User(self, number, seed) for number in range(users)]
        self._may_work = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self.go_on()
        self._tasks = [asyncio.create_task(self._work(user)) for user in self._users]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.http.aclose()

    def go_on(self) -> None:
        """Let everybody work."""
        self.http = httpx.AsyncClient(
            base_url=self.url,
            timeout=30,
            trust_env=False,
            # The service closes what was idle for five seconds, perhaps just when it is used.
            limits=httpx.Limits(max_connections=None, keepalive_expiry=2),
        )
        self._may_work.set()

    async def rest(self) -> None:
        """Let everybody finish what is begun, then close all connections."""
        self._may_work.clear()
        async with asyncio.timeout(120):
            while self.at_work:
                self._raise_bugs()
                await asyncio.sleep(0.05)
        await self.http.aclose()

    def adapt(self, busy: float) -> None:
        """Change the pace: the service was at work for this part of the time."""
        shortest, longest = PAUSES
        factor = min(2.0, max(0.5, busy / HALF))
        self.pause = min(longest, max(shortest, self.pause * factor))

    def _raise_bugs(self) -> None:
        """A user who fell ill must not look like one who is quiet."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _work(self, user: User) -> None:
        while True:
            await self._may_work.wait()
            self.at_work += 1
            try:
                await self._do_something(user)
            except Wrong as wrong:
                self._note(user, str(wrong))
            except httpx.HTTPError as broken:
                self._note(user, f"{type(broken).__name__} from {broken.request.url.path}")
            finally:
                self.at_work -= 1
            await asyncio.sleep(user.random.expovariate(1 / self.pause))

    async def _do_something(self, user: User) -> None:
        if not user.token:
            await user.come()
        elif user.random.random() < 0.03:
            await user.go()
        else:
            (action,) = user.random.choices(list(ACTIONS), list(ACTIONS.values()))
            await action(user)

    def _note(self, user: User, wrong: str) -> None:
        """After this nobody knows what the user has: somebody else takes the desk."""
        if len(self.wrong) < MOST_WRONG:
            self.wrong.append(wrong)
        user.become_new()
