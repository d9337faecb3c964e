"""A PostgreSQL that the tests of faults may hurt, with a service on it."""

from collections.abc import Iterator

import pytest

from tests import postgres
from tests.service import Api, Service, sign_up


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """A PostgreSQL of the module's own."""
    with postgres.Server(postgres.find_binaries()[-1]) as running:
        yield running


@pytest.fixture(scope="module")
def on_server(
    server: postgres.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service on it, with the echo and a pool of five."""
    settings = {**postgres.create_master(server), "AUTH_RATE_LIMIT": "off", "DB_POOL_MAX": "5"}
    with Service(settings, tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def api(on_server: Service) -> Api:
    """A user of that service."""
    return sign_up(on_server)
