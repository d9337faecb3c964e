"""Services of their own for tests about what strangers can do."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import GATEWAY_TOKEN, fresh_master
from tests.gateway import GatewayStub
from tests.service import Service
from tests.sql import Sql

Start = Callable[..., Service]


@pytest.fixture(scope="session")
def start(
    request: pytest.FixtureRequest,
    gateway: GatewayStub,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Start]:
    """Starts services with settings of their own, on SQLite; the surface knows no database."""
    with ExitStack() as running:

        def start_one(**settings: str) -> Service:
            master = fresh_master("sqlite", request, tmp_path_factory.mktemp("surface"))
            given = {"OPENCLAW_URL": gateway.url, "OPENCLAW_TOKEN": GATEWAY_TOKEN}
            service = Service({**master, **given, **settings}, tmp_path_factory.mktemp("log"))
            return running.enter_context(service)

        yield start_one


@pytest.fixture
def sql(service: Service) -> Sql:
    """The service's databases, past the service."""
    return Sql(service.settings)
