"""Sources and targets of migrations."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgres
from tests.gateway import GatewayStub
from tests.migration.moving import Move
from tests.migration.sources import Told, make_by_hand, make_by_service
from tests.service import new_name


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A server of these tests' own: sources name projects that other tests have as well."""
    with postgres.Server(postgres.find_binaries()[-1]) as server:
        yield server
        server.kill()


@pytest.fixture
def target(postgres_server: postgres.Server) -> Iterator[dict[str, str]]:
    """The settings that name a fresh master, which goes with its projects' databases."""
    settings = postgres.create_master(postgres_server)
    yield settings
    postgres.drop_master(postgres_server, settings)


@pytest.fixture
def move(target: dict[str, str], postgres_server: postgres.Server, tmp_path: Path) -> Move:
    """A small source with a row in every table, and a fresh target."""
    make_by_hand(tmp_path / "master.db", new_name())
    return Move({**target, "DB_PATH": str(tmp_path / "master.db")}, postgres_server)


@pytest.fixture(scope="session")
def lived(gateway: GatewayStub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Told]:
    """A source that the service made, and what it said about it; to be copied."""
    folder = tmp_path_factory.mktemp("lived")
    return folder, make_by_service(folder / "master.db", gateway)


@pytest.fixture
def told(lived: tuple[Path, Told], tmp_path: Path) -> Told:
    """What the service said about its source, which lies in the test's own folder now."""
    shutil.copytree(lived[0], tmp_path, dirs_exist_ok=True)
    return lived[1]


@pytest.fixture
def moved(
    told: Told, target: dict[str, str], postgres_server: postgres.Server, tmp_path: Path
) -> Move:
    """The service's source on its way into a fresh target."""
    assert told.tokens
    return Move({**target, "DB_PATH": str(tmp_path / "master.db")}, postgres_server)
