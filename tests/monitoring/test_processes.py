"""Several processes on one port: whichever a scrape meets, it gets the numbers of all."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.metrics_core import Metric

from server.listening import names
from server.metrics import REGISTRY
from server.monitoring.families import of_process
from server.monitoring.processes import Processes
from server.settings import Settings
from tests.conftest import GATEWAY_TOKEN
from tests.gateway import GatewayStub
from tests.monitoring.scraping import Scrape, ask, scrape
from tests.service import Service, free_port, sign_up

LIVE = {"method": "GET", "route": "/health/live", "status": 200}


@pytest.fixture(scope="module")
def pair(
    gateway: GatewayStub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Service]]:
    """Two processes that share a port and a database."""
    folder = tmp_path_factory.mktemp("pair")
    shared = {
        "USE_POSTGRES": "false",
        "DB_PATH": str(folder / "m.db"),
        "PORT": str(free_port()),
        "SHARE_PORT": "true",
        "OPENCLAW_URL": gateway.url,
        "OPENCLAW_TOKEN": GATEWAY_TOKEN,
        "SHUTDOWN_GRACE": "0.1",
    }
    with Service(shared, folder) as first, Service(shared, folder) as second:
        deadline = time.monotonic() + 20
        # Whether it is up is asked of a port that the first one serves as well.
        while first.log.count('"event": "serving"') < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield first, second


def pid(service: Service) -> int:
    """The number of its process."""
    assert service.process is not None
    return service.process.pid


def scrapes(service: Service, number: int = 6) -> list[Scrape]:
    """Some scrapes, each on a connection of its own."""
    return [scrape(service) for _ in range(number)]


def test_a_scrape_has_the_numbers_of_all(pair: tuple[Service, Service]) -> None:
    """A counter that is one process's now and another's then jumps; the sum never falls."""
    before = scrape(pair[0]).total("clawd_http_requests_total", **LIVE)
    for _ in range(30):
        assert ask(pair[0], "/health/live").status_code == 200
    for found in scrapes(pair[0]):
        of_each = [
            found.total("clawd_http_requests_total", process=pid(service), **LIVE)
            for service in pair
        ]
        assert sum(of_each) == before + 30
        assert found.labels("process") == {str(pid(service)) for service in pair}
        assert found.values("clawd_process_up") == [1, 1]
        # Prometheus refuses a family that comes twice.
        types = [line for line in found.text.splitlines() if line.startswith("# TYPE ")]
        assert len(types) == len({line.split()[2] for line in types})


def test_the_queue_is_that_of_all(pair: tuple[Service, Service]) -> None:
    """As a load balancer wants it: whichever process it asks."""
    user = sign_up(pair[0])
    slowly = "[[gateway:answer tokens=1 first=30]]"
    with user.stream(user.session()["id"], slowly) as response:
        assert next(response.iter_lines()) == "event: start"
        here: set[int] = set()
        deadline = time.monotonic() + 10
        while here != {0, 1}:
            assert time.monotonic() < deadline
            answer = ask(pair[0], "/health/queue").json()
            assert (answer["running"], answer["waiting"], answer["workers"]) == (1, 1, 2)
            here.add(answer["here"])


def test_a_process_that_hangs_is_shown_as_silent(pair: tuple[Service, Service]) -> None:
    """It holds up no scrape, and its numbers are missing rather than old."""
    hung, other = pair
    os.kill(pid(hung), signal.SIGSTOP)
    try:
        started = time.monotonic()
        found = scrape_of_a_living(other)
        assert time.monotonic() - started < 4
    finally:
        os.kill(pid(hung), signal.SIGCONT)
    assert found.values("clawd_process_up", process=pid(hung)) == [0]
    assert found.values("clawd_process_up", process=pid(other)) == [1]
    assert found.values("process_open_fds", process=pid(hung)) == []


def scrape_of_a_living(service: Service) -> Scrape:
    """A scrape, whatever connections a stopped process has taken."""
    for _ in range(10):
        try:
            return Scrape(httpx.get(service.url + "/metrics", timeout=2, verify=False).text)
        except httpx.TimeoutException:
            continue
    raise AssertionError("no scrape")


def test_a_process_that_died_is_gone(pair: tuple[Service, Service]) -> None:
    """However it ended; the numbers of the others stay theirs."""
    dead, other = pair
    dead.kill()
    for found in scrapes(other, 3):
        assert found.labels("process") == {str(pid(other))}
        assert found.values("clawd_process_up") == [1]


def own(service: Service) -> Settings:
    """The settings of a service, as its processes read them."""
    return Settings.model_validate(
        {name.lower(): value for name, value in service.settings.items()}
    )


def test_what_somebody_else_says_is_not_believed(monitored: Service) -> None:
    """Any user of the machine may take the name of a process of ours."""
    settings = own(monitored)
    (numbers,) = asyncio.run(Processes(settings, list).ask_others())
    assert not isinstance(numbers, str)

    def read() -> list[Metric]:
        return of_process(REGISTRY, "somebody")

    somebody_else = Processes(settings, read, user=os.geteuid() + 1)
    assert asyncio.run(somebody_else.ask_others()) == []
    somebody_else.open()
    try:
        found = scrape(monitored)
    finally:
        somebody_else.close()
    assert found.labels("process") == {str(pid(monitored))}


def test_a_process_that_says_nothing_makes_no_scrape_fail(monitored: Service) -> None:
    """It listens, and that is all."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(names(own(monitored))[5] + b"-metrics")
        silent.listen()
        started = time.monotonic()
        found = scrape(monitored)
        assert time.monotonic() - started < 2
    assert found.values("clawd_process_up", process=os.getpid()) == [0]
