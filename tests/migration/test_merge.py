"""`--merge`: a file that was used while PostgreSQL was away comes home into a target in use."""

from pathlib import Path

from tests.gateway import GatewayStub
from tests.migration.moving import Move
from tests.migration.sources import TIME
from tests.migration.test_again import project_of
from tests.service import Api, Json, Service, sign_up

# What happened on both sides after the copy; ids collide, and mean different things.
ON_POSTGRES = f"""
INSERT INTO users (id, email, password_hash) VALUES (8, 'carl@example.com', 'h'),
    (9, 'EVE@example.com', 'on postgres');
INSERT INTO projects (id, user_id, name, db_name) VALUES (5, 8, 'taken', 'taken_db');
INSERT INTO sessions (id, user_id, project_id, session_key) VALUES (10, 8, 5, 's-carl');
INSERT INTO messages (id, user_id, session_id, role, content)
    VALUES (41, 3, 6, 'user', 'on postgres'), (42, 8, 10, 'user', 'of carl');
INSERT INTO images VALUES (3, 8, 42, 'image/png', 1, '\\xff');
INSERT INTO audit_log VALUES (9, '{TIME}', 8, 'carl', 'x', 'allowed', NULL);
"""
ON_SQLITE = f"""
INSERT INTO users (id, email, password_hash, created_at, updated_at) VALUES
    (8, 'dora@example.com', 'h', '{TIME}', '{TIME}'),
    (10, 'eve@example.com', 'on sqlite', '{TIME}', '{TIME}');
INSERT INTO projects (id, user_id, name, db_name, created_at, updated_at)
    VALUES (5, 8, 'taken', 'taken_db', '{TIME}', '{TIME}');
INSERT INTO sessions (id, user_id, project_id, session_key, created_at, updated_at, forked)
    VALUES (10, 8, 5, 's-dora', '{TIME}', '{TIME}', 1);
INSERT INTO messages (id, user_id, session_id, role, content, created_at, forked, parent_id) VALUES
    (41, 3, 6, 'user', 'on sqlite', '{TIME}', 0, 11),
    (42, 8, 10, 'user', 'dora 1', '{TIME}', 0, NULL),
    (43, 8, 10, 'assistant', 'dora 2', '{TIME}', 0, NULL),
    (44, 8, 10, 'user', 'dora 3', '{TIME}', 1, 42),
    (45, 10, 6, 'user', 'of eve', '{TIME}', 0, NULL);
INSERT INTO images VALUES (3, 8, 42, 'image/gif', 2, x'0001');
INSERT INTO audit_log VALUES (9, '{TIME}', 8, 'dora', 'x', 'allowed', NULL);
INSERT INTO auth_tokens VALUES ('t-dora', 8, '{TIME}', '{TIME}');
INSERT INTO idempotency_keys VALUES (8, 'k', 'f', 42, 43, '{TIME}');
INSERT INTO imported_sessions VALUES (10, 8, 'chatgpt', 'c-9', 'T', 0, '{{}}', '{TIME}');
INSERT INTO imported_messages VALUES (10, 'm-9', 8, 44, 'd', NULL);
UPDATE users SET password_hash = 'changed on sqlite' WHERE id = 3;
"""


def part(move: Move) -> None:
    """A copy that both sides go on with."""
    assert move.call().code == 0
    move.ask(ON_POSTGRES)
    for table in ("users", "projects", "sessions", "messages", "images", "audit_log"):
        sql = "SELECT setval(pg_get_serial_sequence(%s, 'id'), (SELECT max(id) FROM "
        move.ask(f"{sql}{table}))", table)
    with move.source() as conn:
        conn.executescript(ON_SQLITE)
    with move.source("taken_db") as conn:
        conn.execute("CREATE TABLE dora (id INTEGER PRIMARY KEY)")
        conn.execute("INSERT INTO dora VALUES (1)")


def test_both_sides_were_used(move: Move) -> None:
    """What the target has stays as it is, the rest comes with new ids, and relations follow."""
    part(move)
    # Its users went on with a project's database on the server only.
    name = project_of(move)
    move.ask("INSERT INTO goods (name) VALUES ('on postgres')", name=name)
    before = move.ask("SELECT * FROM messages ORDER BY id")
    assert move.call().code == 4, "without --merge it is refused"
    dry = move.call(dry_run=True, merge=True)
    assert dry.code == 0, dry.report
    assert move.ask("SELECT * FROM messages ORDER BY id") == before
    outcome = move.call(merge=True)
    assert outcome.code == 0, outcome.report
    assert outcome.report["ids"] == dry.report["ids"]
    ids: Json = outcome.report["ids"]
    assert [
        row for row in move.ask("SELECT * FROM messages ORDER BY id") if row in before
    ] == before
    dora = ids["users"]["8"]
    assert move.ask("SELECT email FROM users WHERE id = %s", dora) == [("dora@example.com",)]
    assert move.ask("SELECT password_hash FROM users ORDER BY 1") == [
        (text,) for text in ("h", "h", "hash", "hash", "on postgres")
    ]
    told = " ".join(outcome.report["notes"])
    assert "users 3, which the target has as 3: the target's password_hash stays" in told
    assert "users 10, which the target has as 9: the target's email, password_hash" in told
    assert "project 5, taken, is now taken-2" in told
    ((project, session),) = move.ask(
        "SELECT projects.id, sessions.id FROM sessions JOIN projects ON projects.id = project_id "
        "WHERE session_key = 's-dora' AND db_name = 'taken_2_db' AND projects.user_id = %s",
        dora,
    )
    assert (project, session) == (ids["projects"]["5"], ids["sessions"]["10"])
    moved = [ids["messages"][str(number)] for number in range(41, 46)]
    assert moved == sorted(moved), "the order stays"
    found = move.ask(
        "SELECT id, user_id, session_id, content, parent_id FROM messages WHERE id >= %s "
        "ORDER BY id",
        moved[0],
    )
    assert found == [
        (moved[0], 3, 6, "on sqlite", 11),
        (moved[1], dora, session, "dora 1", None),
        (moved[2], dora, session, "dora 2", None),
        (moved[3], dora, session, "dora 3", moved[1]),
        (moved[4], 9, 6, "of eve", None),
    ]
    image = move.ask("SELECT id, user_id, data FROM images WHERE message_id = %s", moved[1])
    assert [(row[0], row[1], bytes(row[2])) for row in image] == [
        (ids["images"]["3"], dora, b"\0\1")
    ]
    assert move.ask("SELECT user_id FROM audit_log WHERE action = 'dora'") == [(dora,)]
    assert move.ask("SELECT user_id FROM auth_tokens WHERE token_hash = 't-dora'") == [(dora,)]
    assert move.ask(
        "SELECT user_message_id, message_id FROM idempotency_keys WHERE user_id = %s", dora
    ) == [(moved[1], moved[2])]
    assert move.ask("SELECT message_id FROM imported_messages WHERE source_id = 'm-9'") == [
        (moved[3],)
    ]
    assert move.ask("SELECT id FROM dora", name="taken_2_db") == [(1,)]
    assert move.ask("SELECT count(*) FROM goods", name=name) == [(3,)]
    for table in ("users", "projects", "sessions", "messages", "images", "audit_log"):
        highest = move.ask(f"SELECT max(id) FROM {table}")[0][0]
        assert move.ask(f"SELECT nextval(pg_get_serial_sequence('{table}', 'id'))")[0][0] > highest


def test_merging_twice_adds_nothing(move: Move) -> None:
    """What has come home once is known there."""
    part(move)
    outcome = move.call(merge=True)
    assert outcome.code == 0, (outcome.report["result"], outcome.report["differences"])
    before = move.dump()
    again = move.call(merge=True)
    assert again.code == 0, again.report
    assert move.dump() == before
    assert again.report["ids"] == {}


def test_a_project_that_both_sides_changed(move: Move) -> None:
    """Two contents of one database can't be made one: exit 4, and nothing is written."""
    part(move)
    name = project_of(move)
    move.ask("INSERT INTO goods (name) VALUES ('on postgres')", name=name)
    with move.source(name) as conn:
        conn.execute("INSERT INTO goods (name) VALUES ('on sqlite')")
    before = move.dump(), move.dump(name)
    outcome = move.call(merge=True)
    assert outcome.code == 4, outcome.report
    assert {each["database"] for each in outcome.report["differences"]} == {name}
    assert (move.dump(), move.dump(name)) == before


def test_a_service_on_both_sides(moved: Move, gateway: GatewayStub, tmp_path: Path) -> None:
    """One session that went on in both places has both turns, each in its order, for its owner."""
    settings = {"AUTH_RATE_LIMIT": "off"}
    with Service({**moved.on_sqlite, **settings}, tmp_path) as service:
        ada = sign_up(service, email="new@example.com")
        session = ada.session(ada.project("talk")["id"])["id"]
        assert ada.chat(session, "before").status_code == 200
    assert moved.run("--assume-timezone", "UTC").code == 0
    said = {}
    for place, name in ((moved.settings, "postgres"), (moved.on_sqlite, "sqlite")):
        with Service({**place, **settings}, tmp_path) as service:
            api = Api(service, ada.token)
            said[name] = api.chat(session, f"on {name}").json()["message"]["content"]
            bob = sign_up(service, email=f"{name}@example.com")
            bob.chat(bob.session(bob.project("shop")["id"])["id"], f"bob on {name}")
    outcome = moved.run("--assume-timezone", "UTC", "--merge")
    assert outcome.code == 0, outcome.report
    with Service({**moved.settings, **settings}, tmp_path) as service:
        messages = Api(service, ada.token).messages(session)
        texts = [each["content"] for each in messages if each["role"] == "user"]
        assert texts == ["before", "on postgres", "on sqlite"]
        answers = [each["content"] for each in messages if each["role"] == "assistant"]
        assert answers[1:] == [said["postgres"], said["sqlite"]]
        (project,) = Api(service, bob.token).get("/projects").json()["items"]
        # The source has shop-1 to shop-3 already.
        assert project["db_name"] == "shop_4_db"
