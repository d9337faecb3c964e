"""A service whose numbers nobody else changes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import checkout
from tests.conftest import GATEWAY_TOKEN, fresh_master
from tests.gateway import GatewayStub
from tests.monitoring.backed_up import clear
from tests.service import ROOT, Api, Service, sign_up
from tests.test_commands import add_environment

TOKEN = "a-token-for-the-metrics-alone"


@pytest.fixture(scope="session")
def settings(
    backend: str,
    request: pytest.FixtureRequest,
    gateway: GatewayStub,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """The settings of a service with the gateway behind it, and a folder for backups."""
    folder = tmp_path_factory.mktemp("monitored")
    return {
        **fresh_master(backend, request, folder),
        "AUTH_RATE_LIMIT": "off",
        "BACKUP_DIR": str(folder / "backups"),
        "METRICS_TOKEN": TOKEN,
        "OPENCLAW_URL": gateway.url,
        "OPENCLAW_TOKEN": GATEWAY_TOKEN,
        "SHUTDOWN_GRACE": "0.1",
    }


@pytest.fixture(scope="session")
def monitored(
    settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service with these settings."""
    with Service(settings, tmp_path_factory.mktemp("log")) as running:
        yield running


@pytest.fixture
def user(monitored: Service) -> Api:
    """A new user of it."""
    return sign_up(monitored)


@pytest.fixture
def backups(settings: dict[str, str]) -> Iterator[Path]:
    """Its folder of backups, empty."""
    folder = Path(settings["BACKUP_DIR"])
    folder.mkdir(exist_ok=True)
    yield folder
    clear(folder)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with an environment, and with nobody's `.env`."""
    folder = checkout.copy(tmp_path_factory.mktemp("tree"))
    for name in ("requirements.lock", "scripts/monitor.sh"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    add_environment(folder)
    return folder
