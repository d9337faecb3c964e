"""Which steps of schema/ there are, and which of them a database still needs."""

from pathlib import Path

import pytest

from server.storage import contract, migrate
from server.storage.migrate import Step

ONE, TWO, THREE = (Step(f"000{n}_x", f"SELECT {n}") for n in (1, 2, 3))


def done(*steps: Step) -> list[tuple[str, str]]:
    """What a database says that has these steps."""
    return [(step.name, step.checksum) for step in steps]


def test_the_steps_of_a_folder_in_order(tmp_path: Path) -> None:
    """By number; a step of one database alone goes by the same name as that of the other."""
    files = {
        "0002_b.sql": "b",
        "0001_a.sql": "a",
        "0003_c.sqlite.sql": "lite",
        "0003_c.postgres.sql": "grown",
        "0010_d.sql": "d",
        "notes.txt": "not a step",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for backend, own in (("sqlite", "lite"), ("postgresql", "grown")):
        assert migrate.steps(backend, tmp_path) == [
            Step("0001_a", "a"),
            Step("0002_b", "b"),
            Step("0003_c", own),
            Step("0010_d", "d"),
        ]


def test_the_schema_of_the_service_has_both_databases_in_mind() -> None:
    """The same steps for both, so that a master can be moved; the guard is PostgreSQL's alone."""
    sqlite, postgres = migrate.steps("sqlite"), migrate.steps("postgresql")
    names = [step.name for step in postgres]
    assert [step.name for step in sqlite] == [name for name in names if name != "0006_guard"]
    numbers = [name[:4] for name in names]
    assert numbers == [f"{n:04}" for n in range(1, len(numbers) + 1)]
    known = {path.name for path in migrate.FOLDER.iterdir()}
    assert known == {
        name
        for step in postgres
        for name in (f"{step.name}.sql", f"{step.name}.sqlite.sql", f"{step.name}.postgres.sql")
        if (migrate.FOLDER / name).exists()
    }


def test_a_step_is_known_by_its_text() -> None:
    """One letter more is another step; the name doesn't count."""
    assert Step("a", "SELECT 1").checksum == Step("b", "SELECT 1").checksum
    assert Step("a", "SELECT 1").checksum != Step("a", "SELECT 1 ").checksum


def test_what_is_pending() -> None:
    """All of a fresh database, none of a finished one, and a late step between two others."""
    known = [ONE, TWO, THREE]
    assert migrate.pending([], known) == known
    assert migrate.pending(done(ONE), known) == [TWO, THREE]
    assert migrate.pending(done(ONE, THREE), known) == [TWO]
    assert migrate.pending(done(*known), known) == []


def test_a_newer_database_is_named() -> None:
    """Both names are said: which step the database has, and the newest known here."""
    with pytest.raises(
        contract.Misconfigured, match=r"has 0003_x, the newest known here is 0002_x"
    ):
        migrate.pending(done(ONE, TWO, THREE), [ONE, TWO])


def test_an_edited_step_is_named() -> None:
    """The file is named, and what to do."""
    edited = Step(ONE.name, "SELECT 'something else'")
    with pytest.raises(contract.Misconfigured, match=r"schema/0001_x\.sql was edited.*restore"):
        migrate.pending(done(edited, TWO), [ONE, TWO, THREE])


def test_one_transaction_for_all_and_the_lock_before_the_look(
    database: contract.Database,
) -> None:
    """The lock comes first, and a failure leaves nothing of any step.

    Whoever looks before the lock applies a step that another process is just applying. A new
    master of which some steps were committed would give its first rows other ids next time:
    PostgreSQL takes back the rows, not the numbers.
    """
    log: list[str] = []
    applied = migrate.steps(database.BACKEND)
    good = Step("9001_good", "CREATE TABLE good (id BIGINT)")
    bad = Step("9002_bad", "CREATE TABLE good (id BIGINT)")

    def lock(conn: contract.Connection) -> None:
        log.append("lock")
        database.transaction_lock(conn, "schema")

    def run(conn: contract.Connection, script: str) -> None:
        log.append(script)
        contract.execute(conn, script)

    def migrated(*more: Step) -> list[str]:
        return migrate.migrate(database.get_db, lock, run, [*applied, *more])

    def names() -> list[str]:
        query = "SELECT name FROM schema_migrations WHERE name > '9' ORDER BY name"
        with database.read_db() as conn:
            return [row["name"] for row in contract.fetch_all(conn, query)]

    assert migrated() == []
    assert log == ["lock"]
    with pytest.raises(Exception, match="already exists"):
        migrated(good, bad)
    assert log == ["lock", "lock", good.sql, bad.sql]
    assert names() == []
    mended = Step(bad.name, "CREATE TABLE better (id BIGINT)")
    assert migrated(good, mended) == names() == ["9001_good", "9002_bad"]
