"""What the tests about sessions share."""

import pytest

from tests.service import Service
from tests.sql import Sql


@pytest.fixture
def sql(service: Service) -> Sql:
    """The service's databases, past the service."""
    return Sql(service.settings)
