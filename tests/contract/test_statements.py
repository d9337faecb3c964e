"""SQL is written once: what a statement does on one database, it does on the other."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from server.storage import contract
from server.storage.contract import Connection, Row, execute, fetch_all, fetch_one

NOW = datetime(2026, 11, 21, 9, 30, 15, 123456, tzinfo=UTC)
TYPES = "CREATE TABLE things (number BIGINT, name TEXT, at TIMESTAMPTZ, data BYTEA, yes BOOLEAN)"


def _add_user(conn: Connection, email: str, name: str | None = None) -> int:
    row = fetch_one(
        conn,
        "INSERT INTO users (email, name, password_hash) VALUES (%s, %s, 'x') RETURNING id",
        (email, name),
    )
    assert row is not None
    return int(row["id"])


def _add_user_and_raise(conn: Connection, error: Exception) -> None:
    _add_user(conn, "ada@example.com")
    raise error


def _value(database: contract.Database, column: str, value: object) -> Any:
    """What comes back of a value that is stored in a column of the words in schema/."""
    table = TYPES.replace("BYTEA", "BLOB" if database.BACKEND == "sqlite" else "BYTEA")
    with database.get_db() as conn:
        execute(conn, "DROP TABLE IF EXISTS things")
        execute(conn, table)
        execute(conn, f"INSERT INTO things ({column}) VALUES (%s)", (value,))
    with database.read_db() as conn:
        row = fetch_one(conn, f"SELECT {column} AS value FROM things WHERE {column} = %s", (value,))
    assert row is not None
    return row["value"]


def test_the_documented_snippet_gives_rows_like_dicts(database: contract.Database) -> None:
    """The snippet in the users' document works word for word on both.

    sqlite3's own cursor is no context manager: the documented `with conn.cursor()` was a
    TypeError on SQLite.
    """
    with database.get_db() as conn:
        user = _add_user(conn, "ada@example.com", "Ada")
    with database.get_db() as conn, conn.cursor() as cur:
        cur.execute("SELECT id, name FROM users WHERE id = %s", (user,))
        rows = cur.fetchall()
    assert [dict(row) for row in rows] == [{"id": user, "name": "Ada"}]
    assert rows[0]["name"] == "Ada"


def test_placeholders_by_place_by_name_and_percent_signs(database: contract.Database) -> None:
    """`%s`, `%(name)s`, twice the same name, and `%%` mean what they mean in psycopg2."""
    with database.read_db() as conn:
        row = fetch_one(
            conn,
            "SELECT CAST(%(a)s AS INTEGER) + CAST(%(b)s AS INTEGER) "
            "+ CAST(%(a)s AS INTEGER) AS sum, 7 %% 4 AS rest, 'a%%b' AS text",
            {"a": 1, "b": 20},
        )
        assert row == {"sum": 22, "rest": 3, "text": "a%b"}
        row = fetch_one(
            conn, "SELECT CAST(%s AS TEXT) AS a, '100 %%' AS b WHERE 'abc' LIKE %s", ("?", "a%")
        )
        assert row == {"a": "?", "b": "100 %"}


def test_percent_signs_without_parameters(database: contract.Database) -> None:
    """Without parameters a statement is taken as it stands, the percent signs too.

    `contract.execute` hands an empty tuple on, for which psycopg2 replaces `%%`, and fails on a
    lone `%`, while SQLite took the text as it was: one statement, two meanings.
    """
    with database.read_db() as conn:
        assert fetch_one(conn, "SELECT 'a%b' AS text WHERE 'abc' LIKE 'a%'") == {"text": "a%b"}
        assert fetch_one(conn, "SELECT '%%' AS text") == {"text": "%%"}
        with conn.cursor() as cur:
            cur.execute("SELECT '%%s' AS text")
            assert cur.fetchone() == {"text": "%%s"}


TEXTS = (
    "",
    'O\'Brien "quoted" \\ %s %(x)s ? :x $1 ;--',
    "na\u00efve \u6f22\u5b57 \U0001f469\u200d\U0001f467 \U0010ffff",
    "tab\tline\r\nend \x01\x7f",
    "x" * 1_000_000,
)
NUMBERS = (0, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
BYTES = (b"", b"\0\xff%s'\\", bytes(range(256)) * 300)
MOMENTS = (
    NOW,
    NOW.replace(microsecond=0),
    NOW.astimezone(timezone(timedelta(hours=5, minutes=45))),
    datetime(1, 1, 2, tzinfo=UTC),
    datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC),
)


def test_text_comes_back_as_it_went_in(database: contract.Database) -> None:
    """Text is never changed on the way, neither by a placeholder inside it nor by its length."""
    for value in TEXTS:
        assert _value(database, "name", value) == value


def test_whole_numbers_of_64_bits(database: contract.Database) -> None:
    """An id near 2^63 is exact: through a float, 2^53 + 1 would come back as 2^53."""
    for value in NUMBERS:
        assert _value(database, "number", value) == value


def test_bytes_come_back_as_they_went_in(database: contract.Database) -> None:
    """Images lie in the database: every byte counts, NUL too."""
    for value in BYTES:
        assert bytes(_value(database, "data", value)) == value


def test_booleans(database: contract.Database) -> None:
    """A boolean parameter finds the row, and what comes back is as true as it was."""
    for value in (True, False):
        assert _value(database, "yes", value) == value


def test_times_are_one_moment_in_every_zone(database: contract.Database) -> None:
    """A time comes back as the same moment, in UTC, to the microsecond."""
    for value in MOMENTS:
        back = _value(database, "at", value)
        moment = datetime.fromisoformat(back) if isinstance(back, str) else back
        assert moment == value
        assert moment.utcoffset() == timedelta(0)


def test_times_sort_and_compare(database: contract.Database) -> None:
    """Times of other zones, and of whole seconds, are in the order in which they happened.

    Tokens expire by `expires_at > %s`: text that doesn't sort would keep a dead one alive.
    """
    zone = timezone(timedelta(hours=-8))
    moments = [NOW.replace(microsecond=0), NOW.astimezone(zone), NOW + timedelta(microseconds=1)]
    with database.get_db() as conn:
        execute(conn, "CREATE TABLE moments (id INTEGER, at TIMESTAMPTZ)")
        for number in (2, 0, 1):
            execute(conn, "INSERT INTO moments VALUES (%s, %s)", (number, moments[number]))
        rows = fetch_all(conn, "SELECT id FROM moments ORDER BY at")
        assert [row["id"] for row in rows] == [0, 1, 2]
        later = fetch_all(conn, "SELECT id FROM moments WHERE at > %s ORDER BY at", (moments[1],))
        assert [row["id"] for row in later] == [2]


def test_null_is_not_the_empty_text(database: contract.Database) -> None:
    """None stays None and '' stays ''."""
    with database.get_db() as conn:
        none, empty = _add_user(conn, "a@example.com", None), _add_user(conn, "b@example.com", "")
        rows = fetch_all(conn, "SELECT id, name FROM users ORDER BY id")
        nulls = fetch_all(conn, "SELECT id FROM users WHERE name IS NULL")
    assert rows == [{"id": none, "name": None}, {"id": empty, "name": ""}]
    assert nulls == [{"id": none}]


def test_the_common_dialect(database: contract.Database) -> None:
    """RETURNING, upserts, row values, VALUES in FROM: what the queries of all features use."""
    with database.get_db() as conn:
        execute(conn, "CREATE TABLE counts (name TEXT PRIMARY KEY, n BIGINT NOT NULL)")
        for _ in range(3):
            row = fetch_one(
                conn,
                "INSERT INTO counts (name, n) VALUES (%s, 1) "
                "ON CONFLICT (name) DO UPDATE SET n = counts.n + 1 RETURNING n",
                ("x",),
            )
        assert row == {"n": 3}
        changed = fetch_all(
            conn,
            "UPDATE counts SET n = saved.column2 FROM (VALUES (%s, %s), (%s, %s)) AS saved "
            "WHERE counts.name = saved.column1 RETURNING counts.n",
            ("x", 9, "y", 8),
        )
        assert changed == [{"n": 9}]
        assert fetch_one(conn, "SELECT name FROM counts WHERE (name, n) < (%s, %s)", ("x", 10))
        assert execute(conn, "UPDATE counts SET n = 0 WHERE name = %s", ("nobody",)) == 0
        assert execute(conn, "DELETE FROM counts WHERE n = %s", (9,)) == 1
        assert fetch_one(conn, "SELECT name FROM counts") is None


def test_ids_are_given_out_by_the_database(database: contract.Database) -> None:
    """Ids are numbers that rise and are never given out again.

    `SERIAL PRIMARY KEY` is accepted by SQLite and gives NULL; without AUTOINCREMENT it gives the
    id of the newest deleted row to the next one.
    """
    with database.get_db() as conn:
        first, second = _add_user(conn, "a@example.com"), _add_user(conn, "b@example.com")
        execute(conn, "DELETE FROM users WHERE id = %s", (second,))
        third = _add_user(conn, "c@example.com")
    assert 0 < first < second < third


def test_a_row_with_the_promised_columns_is_a_full_citizen(database: contract.Database) -> None:
    """Section 7 of the contract: others insert with these columns, the rest has defaults."""
    with database.get_db() as conn:
        user = _add_user(conn, "ada@example.com")
        execute(
            conn,
            "INSERT INTO projects (id, user_id, name, db_name) VALUES (7, %s, 'a', 'a_db')",
            (user,),
        )
        execute(
            conn,
            "INSERT INTO sessions (id, user_id, project_id, session_key) VALUES (8, %s, 7, 'k')",
            (user,),
        )
        execute(
            conn,
            "INSERT INTO messages (id, user_id, session_id, role, content) "
            "VALUES (9, %s, 8, 'user', 'hello')",
            (user,),
        )
        columns = {
            "users": "id, email, name, password_hash, created_at, updated_at",
            "project_types": "id, name, description, template_sql",
            "projects": "id, user_id, name, description, project_type_id, db_name, status, "
            "created_at, updated_at",
            "sessions": "id, user_id, project_id, session_key, title, created_at, updated_at",
            "messages": "id, user_id, session_id, role, content, status, error, model, "
            "prompt_tokens, completion_tokens, created_at",
            "audit_log": "id, at, user_id, action, target, outcome, detail",
            "schema_migrations": "name, checksum, applied_at",
        }
        rows: dict[str, list[Row]] = {
            table: fetch_all(conn, f"SELECT {names} FROM {table}")
            for table, names in columns.items()
        }
        assert rows["projects"][0]["status"] == "active"
        assert rows["messages"][0]["status"] == "complete"
        assert rows["sessions"][0]["updated_at"]
        execute(conn, "DELETE FROM projects WHERE id = 7")
        assert fetch_all(conn, "SELECT id FROM messages UNION ALL SELECT id FROM sessions") == []


def test_unique_and_foreign_keys_are_conflicts(database: contract.Database) -> None:
    """Both refuse, and both say `Conflict`: SQLite enforces no foreign key unless it is told to."""
    with database.get_db() as conn:
        user = _add_user(conn, "ada@example.com")
    with pytest.raises(contract.Conflict), database.get_db() as conn:
        _add_user(conn, "ADA@example.com")
    with pytest.raises(contract.Conflict), database.get_db() as conn:
        execute(
            conn,
            "INSERT INTO projects (user_id, name, db_name) VALUES (%s, 'a', 'a_db')",
            (user + 1,),
        )
    with database.get_db() as conn:
        execute(
            conn,
            "INSERT INTO projects (user_id, name, db_name) VALUES (%s, 'a', 'a_db')",
            (user,),
        )
    with pytest.raises(contract.Conflict), database.get_db() as conn:
        execute(conn, "DELETE FROM users WHERE id = %s", (user,))
    with database.read_db() as conn:
        assert fetch_one(conn, "SELECT count(*) AS n FROM users") == {"n": 1}
        assert fetch_one(conn, "SELECT count(*) AS n FROM projects") == {"n": 1}


@pytest.mark.parametrize("status", [None, "nonsense"], ids=["not-null", "check"])
def test_a_bug_is_not_a_conflict(database: contract.Database, status: str | None) -> None:
    """A forgotten or impossible value is the service's own mistake, not a clash with a row.

    SQLite called every broken constraint a conflict: a bug answered 409 there and 500 on
    PostgreSQL.
    """
    with database.get_db() as conn:
        user = _add_user(conn, "ada@example.com")
    with pytest.raises(Exception, match="status") as caught, database.get_db() as conn:
        execute(
            conn,
            "INSERT INTO projects (user_id, name, db_name, status) VALUES (%s, 'a', 'a_db', %s)",
            (user, status),
        )
    assert not isinstance(caught.value, contract.DatabaseError)


def test_a_number_out_of_range_is_a_bad_value(database: contract.Database) -> None:
    """`GET /projects/9223372036854775808` was a 500: Python's OverflowError got out."""
    for number in (2**63, -(2**63) - 1, 10**30):
        with pytest.raises(contract.BadValue), database.get_db() as conn:
            execute(
                conn,
                "INSERT INTO audit_log (id, action, target, outcome) VALUES (%s, '', '', '')",
                (number,),
            )
    with database.get_db() as conn:
        assert _add_user(conn, "ada@example.com")


@pytest.mark.parametrize("text", ["a\0b", "\ud800"], ids=["nul", "lone-surrogate"])
def test_text_that_can_not_be_stored_is_a_bad_value(database: contract.Database, text: str) -> None:
    """PostgreSQL has no NUL in text, neither stores half a character: no 500 and no difference.

    SQLite stored the NUL, and such a row could never be moved to PostgreSQL.
    """
    sql = "INSERT INTO users (email, password_hash) VALUES (%s, 'x')"
    with pytest.raises(contract.BadValue), database.get_db() as conn:
        execute(conn, sql, [text])
    with pytest.raises(contract.BadValue), database.get_db() as conn:
        execute(conn, sql.replace("%s", "%(value)s"), {"value": text})
    with database.read_db() as conn:
        assert fetch_all(conn, "SELECT id FROM users") == []


def test_errors_of_the_caller_pass_through(database: contract.Database) -> None:
    """An exception of the code inside the block comes out as it is."""
    for error in (ValueError("mine"), UnicodeDecodeError("utf-8", b"", 0, 1, "mine"), KeyError(1)):
        with pytest.raises(type(error)) as caught, database.get_db() as conn:
            _add_user_and_raise(conn, error)
        assert caught.value is error
    with database.read_db() as conn:
        assert fetch_all(conn, "SELECT id FROM users") == []
