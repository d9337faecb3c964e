"""Pages of projects."""

import base64

from tests.edge.problems import check_problem
from tests.service import Api, Json, new_name, sign_up
from tests.sql import Sql


def insert(api: Api, sql: Sql) -> int:
    """A project's row, without the time that its database would take."""
    name = new_name()
    return sql.insert("projects", user_id=api.user["id"], name=name, db_name=f"{name}_db")


def page(api: Api, cursor: str | None = None, limit: int = 10) -> Json:
    """One page."""
    params = {"limit": limit} | ({"cursor": cursor} if cursor else {})
    answer = api.get("/projects", params=params)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    assert set(body) == {"items", "next_cursor"}
    return body


def test_pages_neither_repeat_nor_skip_while_rows_come_and_go(api: Api, sql: Sql) -> None:
    """With OFFSET a new project shifts every later page by one: a cursor is a place, no number."""
    made = [insert(api, sql) for _ in range(25)]
    stranger = sign_up(api.service)
    insert(stranger, sql)
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        body = page(api, cursor)
        seen += [item["id"] for item in body["items"]]
        cursor, pages = body["next_cursor"], pages + 1
        insert(api, sql)
        sql.rows("DELETE FROM projects WHERE id = %s", seen[-1])
    assert seen == made[::-1]
    assert pages == 3


def test_a_full_last_page_leads_nowhere(api: Api, sql: Sql) -> None:
    """`next_cursor` is null exactly when there is nothing more."""
    assert page(api) == {"items": [], "next_cursor": None}
    for _ in range(4):
        insert(api, sql)
    first = page(api, limit=2)
    second = page(api, first["next_cursor"], limit=2)
    assert len(second["items"]) == 2
    assert second["next_cursor"] is None


def test_fifty_unless_told_otherwise(api: Api, sql: Sql) -> None:
    """The default limit."""
    for _ in range(51):
        insert(api, sql)
    assert len(api.get("/projects").json()["items"]) == 50
    assert len(page(api, limit=200)["items"]) == 51


LIMITS = ["0", "-1", "201", "abc", "", "1.0", "+1", "01", "1e1", "1_0", " 1", "9" * 30, "\u0661"]


def test_bad_limits_are_422(api: Api) -> None:
    """1 to 200 in plain digits; Python's `int` would read most of these."""
    for limit in LIMITS:
        body = check_problem(api.get("/projects", params={"limit": limit}), 422)
        assert body["errors"][0]["loc"] == ["query", "limit"], limit


def encoded(text: str) -> str:
    """Text in the alphabet of cursors."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


CURSORS = [
    "",
    "x",
    "!!!!",
    "a" * 201,
    "\u00e9",
    "\0",
    *map(
        encoded,
        [
            "1",
            "{}",
            "[]",
            "[null]",
            '["1"]',
            "[1.0]",
            "[true]",
            "[-1]",
            "[0]",
            "[1, 2]",
            "[9223372036854775808]",
            "[NaN]",
            "[" * 100,
            '["2026-01-01 00:00:00", 1]',
        ],
    ),
]


def test_bad_cursors_are_422(api: Api) -> None:
    """Whatever a client makes of a cursor, it is refused before it gets near the database."""
    for cursor in CURSORS:
        for path in ("/projects", "/project-types"):
            body = check_problem(api.get(path, params={"cursor": cursor}), 422)
            assert body["errors"][0]["loc"] == ["query", "cursor"], cursor
