"""Services of their own for tests about accounts."""

from collections.abc import Iterator

import pytest

from tests.conftest import PRODUCTION, fresh_master
from tests.service import Service


@pytest.fixture(scope="session")
def pair(
    backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Service]]:
    """Two processes on one database, with the limits on log-ins that production has."""
    settings = fresh_master(backend, request, tmp_path_factory.mktemp("limited"))
    folder = tmp_path_factory.mktemp("pair")
    with Service(settings, folder) as first, Service(settings, folder) as second:
        yield first, second


@pytest.fixture(scope="session")
def production(
    backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service as operators run it."""
    settings = {
        **fresh_master(backend, request, tmp_path_factory.mktemp("production")),
        **PRODUCTION,
    }
    with Service(settings, tmp_path_factory.mktemp("production-log")) as running:
        yield running
