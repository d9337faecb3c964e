"""Running it again is a verification; what somebody else has put there is never touched."""

import threading
import time
from collections.abc import Callable

from server.migration.report import Screen
from tests.migration.moving import Move, Outcome
from tests.migration.sources import TIME


def project_of(move: Move) -> str:
    """The name of the project's database."""
    with move.source() as conn:
        return str(conn.execute("SELECT db_name FROM projects").fetchone()[0])


def test_the_second_run_changes_nothing(move: Move) -> None:
    """Rows that are there already are skipped, and both runs say the same."""
    assert move.call().code == 0
    before = move.dump(), move.dump(project_of(move))
    again = move.call()
    assert again.code == 0
    assert (move.dump(), move.dump(project_of(move))) == before
    assert {each["state"] for each in again.report["projects"]} == {"equal already"}
    assert {each["state"] for each in again.report["tables"]} == {"equal"}


def test_a_part_is_there_already(move: Move) -> None:
    """Rows with equal content are taken for what they are, whoever has put them there."""
    assert move.call().code == 0
    move.ask("DELETE FROM messages WHERE id = 15")
    move.ask("DELETE FROM audit_log WHERE id = 8")
    for run in move.backups.iterdir():  # nobody remembers a run
        run.rename(move.path.parent / run.name)
    outcome = move.call()
    assert outcome.code == 0, outcome.report
    assert move.ask("SELECT count(*) FROM messages") == [(3,)]


STRANGERS = {
    "a changed row": (
        "UPDATE messages SET content = 'one!' WHERE id = 10",
        ("master", "messages", "id 10", "content"),
    ),
    "a row of its own": (
        "INSERT INTO users (id, email, password_hash) VALUES (12, 'eve@example.com', 'h')",
        ("master", "users", "id 12", ""),
    ),
    "a changed type of project": (
        "UPDATE project_types SET description = 'mine' WHERE id = 2",
        ("master", "project_types", "id 2", "description"),
    ),
    "a row that was deleted": (
        "DELETE FROM imported_messages WHERE source_id = 'm-2'",
        ("master", "imported_messages", "session_id 9, source_id m-2", ""),
    ),
    "the only row of its table": (
        "DELETE FROM imported_records",
        ("master", "imported_records", "user_id 3, source chatgpt, kind profile, source_id p", ""),
    ),
    "a table of its own": (
        "CREATE TABLE ledger (id int)",
        ("master", "public.ledger", "the whole table", ""),
    ),
}
IN_PROJECTS = {
    "a row": ("UPDATE goods SET price = 0.2 WHERE id = 1", "goods", "id 1", "price"),
    "a table": ("CREATE TABLE more (id int)", "", "the database has a table more of its own", ""),
}


def stopped(move: Move, run: Callable[[], Outcome], *names: str) -> Outcome:
    """A run that must end with 4 and leave the target as it was."""
    before = [move.dump(name) for name in ("", *names)]
    outcome = run()
    assert outcome.code == 4, outcome.report
    assert [move.dump(name) for name in ("", *names)] == before
    return outcome


def test_what_somebody_else_has_changed_stops_it(move: Move) -> None:
    """Exit 4 with the place and both values; neither is overwritten, nor passed by in silence."""
    assert move.call().code == 0
    name = project_of(move)
    whole = f"whole_{name}"
    with move.target("postgres") as conn, conn.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {whole} TEMPLATE {move.settings['DB_NAME']}")
    try:
        for what, (statement, place) in STRANGERS.items():
            move.ask(statement)
            outcome = stopped(move, move.call)
            assert outcome.differences() == {place}, what
            assert move.call(dry_run=True).code == 4
            restore(move, whole)
    finally:
        move.ask(f"DROP DATABASE {whole}", name="postgres")


def restore(move: Move, whole: str) -> None:
    """Put the target's master back from a copy."""
    master, role = move.settings["DB_NAME"], move.settings["DB_USER"]
    with move.target("postgres") as conn, conn.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {master} IS_TEMPLATE false")
        cursor.execute(f"DROP DATABASE {master} WITH (FORCE)")
        cursor.execute(f"CREATE DATABASE {master} TEMPLATE {whole} OWNER {role}")


def test_the_diff_shows_both_values(move: Move) -> None:
    """As much of them as shows where they differ."""
    assert move.call().code == 0
    move.ask("UPDATE messages SET content = repeat('x', 90) || 'theirs' WHERE id = 10")
    with move.source() as conn:
        conn.execute("UPDATE messages SET content = ? WHERE id = 10", ("x" * 90 + "ours",))
    (found,) = stopped(move, move.call).report["differences"]
    assert found["source"].endswith("xours")
    assert found["target"].endswith("xtheirs")


def test_what_somebody_else_has_changed_in_a_project(move: Move) -> None:
    """A project's database is held to the same rule, its tables too."""
    name = project_of(move)
    assert move.call().code == 0
    statement, *place = IN_PROJECTS["a row"]
    move.ask(statement, name=name)
    assert stopped(move, move.call, name).differences() == {(name, *place)}
    move.ask("UPDATE goods SET price = 0.1 WHERE id = 1", name=name)
    statement, *place = IN_PROJECTS["a table"]
    move.ask(statement, name=name)
    assert stopped(move, move.call, name).differences() == {(name, *place)}


def test_a_strangers_database_with_the_projects_name(move: Move) -> None:
    """It stays as it is, and so does everything else: not even tables are made."""
    name = project_of(move)
    move.ask(f"CREATE DATABASE {name}", name="postgres")
    try:
        outcome = stopped(move, move.call, name)
        assert outcome.report["differences"][0]["row"].endswith("not made for this project")
        assert move.tables() == set()
    finally:
        move.ask(f"DROP DATABASE {name}", name="postgres")


def test_a_database_of_somebody_elses(move: Move) -> None:
    """DB_NAME names another program's database, which has users, too."""
    move.ask("CREATE TABLE users (login text)")
    move.ask("INSERT INTO users VALUES ('root')")
    assert stopped(move, move.call).differences() == {
        ("master", "public.users", "the whole table", "")
    }


def test_what_was_written_between_two_runs(move: Move) -> None:
    """The second run brings the difference: new, changed and deleted rows, and the projects'."""
    assert move.call().code == 0
    name = project_of(move)
    with move.source() as conn:
        conn.executescript(
            f"""
            UPDATE users SET name = 'Ada L.' WHERE id = 3;
            DELETE FROM audit_log;
            DELETE FROM idempotency_keys;
            INSERT INTO users (id, email, password_hash, created_at, updated_at)
                VALUES (60, 'eve@example.com', 'h', '{TIME}', '{TIME}');
            INSERT INTO messages (id, user_id, session_id, role, created_at)
                VALUES (61, 60, 6, 'user', '{TIME}');
            """
        )
    with move.source(name) as conn:
        conn.execute("UPDATE goods SET name = 'coffee' WHERE id = 1")
    dry = move.call(dry_run=True)
    assert dry.code == 0
    states = {each["name"]: each["state"] for each in dry.report["tables"]}
    assert states["users"] == "would be copied"
    assert states["sessions"] == "equal already"
    assert dry.report["projects"][0]["state"] == "would be made anew"
    outcome = move.call()
    assert outcome.code == 0, outcome.report
    assert move.ask("SELECT id, name FROM users ORDER BY id") == [
        (3, "Ada L."),
        (7, None),
        (60, None),
    ]
    assert move.ask("SELECT count(*) FROM audit_log") == [(0,)]
    assert move.ask("SELECT user_id FROM messages WHERE id = 61") == [(60,)]
    assert move.ask("SELECT name FROM goods WHERE id = 1", name=name) == [("coffee",)]


def test_a_rehearsal_does_not_stand_in_the_way(move: Move) -> None:
    """The target of a rehearsal is dropped and made again: that is no deletion of rows."""
    assert move.call().code == 0
    name = project_of(move)
    master, role = move.settings["DB_NAME"], move.settings["DB_USER"]
    with move.target("postgres") as conn, conn.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name}")
        cursor.execute(f"ALTER DATABASE {master} IS_TEMPLATE false")
        cursor.execute(f"DROP DATABASE {master}")
        cursor.execute(f"CREATE DATABASE {master} OWNER {role}")
    outcome = move.call()
    assert outcome.code == 0, outcome.report


class Writing(Screen):
    """A screen that does something when a line is said: at one moment of the run."""

    def __init__(self, line: str, act: Callable[[], object]) -> None:
        super().__init__(quiet=True)
        self._line = line
        self._act = act

    def say(self, text: str) -> None:
        """Act instead of showing it."""
        if text == self._line:
            self._act()


def test_a_write_during_the_run_is_named(move: Move) -> None:
    """Somebody still uses the source: exit 5 with table and row; the next run brings it."""
    name = project_of(move)

    def write() -> None:
        for database, sql in (
            ("", "UPDATE messages SET content = 'late' WHERE id = 11"),
            ("", "INSERT INTO audit_log VALUES (50, '" + TIME + "', 3, 'a', 'b', 'c', NULL)"),
            (name, "DELETE FROM goods WHERE id = 2"),
        ):
            with move.source(database) as conn:
                conn.execute(sql)

    outcome = move.call(screen=Writing("Comparing both sides", write))
    assert outcome.code == 5, outcome.report
    late = {"messages": "id 11", "audit_log": "id 50", f"{name}.goods": "id 2"}
    assert outcome.report["changed"] == late
    assert move.ask("SELECT content FROM messages WHERE id = 11") == [("",)]
    assert move.call().code == 0
    assert move.ask("SELECT content FROM messages WHERE id = 11") == [("late",)]
    assert move.ask("SELECT count(*) FROM goods", name=name) == [(1,)]


def test_a_write_that_changes_no_row(move: Move) -> None:
    """What is written to the file isn't what counts: its rows are."""

    def write() -> None:
        with move.source() as conn:
            conn.execute("INSERT INTO workers (id, beat) VALUES ('w', 1)")
            conn.execute("VACUUM")

    outcome = move.call(screen=Writing("Comparing both sides", write))
    assert outcome.code == 0, outcome.report


def test_the_service_goes_on_writing_meanwhile(move: Move) -> None:
    """The copy is of one moment, however often others write; the source waits for nobody."""
    with move.source() as conn:
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("CREATE TABLE grown AS SELECT randomblob(30000000)")
        conn.execute("DROP TABLE grown")
    ended, waits = threading.Event(), []

    def write() -> None:
        with move.source() as conn:
            while not ended.is_set():
                begun = time.monotonic()
                for number in (10, 15):
                    sql = "UPDATE messages SET model = hex(randomblob(4)) WHERE id = ?"
                    conn.execute(sql, (number,))
                waits.append(time.monotonic() - begun)
                time.sleep(0.005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        outcome = move.call()
    finally:
        ended.set()
        writer.join()
    assert outcome.code == 5, outcome.report
    assert outcome.report["changed"] == {"messages": "id 10"}
    assert len(waits) > 20
    assert move.call().code == 0
