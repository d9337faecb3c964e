"""Services of their own for tests about the outermost layer."""

from collections.abc import Iterator

import pytest

from tests.conftest import PRODUCTION, fresh_master
from tests.service import Service
from tests.sql import Sql

ORIGINS = ("https://app.example.com", "http://localhost:3001")


@pytest.fixture(scope="session")
def guarded(
    backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service in production, with pages of two origins allowed."""
    settings = {
        **fresh_master(backend, request, tmp_path_factory.mktemp("guarded")),
        **PRODUCTION,
        "CORS_ORIGINS": ", ".join(ORIGINS),
    }
    with Service(settings, tmp_path_factory.mktemp("guarded-log")) as running:
        yield running


@pytest.fixture
def sql(service: Service) -> Sql:
    """The service's databases, past the service."""
    return Sql(service.settings)
