"""The databases that the contract suite runs on: SQLite, then every PostgreSQL on this machine."""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import database_adapter
from server.storage import contract
from tests import postgres
from tests.conftest import with_settings, without_settings

StartServer = Callable[[str], postgres.Server]


def _name(bin_dir: Path) -> str:
    said = subprocess.run(
        [bin_dir / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    major = re.search(r"\) (\d+)", said.stdout)
    return f"postgresql-{major[1] if major else bin_dir}"


# The wheel's comes last in `find_binaries`, first here, and wins over a system's of its version.
POSTGRES = {_name(bin_dir): bin_dir for bin_dir in reversed(postgres.find_binaries()[:-1])}
POSTGRES = {_name(wheel): wheel for wheel in postgres.find_binaries()[-1:]} | POSTGRES


@pytest.fixture(scope="session")
def start_server(request: pytest.FixtureRequest) -> Iterator[StartServer]:
    """Gives the running server of a name, started at its first use; the wheel's is everybody's."""
    wheel = next(iter(POSTGRES))
    with ExitStack() as stack:
        running: dict[str, postgres.Server] = {}

        def start(name: str) -> postgres.Server:
            if name not in running:
                running[name] = (
                    request.getfixturevalue("postgres_server")
                    if name == wheel
                    else stack.enter_context(throwaway(name))
                )
            return running[name]

        yield start


@pytest.fixture(scope="session", params=["sqlite", *POSTGRES])
def backend(request: pytest.FixtureRequest) -> str:
    """The name of the database that the test runs on."""
    return str(request.param)


@pytest.fixture(scope="session", params=list(POSTGRES))
def postgres_name(request: pytest.FixtureRequest) -> str:
    """The name of the PostgreSQL that a test of PostgreSQL alone runs on."""
    return str(request.param)


@pytest.fixture
def master(backend: str, start_server: StartServer, tmp_path: Path) -> dict[str, str]:
    """The settings that name a master database that nobody has used yet."""
    if backend == "sqlite":
        return {"USE_POSTGRES": "false", "DB_PATH": str(tmp_path / "master.db")}
    return postgres.create_master(start_server(backend))


@pytest.fixture
def database(master: dict[str, str]) -> Iterator[contract.Database]:
    """The module under test, with a fresh master whose schema is made."""
    yield from opened(master)


@pytest.fixture
def server(postgres_name: str, start_server: StartServer) -> postgres.Server:
    """The shared PostgreSQL server, for looking in from outside; not to be stopped."""
    return start_server(postgres_name)


@pytest.fixture
def postgres_master(server: postgres.Server) -> dict[str, str]:
    """`master`, on PostgreSQL alone."""
    return postgres.create_master(server)


@pytest.fixture
def postgres_database(postgres_master: dict[str, str]) -> Iterator[contract.Database]:
    """`database`, on PostgreSQL alone."""
    yield from opened(postgres_master)


@pytest.fixture
def sqlite_master(tmp_path: Path) -> dict[str, str]:
    """`master`, on SQLite alone."""
    return {"USE_POSTGRES": "false", "DB_PATH": str(tmp_path / "master.db")}


@pytest.fixture
def sqlite_database(sqlite_master: dict[str, str]) -> Iterator[contract.Database]:
    """`database`, on SQLite alone."""
    yield from opened(sqlite_master)


@pytest.fixture(scope="module")
def own_server(postgres_name: str) -> Iterator[postgres.Server]:
    """A server of the module's own, which its tests may kill, stop and restart."""
    with throwaway(postgres_name) as running:
        yield running


@contextmanager
def throwaway(name: str) -> Iterator[postgres.Server]:
    """A server whose data nobody wants to keep: ended without writing it all to disk."""
    with postgres.Server(POSTGRES[name]) as running:
        try:
            yield running
        finally:
            running.kill()


def opened(settings: dict[str, str]) -> Iterator[contract.Database]:
    """The module that the settings choose, with its schema made; closed at the end."""
    try:
        with_settings(settings)
        module = database_adapter.current()
        module.init_schema()
        yield module
    finally:
        without_settings()
