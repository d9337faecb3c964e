"""What arrives on PostgreSQL: everything, with its type and its meaning."""

import os
import pty
import re
import sqlite3
import subprocess
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from server.migration.master import NOT_COPIED, master_tables
from server.migration.tables import Kind, Table, quote
from tests.chat.following import wait_until
from tests.conftest import GATEWAY_TOKEN
from tests.gateway import GatewayStub
from tests.migration import moving
from tests.migration.moving import Move
from tests.migration.sources import Told
from tests.service import PASSWORD, ROOT, Api, Service, environment


def expected(value: Any, kind: Kind) -> Any:
    """What psycopg2 gives for what sqlite3 gave."""
    if value is None:
        return None
    if kind is Kind.BOOLEAN:
        assert value in (0, 1)
        return bool(value)
    if kind is Kind.TIME:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=moment.tzinfo or UTC)
    return value


def rows(move: Move, table: Table) -> tuple[list[Any], list[Any]]:
    """A table's rows on both sides, read past the code of the migration."""
    columns = ", ".join(quote(column.name) for column in table.columns)
    sql = f"SELECT {columns} FROM {quote(table.name)}"
    with move.source() as conn:
        ours = [
            tuple(expected(v, c.kind) for v, c in zip(row, table.columns, strict=True))
            for row in conn.execute(sql)
        ]
    theirs = [tuple(bytes(v) if isinstance(v, memoryview) else v for v in r) for r in move.ask(sql)]
    return sorted(ours, key=repr), sorted(theirs, key=repr)


def test_every_value_arrives(move: Move) -> None:
    """Each value of each table is the same on the other side, whatever the migration says."""
    outcome = move.run()
    assert outcome.code == 0, outcome.report
    assert outcome.report["respelt"] == {}
    for table in master_tables():
        ours, theirs = rows(move, table)
        assert ours == theirs
        assert ours, f"{table.name} has no row that could show it"
    assert not moved_tables() - {table.name for table in master_tables()}
    assert {t["name"]: t["rows"] for t in outcome.report["tables"]} == {
        table.name: len(rows(move, table)[0]) for table in master_tables()
    }
    (project,) = outcome.report["projects"]
    goods = move.ask("SELECT * FROM goods ORDER BY id", name=project["database"])
    assert [bytes(row[4]) for row in goods] == [b"\0\1", b""]
    assert [row[:4] for row in goods] == [(1, "tea", 0.1, True), (2, "", 5e-324, False)]
    assert goods[0][5:] == (datetime(2026, 3, 29, 1, 59, 59, 120000, UTC), {"a": 1.0}, None)
    tags = move.ask("SELECT label, amount::text FROM tags ORDER BY 2", name=project["database"])
    assert tags == [("x", "1"), ("x", "1"), (None, "2.5")]
    folder = Path(outcome.report["folder"])
    kept = (folder / "report.json").read_text("utf-8")
    assert '"result": "Both sides hold the same."' in kept
    assert folder.stat().st_mode & 0o077 == 0, "it holds everybody's passwords' hashes"


def moved_tables() -> set[str]:
    """The tables that a file of the service has, but those that stay."""
    found = set()
    for path in (ROOT / "schema").glob("*.sql"):
        if ".postgres" not in path.name:
            text = path.read_text("utf-8").partition("-- What a new project's")[0]
            found |= set(re.findall(r"^CREATE TABLE (\w+)", text, re.MULTILINE))
    return found - set(NOT_COPIED)


def test_new_ids_are_above_all_that_there_ever_were(move: Move) -> None:
    """A row that was deleted had an id, too: sqlite_sequence remembers it, max(id) doesn't."""
    assert move.call().code == 0
    sql = "INSERT INTO messages (user_id, session_id, role) VALUES (3, 6, 'user') RETURNING id"
    assert move.ask(sql) == [(41,)]
    sql = "INSERT INTO audit_log (action, target, outcome) VALUES ('', '', '') RETURNING id"
    assert move.ask(sql) == [(9,)]
    with move.source() as conn:
        database = conn.execute("SELECT db_name FROM projects").fetchone()[0]
    assert move.ask("INSERT INTO goods (name) VALUES ('new') RETURNING id", name=database) == [
        (21,)
    ]


def test_the_service_on_the_result(
    moved: Move, told: Told, gateway: GatewayStub, tmp_path: Path
) -> None:
    """Old passwords, tokens, keys, images and branches as before; new rows get new ids."""
    outcome = moved.run(*moving.UTC)
    assert outcome.code == 0, outcome.report
    highest = sequences(moved.path)
    settings = {"AUTH_RATE_LIMIT": "off", "OPENCLAW_URL": gateway.url}
    with Service({**moved.settings, **settings, "OPENCLAW_TOKEN": GATEWAY_TOKEN}, tmp_path) as new:
        assert told.ask(new.url) == told.answers
        for email in told.emails:
            body = {"email": email, "password": PASSWORD}
            assert httpx.post(f"{new.url}/auth/login", json=body).status_code == 200
        ada = Api(new, told.tokens[0])
        again = ada.post("/chat", told.keyed, headers={"Idempotency-Key": "k"})
        assert again.headers["idempotent-replayed"] == "true"
        said = ada.chat(told.sessions[0], "and on").json()
        assert said["user_message"]["id"] > highest["messages"]
        assert said["message"]["content"].startswith("Turn")
        shop = ada.project("new-shop", project_type="ecommerce")
        assert shop["id"] > highest["projects"]
        assert ada.session(shop["id"])["id"] > highest["sessions"]
        projects = {each["name"]: each["id"] for each in ada.get("/projects").json()["items"]}
        tables = ada.get(f"/projects/{projects['shop-2']}/database").json()["tables"]
        assert tables == ["customers", "order_items", "orders", "products"]
        lost = ada.get(f"/projects/{projects['lost']}/sessions").json()["items"][0]["id"]
        # The process that gave this answer has never been seen on PostgreSQL.
        wait_until(lambda: ada.messages(lost)[-1]["status"] == "interrupted", 30)
        assert ada.messages(lost)[-1]["content"]
        assert ada.delete(f"/projects/{projects['shop-1']}").json()["cleanup"]["database_dropped"]
    insert = "INSERT INTO customers (email, name) VALUES ('e', 'e') RETURNING id"
    assert moved.ask(insert, name="shop_2_db") == [(51,)]


def sequences(path: Path) -> dict[str, int]:
    """The highest ids that a file ever gave away."""
    with closing(sqlite3.connect(path)) as conn:
        return dict(conn.execute("SELECT name, seq FROM sqlite_sequence"))


def test_progress_on_a_terminal(move: Move) -> None:
    """Bars with the rows so far, rows a second and the time left; the report says the same."""
    ours, theirs = pty.openpty()
    command = [part for part in move.command() if part != "--json"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**environment(move.settings), "TERM": "xterm", "COLUMNS": "100"},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 65536):
            said += chunk
    except OSError:  # the terminal of a process that has ended
        pass
    os.close(ours)
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())
    assert re.search(r"━ 1\d/1\d [\d,]+/s 0:00:00", text), text
    assert "messages: 3 rows, equal" in text
    assert "Both sides hold the same." in text
