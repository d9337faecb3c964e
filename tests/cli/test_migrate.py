"""`./clawd migrate status`."""

from pathlib import Path

import pytest

from server.storage import contract, migrate
from tests.cli.conftest import Cli
from tests.conftest import fresh_master


def states(cli: Cli, code: int, settings: dict[str, str] | None = None) -> dict[str, str]:
    """The steps with their states; the exit code is the one expected."""
    done = cli.run(settings or {}, "migrate", "status", "--json")
    assert (done.code, done.json["exit"]) == (code, code)
    for step in done.json["steps"]:
        assert (step["applied_at"] is None) is (step["state"] == "pending")
    return {step["name"]: step["state"] for step in done.json["steps"]}


def change(database: contract.Database, statement: str) -> None:
    """Change what the database says of its steps."""
    with database.get_db() as conn:
        contract.execute(conn, statement)


def test_each_state_of_a_step_is_told(cli: Cli, database: contract.Database) -> None:
    """Applied, pending, edited and unknown; the worst of them is the exit code."""
    known = [step.name for step in migrate.steps(database.BACKEND)]
    assert states(cli, 0) == dict.fromkeys(known, "applied")
    change(database, "DELETE FROM schema_migrations WHERE name = '0005_sessions_deleting'")
    expected = dict.fromkeys(known, "applied") | {"0005_sessions_deleting": "pending"}
    assert states(cli, 1) == expected
    text = cli.run({}, "migrate", "status").out
    assert "pending   0005_sessions_deleting\n" in text
    change(database, "UPDATE schema_migrations SET checksum = '' WHERE name = '0001_initial'")
    assert states(cli, 2) == expected | {"0001_initial": "edited"}
    change(database, "UPDATE schema_migrations SET name = '9999_next' WHERE name = '0001_initial'")
    expected |= {"0001_initial": "pending", "9999_next": "unknown"}
    assert states(cli, 2) == dict(sorted(expected.items()))


def test_a_look_makes_nothing(
    cli: Cli, backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Not the file, nor the table that records steps: all are pending."""
    settings = fresh_master(backend, request, tmp_path)
    for _ in range(2):
        assert set(states(cli, 1, settings).values()) == {"pending"}
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_away_is_said_to_be(cli: Cli) -> None:
    """Exit code 2, as for a schema that can't be used, and one line."""
    settings = {"USE_POSTGRES": "true", "DB_HOST": "127.0.0.1", "DB_PORT": "1"}
    done = cli.run(settings, "migrate", "status")
    assert (done.code, done.out, done.said.count("\n")) == (2, "", 1)


def test_who_looks_can_not_write(database: contract.Database) -> None:
    """Commands that only read do so on a connection that refuses all else."""
    with pytest.raises(contract.ReadOnly), database.peek_db() as conn:
        contract.execute(conn, "DELETE FROM schema_migrations")
    with database.peek_db() as conn:
        assert len(migrate.read_steps(conn)) == len(migrate.steps(database.BACKEND))
