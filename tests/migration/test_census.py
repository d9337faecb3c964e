"""What PostgreSQL could not hold: listed all at once, settled as asked for, or nothing happens."""

import hashlib
import json
from pathlib import Path

from server.migration.census import Options
from tests.migration.moving import Move, Outcome, places
from tests.migration.sources import TIME

QUARANTINE = "--misfits=quarantine"
ZONE = "--assume-timezone=ZONE"
NUL = "--nul=replace"
UTF8 = "--invalid-utf8=replace"
ORPHANS = "--orphans=quarantine"
EMAILS = "--duplicate-emails=quarantine"
UNKNOWN = "--unknown=keep"
# One statement for each odd value, and where it has to be found.
SPOILT = [
    ("UPDATE messages SET prompt_tokens = 'many' WHERE id = 10", "prompt_tokens", QUARANTINE),
    ("UPDATE messages SET completion_tokens = 3.7 WHERE id = 10", "completion_tokens", QUARANTINE),
    ("UPDATE messages SET stop_requested = 'maybe' WHERE id = 10", "stop_requested", QUARANTINE),
    ("UPDATE messages SET forked = 2 WHERE id = 10", "forked", QUARANTINE),
    ("UPDATE messages SET created_at = '2025-02-30' WHERE id = 10", "created_at", QUARANTINE),
    ("UPDATE messages SET created_at = '2025-02-28 10:00' WHERE id = 10", "created_at", ZONE),
    ("UPDATE messages SET created_at = 1750000000 WHERE id = 10", "created_at", QUARANTINE),
    ("UPDATE messages SET created_at = 'now' WHERE id = 10", "created_at", QUARANTINE),
    ("UPDATE messages SET content = 'a' || char(0) || 'b' WHERE id = 10", "content", NUL),
    ("UPDATE messages SET content = CAST(x'61ff62' AS TEXT) WHERE id = 10", "content", UTF8),
    ("UPDATE messages SET content = CAST(x'eda080' AS TEXT) WHERE id = 10", "content", UTF8),
    ("UPDATE messages SET content = x'00' WHERE id = 10", "content", QUARANTINE),
    ("UPDATE messages SET session_id = 77 WHERE id = 10", "session_id", ORPHANS),
    ("UPDATE messages SET role = 'robot' WHERE id = 10", "role", QUARANTINE),
]


def digests(folder: Path) -> dict[str, str]:
    """Each of the source's files; SQLite's own beside them aside."""
    files = [*folder.glob("*.db"), *folder.glob("project_databases/*.sqlite3")]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def refused(move: Move, *options: str) -> Outcome:
    """A run that must end with 3, the source as it was and nothing written."""
    before = digests(move.path.parent)
    outcome = move.run(*options)
    assert outcome.code == 3, outcome.report
    assert digests(move.path.parent) == before
    assert move.tables() == set(), "nothing may be written"
    return outcome


def test_each_odd_value_is_found(move: Move) -> None:
    """SQLite keeps any value in any column; one that has no counterpart is never bent."""
    whole, found = move.path.read_bytes(), {}
    for statement, _, _ in SPOILT:
        move.path.write_bytes(whole)
        with move.source() as conn:
            conn.execute(statement)
        found[statement] = move.call(dry_run=True).found()
    # What names the row that is odd isn't odd itself.
    wanted = {text: {("messages", "id 10", column, option)} for text, column, option in SPOILT}
    assert found == wanted
    assert move.tables() == set()


def spoil(move: Move) -> str:
    """A source with something of everything; the name of its project's database."""
    with move.source() as conn:
        conn.execute("PRAGMA foreign_keys = OFF")
        conn.execute("DROP INDEX users_email")
        conn.executescript(
            f"""
            UPDATE messages SET stop_requested = 'maybe' WHERE id = 10;
            UPDATE messages SET content = 'a' || char(0) || 'b' WHERE id = 11;
            UPDATE messages SET error = CAST(x'61ff62' AS TEXT) WHERE id = 11;
            UPDATE messages SET created_at = '2025-06-01 12:00' WHERE id = 15;
            UPDATE sessions SET updated_at = '2025-02-30' WHERE id = 6;
            INSERT INTO messages (id, user_id, session_id, role, created_at)
                VALUES (20, 3, 77, 'user', '{TIME}');
            INSERT INTO projects (id, user_id, name, project_type_id, db_name, created_at,
                updated_at) VALUES (5, 3, 'nofile', 66, 'nofile_db', '{TIME}', '{TIME}');
            INSERT INTO users (id, email, password_hash, created_at, updated_at)
                VALUES (30, 'ADA@EXAMPLE.COM', 'h', '{TIME}', '{TIME}'),
                (31, 'ÄÖ@x', 'h', '{TIME}', '{TIME}'), (32, 'äÖ@x', 'h', '{TIME}', '{TIME}');
            CREATE TABLE notes (id INTEGER);
            ALTER TABLE users ADD COLUMN nick TEXT;
            """
        )
        name = conn.execute("SELECT db_name FROM projects WHERE id = 4").fetchone()[0]
    with move.source(name) as conn:
        conn.execute("UPDATE goods SET sold = 'perhaps' WHERE id = 2")
        conn.execute("UPDATE goods SET parent = 99 WHERE id = 1")
        conn.execute("UPDATE goods SET more = '{' WHERE id = 1")
    return str(name)


ALL = {
    ("messages", "id 10", "stop_requested", QUARANTINE),
    ("messages", "id 11", "content", NUL),
    ("messages", "id 11", "error", UTF8),
    ("messages", "id 15", "created_at", ZONE),
    ("sessions", "id 6", "updated_at", QUARANTINE),
    ("messages", "id 20", "session_id", ORPHANS),
    ("projects", "id 5", "project_type_id", ORPHANS),
    ("projects", "id 5", "db_name", "--missing-databases=skip"),
    ("users", "id 30", "email", EMAILS),
    ("users", "id 32", "email", EMAILS),
    ("notes", "", "", UNKNOWN),
    ("users", "", "nick", UNKNOWN),
    ("goods", "id 2", "sold", QUARANTINE),
    ("goods", "id 1", "parent", ORPHANS),
    ("goods", "id 1", "more", QUARANTINE),
}


def test_everything_is_listed_at_once(move: Move) -> None:
    """One run says all that has to be decided, with the option for each, and writes nothing."""
    spoil(move)
    outcome = refused(move)
    assert outcome.found() == ALL
    assert refused(move, "--dry-run").found() == ALL
    ours = ("--orphans=null", "--nul=replace", "--unknown=keep")
    left = {each for each in ALL if each[3] not in (ORPHANS, NUL, UNKNOWN)}
    assert refused(move, *ours).found() == left


def test_all_that_was_decided_is_done_and_said(move: Move) -> None:
    """Each option does what it says, each change is in the report, what goes out is kept."""
    name = spoil(move)
    before = digests(move.path.parent)
    outcome = move.run(
        "--assume-timezone=Europe/Berlin",
        "--nul=replace",
        "--invalid-utf8=replace",
        "--misfits=quarantine",
        "--orphans=null",
        "--duplicate-emails=quarantine",
        "--unknown=keep",
        "--missing-databases=skip",
    )
    assert outcome.code == 0, outcome.report
    assert digests(move.path.parent) == before
    changes = places(outcome.report["changes"])
    listed = {each for each in ALL if each[3] not in (UNKNOWN, "--missing-databases=skip")}
    # Only the first reason to take a row out is told.
    assert listed - changes == {("goods", "id 1", "parent", ORPHANS)}
    # The row of a session that went out leaves its messages without one, and so on.
    assert {each[0] for each in changes - listed} == {"messages", "images", "idempotency_keys"}
    assert any("notes stays in the backup" in note for note in outcome.report["notes"])
    assert any("users.nick stays in the backup" in note for note in outcome.report["notes"])
    assert move.ask("SELECT id FROM users ORDER BY id") == [(3,), (7,), (31,)]
    assert move.ask("SELECT id, project_type_id FROM projects ORDER BY id") == [(4, 2), (5, None)]
    assert move.ask("SELECT id FROM sessions") == [(9,)]
    assert move.ask(
        "SELECT id, to_char(created_at AT TIME ZONE 'UTC', 'HH24:MI') FROM messages"
    ) == [(15, "10:00")]
    assert move.ask("SELECT id FROM goods", name=name) == []
    kept = Path(outcome.report["folder"], "quarantine.jsonl").read_text("utf-8").splitlines()
    rows = {(line["table"], line["row"].get("id")) for line in map(json.loads, kept)}
    assert {("messages", 10), ("messages", 20), ("sessions", 6), ("users", 30)} <= rows
    assert {("users", 32), ("goods", 1), ("goods", 2)} <= rows
    session = next(line for line in map(json.loads, kept) if line["table"] == "sessions")
    assert session["row"]["session_key"] == "s-6"
    assert session["row"]["updated_at"] == "2025-02-30"


def test_texts_are_replaced_where_they_must_be(move: Move) -> None:
    """A NUL and what is not UTF-8 become U+FFFD, and the rest of the text stays."""
    with move.source() as conn:
        conn.execute("UPDATE messages SET content = CAST(x'61ff0062' AS TEXT) WHERE id = 10")
        conn.execute("UPDATE messages SET content = CAST(x'61ff62' AS TEXT) WHERE id = 11")
    assert {place[3] for place in move.call(dry_run=True).found()} == {NUL, UTF8}
    assert move.call(Options(nul="replace", invalid_utf8="replace")).code == 0
    found = move.ask("SELECT content FROM messages WHERE id IN (10, 11) ORDER BY id")
    assert found == [("a\ufffd\ufffdb",), ("a\ufffdb",)]


# As SQLite's own functions read them.
SPELT = {
    "2025-06-01T12:00:00Z": "2025-06-01 12:00:00.000000",
    "2025-06-01 12:00:00.5+02:00": "2025-06-01 10:00:00.500000",
    "2025-06-01T12:00:00.123456-0330": "2025-06-01 15:30:00.123456",
    "2025-06-01 12:00z": "2025-06-01 12:00:00.000000",
    "2025-06-01 12:00:00.1234560000+00:00": "2025-06-01 12:00:00.123456",
    "0001-01-01 00:00:00+00:00": "0001-01-01 00:00:00.000000",
    "9999-12-31T23:59:59.999999+00:00": "9999-12-31 23:59:59.999999",
}


def test_times_arrive_as_the_same_instant(move: Move) -> None:
    """Every spelling with a zone moves; another spelling of the same is counted, no finding."""
    with move.source() as conn:
        for number, spelt in enumerate(SPELT, 100):
            conn.execute(
                "INSERT INTO messages (id, user_id, session_id, role, created_at) "
                "VALUES (?, 3, 6, 'user', ?)",
                (number, spelt),
            )
    outcome = move.call()
    assert outcome.code == 0, outcome.report
    found = move.ask(
        "SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') "
        "FROM messages WHERE id >= 100 ORDER BY id"
    )
    assert [row[0] for row in found] == list(SPELT.values())
    assert outcome.report["respelt"] == {"master.messages.created_at": len(SPELT)}


PROMISES = """
DROP INDEX messages_streaming;
UPDATE messages SET status = 'streaming' WHERE session_id = 6;
UPDATE projects SET status = 'lost' WHERE id = 4;
UPDATE users SET email = hex(zeroblob(2000)) WHERE id = 7;
INSERT INTO idempotency_keys VALUES (3, CAST(x'ff' AS TEXT), 'f', NULL, NULL, '{0}'),
    (3, CAST(x'fe' AS TEXT), 'f', NULL, NULL, '{0}');
"""


def test_what_postgresql_would_refuse_in_the_middle(move: Move) -> None:
    """Constraints that were passed by, and keys that are too long, are found before the copy."""
    with move.source() as conn:
        conn.executescript(PROMISES.format(TIME))
    first = move.call(Options(invalid_utf8="replace"))
    assert first.code == 3
    broken = {
        ("messages", "id 11", "session_id", QUARANTINE),
        ("projects", "id 4", "status", QUARANTINE),
        ("users", "id 7", "email", QUARANTINE),
    }
    assert first.found() == broken
    with move.source() as conn:
        conn.executescript(
            "UPDATE messages SET status = 'complete'; UPDATE projects SET status = 'active';"
            "UPDATE users SET email = 'short' WHERE id = 7"
        )
    same = move.call(Options(invalid_utf8="replace"))
    assert same.code == 3
    assert {place[::2] for place in same.found()} == {("idempotency_keys", "key")}
    assert move.tables() == set()
    settled = move.call(Options(invalid_utf8="replace", misfits="quarantine"))
    assert settled.code == 0, settled.report
    assert move.ask("SELECT key FROM idempotency_keys ORDER BY 1") == [("k",), ("\ufffd",)]


def test_what_goes_out_takes_nothing_with_it_unasked(move: Move) -> None:
    """A user who is kept out has projects; that they go too is a decision of its own."""
    with move.source() as conn:
        conn.execute("UPDATE users SET created_at = 'never' WHERE id = 3")
    outcome = move.call(Options(misfits="quarantine"))
    assert outcome.code == 3
    assert ("projects", "id 4", "user_id", ORPHANS) in outcome.found()
    assert move.tables() == set()
    outcome = move.call(Options(misfits="quarantine", orphans="quarantine"))
    assert outcome.code == 0, outcome.report
    assert move.ask("SELECT id FROM users") == [(7,)]


def test_an_older_schema_is_brought_up_to_date_on_a_copy(move: Move) -> None:
    """The source stays as old as it is; a newer one, or one that was edited, is refused."""
    with move.source() as conn:
        conn.executescript(
            "DROP TABLE imported_records; DROP TABLE imported_messages;"
            "DROP TABLE imported_sessions;"
            "DELETE FROM schema_migrations WHERE name = '0007_imports'"
        )
    before = digests(move.path.parent)
    outcome = move.call()
    assert outcome.code == 0, outcome.report
    assert "brought up to date on a copy: 0007_imports" in outcome.report["notes"]
    assert digests(move.path.parent) == before
    with move.source() as conn:
        conn.execute("INSERT INTO schema_migrations VALUES ('0099_future', '', '')")
    newer = move.call()
    assert newer.code == 3
    assert "0099_future" in newer.report["result"]
