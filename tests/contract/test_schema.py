"""The master's schema comes about once, whole, and never out of step with the code."""

from pathlib import Path

import pytest

import database_adapter
from server.projects import deleted_queries
from server.storage import contract
from server.storage.contract import execute, fetch_all
from tests import checkout
from tests.conftest import with_settings, without_settings

INIT = """
import logging
logging.disable(logging.WARNING)  # of the role, which owns the master here
from server.storage.contract import DatabaseError
try:
    database_adapter.init_schema()
except DatabaseError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def applied(database: contract.Database) -> list[dict[str, str]]:
    with database.read_db() as conn:
        return fetch_all(conn, "SELECT name, checksum, applied_at FROM schema_migrations")


def test_doing_it_twice_changes_nothing(database: contract.Database) -> None:
    """Every start calls it: the second one applies no step again and loses no row."""
    before = applied(database)
    assert [row["name"] for row in before][:1] == ["0001_initial"]
    with database.get_db() as conn:
        execute(conn, "INSERT INTO users (email, password_hash) VALUES ('ada@example.com', 'x')")
    database.init_schema()
    assert applied(database) == before
    with database.read_db() as conn:
        assert len(fetch_all(conn, "SELECT id FROM users")) == 1


def test_eight_processes_at_once_on_a_fresh_master(master: dict[str, str]) -> None:
    """All succeed and each step is applied once.

    Without a lock `CREATE TABLE IF NOT EXISTS` failed on PostgreSQL in 70 of 80 attempts; on
    SQLite, switching to WAL at the same moment says `database is locked` without waiting.
    """
    results = checkout.run_together([INIT] * 8, master)
    assert results == [(0, "")] * 8
    try:
        with_settings(master)
        names = [row["name"] for row in applied(database_adapter.current())]
        assert len(names) == len(set(names)) >= 2
    finally:
        without_settings()


def test_a_newer_database_is_refused(database: contract.Database) -> None:
    """Old code on a new schema would write rows that the new code can't read."""
    with database.get_db() as conn:
        execute(conn, "INSERT INTO schema_migrations VALUES ('9999_future', 'x', 'x')")
    with pytest.raises(contract.Misconfigured, match=r"9999_future.*newest known here is 00"):
        database.init_schema()


def test_an_edited_step_is_refused(database: contract.Database) -> None:
    """A step edited after it had been applied is named: no two databases may differ unseen."""
    with database.get_db() as conn:
        execute(conn, "UPDATE schema_migrations SET checksum = 'x' WHERE name = '0001_initial'")
    with pytest.raises(contract.Misconfigured, match=r"schema/0001_initial\.sql was edited"):
        database.init_schema()


def test_a_failing_step_leaves_nothing(
    database: contract.Database, master: dict[str, str], tmp_path: Path
) -> None:
    """Neither its own first half nor the new steps before it stay; the mended step then works.

    `executescript` commits the open transaction: a step that failed half-way could neither be
    repeated nor undone.
    """
    tree = checkout.copy(tmp_path)
    good = "CREATE TABLE extra (id BIGINT PRIMARY KEY, note TEXT DEFAULT ';''%%');\n"
    (tree / "schema" / "9000_before.sql").write_text(good.replace("extra", "earlier"))
    step = tree / "schema" / "9001_extra.sql"
    step.write_text(good + "INSERT INTO extra (id) VALUES (1);\nINSERT INTO extra (id) VALUES (1);")
    status, said = checkout.run(INIT, master, tree)
    assert (status, said.partition(":")[0]) == (1, "Conflict")
    names = {row["name"] for row in applied(database)}
    assert names.isdisjoint({"9000_before", "9001_extra"})
    assert "0001_initial" in names
    step.write_text(good + "INSERT INTO extra (id) VALUES (1);")
    assert checkout.run(INIT, master, tree) == (0, "")
    assert {row["name"] for row in applied(database)} == names | {"9000_before", "9001_extra"}
    with database.read_db() as conn:
        assert fetch_all(conn, "SELECT id, note FROM extra") == [{"id": 1, "note": ";'%%"}]
    with pytest.raises(contract.Misconfigured, match="newer"):
        database.init_schema()


def test_a_step_for_one_database_alone(
    database: contract.Database, master: dict[str, str], tmp_path: Path
) -> None:
    """`NAME.postgresql.sql` and `NAME.sqlite.sql` are one step, each read by its own database."""
    tree = checkout.copy(tmp_path)
    for backend in ("sqlite", "postgresql"):
        text = f"CREATE TABLE only_{backend} (id BIGINT);"
        (tree / "schema" / f"9000_own.{backend}.sql").write_text(text)
    assert checkout.run(INIT, master, tree) == (0, "")
    with database.read_db() as conn:
        assert fetch_all(conn, f"SELECT id FROM only_{database.BACKEND}") == []
    assert "9000_own" in {row["name"] for row in applied(database)}


def test_the_fresh_database_has_project_types(database: contract.Database) -> None:
    """`blank`, the default of a new project, is there from the first start."""
    with database.read_db() as conn:
        types = {
            row["name"]: row["template_sql"]
            for row in fetch_all(conn, "SELECT name, template_sql FROM project_types")
        }
    assert types.pop("blank") == ""
    assert types
    for number, (name, template) in enumerate(sorted(types.items())):
        db_name = database.create_project_database(f"of-type-{number}", template, 1)
        described = database.describe_project_database(db_name)
        assert described is not None, name
        assert described["tables"], name
        assert database.drop_project_database(db_name, 1, force=False), name


def test_what_runs_every_minute_has_an_index(database: contract.Database) -> None:
    """Mending and tidying up read what they are after, not whole tables."""
    source = "sqlite_master WHERE type = 'index'" if database.BACKEND == "sqlite" else "pg_indexes"
    name = "name" if database.BACKEND == "sqlite" else "indexname AS name"
    with database.read_db() as conn:
        found = {row["name"] for row in contract.fetch_all(conn, f"SELECT {name} FROM {source}")}
    assert found >= {
        "projects_unfinished",
        "projects_name",
        "auth_attempts_at",
        "auth_tokens_expires",
        "deleted_projects_due",
    }


SHADOWS = ("sessions", "messages", "images", "imported_sessions", "imported_messages")


@pytest.mark.parametrize("table", ["projects", *SHADOWS])
def test_what_is_deleted_has_a_place_for_every_column(
    database: contract.Database, table: str
) -> None:
    """Whole rows are moved there and back: the same columns, of the same types, in one order.

    A step that adds a column to one table alone makes each deletion fail, or lose what is in it.
    """
    ours, theirs = list_columns(database, table), list_columns(database, f"deleted_{table}")
    if table == "projects":
        own = ["deleted_at", "due_at", "kept_name"]
        assert [name for name, _ in theirs] == [name for name, _ in ours] + own
        moved = {*deleted_queries.PROJECT.split(", "), "status"}
        assert moved == {name for name, _ in ours}
    else:
        assert ours == theirs


def list_columns(database: contract.Database, table: str) -> list[tuple[str, str]]:
    """A table's columns with their types, as the database says them; numbered ids are numbers."""
    with database.read_db() as conn:
        if database.BACKEND == "sqlite":
            rows = fetch_all(conn, f"PRAGMA table_info({table})")
            return [(row["name"], row["type"].replace("BIGINT", "INTEGER")) for row in rows]
        rows = fetch_all(
            conn,
            "SELECT attname, atttypid::regtype::text AS type FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            (table,),
        )
        return [(row["attname"], row["type"]) for row in rows]
