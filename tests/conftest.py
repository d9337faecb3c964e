"""What all tests share: the databases as parameters, the service, the gateway, users.

A test that takes `service`, `api` or `database` runs once on SQLite and once on PostgreSQL.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest

import database_adapter
from server.settings import BadSettings, get_settings
from server.storage import contract
from tests import postgres
from tests.gateway import GatewayStub
from tests.service import Api, Service, close_clients, sign_up

BACKENDS = ("sqlite", "postgresql")
GATEWAY_TOKEN = "token-of-the-gateway"
# What production needs besides a database.
PRODUCTION = {
    "APP_ENV": "production",
    "OPENCLAW_URL": "http://127.0.0.1:9",
    "ALLOW_ANY_BRANCH": "1",
}


@pytest.fixture(autouse=True)
def _clients() -> Iterator[None]:
    yield
    close_clients()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A real PostgreSQL, from the wheel; nobody wants its hundreds of databases kept."""
    with postgres.Server(postgres.find_binaries()[-1]) as server:
        yield server
        server.kill()


@pytest.fixture(scope="session")
def gateway() -> Iterator[GatewayStub]:
    """A gateway that speaks the recorded protocol."""
    with GatewayStub(token=GATEWAY_TOKEN) as stub:
        yield stub


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of the database that the test runs on."""
    return cast("str", request.param)


@pytest.fixture(scope="session")
def master_settings(
    backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The settings that name a fresh master database, shared by the whole run."""
    return fresh_master(backend, request, tmp_path_factory.mktemp("master"))


def fresh_master(backend: str, request: pytest.FixtureRequest, folder: Path) -> dict[str, str]:
    """The settings that name a master database that nobody has used yet."""
    if backend == "postgresql":
        return postgres.create_master(request.getfixturevalue("postgres_server"))
    return {"USE_POSTGRES": "false", "DB_PATH": str(folder / "master.db")}


@pytest.fixture(scope="session")
def service(
    master_settings: dict[str, str],
    gateway: GatewayStub,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """The service with the gateway behind it; limits on log-ins are off."""
    settings = {
        **master_settings,
        "AUTH_RATE_LIMIT": "off",
        "OPENCLAW_URL": gateway.url,
        "OPENCLAW_TOKEN": GATEWAY_TOKEN,
        "GATEWAY_FIRST_TIMEOUT": "3",
        "GATEWAY_IDLE_TIMEOUT": "3",
    }
    with Service(settings, tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def api(service: Service) -> Api:
    """A new user's client."""
    return sign_up(service)


@pytest.fixture
def database(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[contract.Database]:
    """A database module in this process, with a fresh master whose schema is made."""
    with_settings(fresh_master(backend, request, tmp_path))
    try:
        module = database_adapter.current()
        module.init_schema()
        yield module
    finally:
        without_settings()


_before: dict[str, str | None] = {}


def with_settings(settings: dict[str, str]) -> None:
    """Give this process settings, as its environment would have."""
    for name, value in settings.items():
        _before.setdefault(name, os.environ.get(name))
        os.environ[name] = value
    get_settings.cache_clear()


def without_settings() -> None:
    """Close the database and forget the settings again."""
    # Settings that can't be have opened none.
    with suppress(BadSettings):
        database_adapter.close_pool()
    for name, value in _before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _before.clear()
    get_settings.cache_clear()
