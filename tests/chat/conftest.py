"""A second process of the service on the same database."""

from collections.abc import Iterator

import pytest

from tests.gateway import GatewayStub
from tests.service import Api, Service


@pytest.fixture(scope="session")
def second(
    service: Service, gateway: GatewayStub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Another process beside the first one."""
    settings = {name: value for name, value in service.settings.items() if name != "PORT"}
    with Service(settings, tmp_path_factory.mktemp("second")) as running:
        yield running


@pytest.fixture
def elsewhere(api: Api, second: Service) -> Api:
    """The same user as `api`, at the other process."""
    return Api(second, api.token)
