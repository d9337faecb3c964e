"""Sources of a migration: one that the service made over its API, and one made by hand."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx

import database
from tests.chat.following import begin, wait_until
from tests.chat.test_paths import png
from tests.conftest import GATEWAY_TOKEN
from tests.gateway import GatewayStub
from tests.service import Api, Json, Service, sign_up

TEMPLATES = ("blank", "ecommerce", "knowledge")
ODD = "tab\tnew\nline\rcr\\N \\. \\\\ é́ 👩‍👧 \u2028\u0085\x01\x7f ''\"\"%s"
TIME = "2026-03-29 01:59:59.120000+00:00"
LATER = "2026-10-25 02:30:00.000001+00:00"
# A row of every table, and of a second user who has nothing else.
ROWS = f"""
INSERT INTO users (id, email, name, password_hash, created_at, updated_at) VALUES
    (3, 'Ada@example.com', '', 'hash', '{TIME}', '{LATER}'),
    (7, 'bob@example.com', NULL, 'hash', '{TIME}', '{LATER}');
INSERT INTO auth_tokens VALUES ('t1', 3, '{TIME}', '{LATER}');
INSERT INTO auth_attempts VALUES (5, 'login', 'ada', '::1', 1, '{TIME}');
INSERT INTO projects (id, user_id, name, project_type_id, db_name, created_at, updated_at)
    VALUES (4, 3, '{{project}}', 2, '{{project}}_db', '{TIME}', '{LATER}');
INSERT INTO sessions (id, user_id, project_id, session_key, created_at, updated_at)
    VALUES (6, 3, 4, 's-6', '{TIME}', '{LATER}'), (9, 3, 4, 's-9', '{TIME}', '{LATER}');
INSERT INTO messages (id, user_id, session_id, role, content, created_at, stop_requested, model,
    prompt_tokens, parent_id) VALUES
    (10, 3, 6, 'user', 'one', '{TIME}', 0, NULL, NULL, NULL),
    (11, 3, 6, 'assistant', '', '{TIME}', 1, 'echo', 9223372036854775807, 10),
    (15, 3, 9, 'user', 'two', '{LATER}', 0, NULL, -1, NULL);
INSERT INTO images VALUES (2, 3, 10, 'image/png', 3, x'00ff0a');
INSERT INTO audit_log VALUES (8, '{TIME}', 99, 'delete', 'gone', 'allowed', NULL);
INSERT INTO idempotency_keys VALUES (3, 'k', 'f', 10, 11, '{TIME}');
INSERT INTO imported_sessions VALUES (9, 3, 'chatgpt', 'c-1', 'T', 0, '{{{{}}}}', '{TIME}');
INSERT INTO imported_messages VALUES (9, 'm-1', 3, 15, 'd', NULL), (9, 'm-2', 3, NULL, 'd', 'x');
INSERT INTO imported_records VALUES (3, 'chatgpt', 'profile', 'p', '{{{{"a": 1.50}}}}', '{TIME}');
UPDATE sqlite_sequence SET seq = 40 WHERE name = 'messages';
"""
SHOP = f"""
CREATE TABLE goods (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, price REAL, sold BOOLEAN,
    photo BLOB, at TIMESTAMP, more JSON, parent INTEGER REFERENCES goods (id)
);
CREATE INDEX goods_price ON goods (price);
INSERT INTO goods VALUES (1, 'tea', 0.1, 1, x'0001', '{TIME}', '{{"a": 1.0}}', NULL);
INSERT INTO goods VALUES (2, '', 5e-324, 0, x'', NULL, NULL, 1);
CREATE TABLE tags (label TEXT, amount NUMERIC);
INSERT INTO tags VALUES ('x', 1), ('x', 1), (NULL, 2.50);
UPDATE sqlite_sequence SET seq = 20;
"""


def make_by_hand(path: Path, project: str) -> None:
    """A master with a row in every table, with one project whose database has rows as well."""
    path.touch()
    database.migrate_file(path)
    with closing(sqlite3.connect(path)) as conn:
        conn.executescript(ROWS.format(project=project))
        conn.execute("UPDATE messages SET content = ? WHERE id = 15", (ODD,))
        conn.commit()
    folder = path.parent / "project_databases"
    folder.mkdir()
    with closing(sqlite3.connect(folder / f"{project}_db.sqlite3")) as conn:
        conn.executescript(SHOP)


@dataclass
class Told:
    """What a service answered about everything its users have."""

    tokens: list[str] = field(default_factory=list)
    emails: list[str] = field(default_factory=list)
    sessions: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    keyed: Json = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)

    def paths(self) -> list[str]:
        """What to ask of a service, so that its answers show all that is stored."""
        found = ["/auth/me", "/projects", "/project-types"]
        for number in self.sessions:
            found += [f"/sessions/{number}{end}" for end in ("", "/messages", "/branches")]
        return found + [f"/images/{number}" for number in self.images]

    def ask(self, url: str) -> dict[str, str]:
        """Each user's answers by path: JSON however it is spaced, other bytes in hexadecimal."""
        answers = {}
        for number, token in enumerate(self.tokens):
            with httpx.Client(base_url=url, verify=False, timeout=30) as http:
                http.headers["Authorization"] = f"Bearer {token}"
                for path in self.paths():
                    said = http.get(path)
                    body = ""
                    if said.is_success:
                        text = said.headers["content-type"] == "application/json"
                        body = json.dumps(said.json()) if text else said.content.hex()
                    answers[f"{number} {path}"] = f"{said.status_code} {body}"
        return answers


def make_by_service(path: Path, gateway: GatewayStub) -> Told:
    """A master as its users fill it, its process killed while an answer was on its way."""
    settings = {
        "USE_POSTGRES": "false",
        "DB_PATH": str(path),
        "AUTH_RATE_LIMIT": "off",
        "OPENCLAW_URL": gateway.url,
        "OPENCLAW_TOKEN": GATEWAY_TOKEN,
    }
    told = Told()
    with Service(settings, path.parent) as service:
        ada, bob = sign_up(service, email="Ada@Example.com", name="Ada Ü"), sign_up(service)
        told.tokens = [str(ada.token), str(bob.token)]
        told.emails = ["ada@example.com", bob.user["email"]]
        _live(told, ada)
        _delete(bob)
        lost = ada.session(ada.project("lost")["id"])
        told.answers = told.ask(service.url)
        begun = begin(ada, lost["id"], "[[gateway:answer tokens=400 delay=0.1]]")
        rows = f"/sessions/{lost['id']}/messages"
        wait_until(lambda: text_of(ada.get(rows).json(), begun["id"]) != "")
        service.kill()
    _fill_shop(path.parent / "project_databases" / "shop_2_db.sqlite3")
    return told


def text_of(page: Json, number: int) -> str:
    """A message's text, on a page of its session."""
    return next(str(each["content"]) for each in page["items"] if each["id"] == number)


def _live(told: Told, ada: Api) -> None:
    for name in TEMPLATES:
        project = ada.project(f"shop-{TEMPLATES.index(name) + 1}", project_type=name)
        told.sessions.append(ada.session(project["id"], title=ODD.replace("\r", ""))["id"])
    first, second, _ = told.sessions
    said = ada.chat(first, "look", images=[png()]).json()
    told.images.append(said["user_message"]["images"][0]["id"])
    ada.chat(first, ODD)
    ada.chat(first, "another branch", parent_id=said["message"]["id"])
    body = {"session_id": second, "message": "once"}
    told.keyed = body
    assert ada.post("/chat", body, headers={"Idempotency-Key": "k"}).status_code == 200


def _delete(bob: Api) -> None:
    """Rows with the highest ids that there were."""
    project = bob.project("gone")
    session = bob.session(project["id"])
    assert bob.chat(session["id"], "soon gone").status_code == 200
    assert bob.delete(f"/projects/{project['id']}").status_code == 200


def _fill_shop(path: Path) -> None:
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("INSERT INTO customers (email, name) VALUES ('c@example.com', ?)", (ODD,))
        conn.execute(
            "INSERT INTO products (sku, name, price_cents, created_at) VALUES ('a', '', 1, ?)",
            (TIME,),
        )
        conn.execute("INSERT INTO orders (customer_id) VALUES (1)")
        conn.execute("INSERT INTO order_items VALUES (1, 1, 2, 3)")
        conn.execute("INSERT INTO customers (id, email, name) VALUES (50, 'd', 'd')")
        conn.execute("DELETE FROM customers WHERE id = 50")
