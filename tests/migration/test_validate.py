"""`--validate-only` finds whatever differs: each value, each key, each sequence, each database."""

import json
import struct
from typing import Any

import pytest

from server.migration import compare, rows, source
from server.migration.master import master_tables
from server.migration.tables import Column, Kind, Table, quote
from tests.migration.moving import Move
from tests.migration.sources import ODD, TIME
from tests.migration.test_again import project_of

# What would not let any value be put in.
CHECKS = """
ALTER TABLE projects DROP CONSTRAINT projects_status_check;
ALTER TABLE messages DROP CONSTRAINT messages_role_check, DROP CONSTRAINT messages_status_check;
"""
# Another value of the kind, for whatever stands there.
OTHER = {
    Kind.INTEGER: "coalesce({0}, 0) - 1",
    Kind.BOOLEAN: "NOT {0}",
    Kind.TEXT: "coalesce({0}, '') || 'x'",
    Kind.TIME: "coalesce({0}, now()) + '1 microsecond'",
    Kind.BYTES: r"{0} || '\x00'",
    Kind.FLOAT: "coalesce({0}, 0) + 5e-324",
    Kind.NUMERIC: "{0} + 0.01",
    Kind.JSON: "'{{\"a\": 1.00}}'",
}


def flip(table: Table, column: Column) -> str:
    """SQL that changes one value of one row of the table."""
    name = quote(column.name)
    return (
        f"UPDATE {quote(table.name)} SET {name} = {OTHER[column.kind].format(name)} "
        f"WHERE ctid = (SELECT ctid FROM {quote(table.name)} LIMIT 1)"
    )


def test_a_flipped_value_is_found_in_any_column(move: Move) -> None:
    """One value in one column of one row is enough, and is named."""
    assert move.call().code == 0
    flipped = {}
    with move.target() as conn, conn.cursor() as cursor:
        for table in master_tables():
            for column in table.columns:
                cursor.execute("SET session_replication_role = replica")
                cursor.execute("BEGIN")
                cursor.execute(CHECKS)
                cursor.execute(flip(table, column))
                assert cursor.rowcount == 1
                flipped[table.name, column.name] = differs(move, conn, table)
                cursor.execute("ROLLBACK")
    for (table_name, column_name), found in flipped.items():
        table = next(table for table in master_tables() if table.name == table_name)
        wanted = {""} if column_name in table.key else {column_name}
        assert found == wanted, (table_name, column_name)


def differs(move: Move, conn: Any, table: Table) -> set[str]:
    """The columns in which the comparison finds a difference, inside the open transaction."""
    with source.opened(move.path) as held:
        result = compare.compare_table("master", held, conn, table, {})
    return {each.column for each in result.differences}


def test_the_command_names_table_row_and_column(move: Move) -> None:
    """Exit 1 with each place, in the master and in a project's database; nothing is mended."""
    name = project_of(move)
    assert move.call().code == 0
    move.ask("UPDATE users SET name = NULL WHERE id = 3")
    move.ask("UPDATE users SET name = '' WHERE id = 7")
    move.ask("DELETE FROM audit_log")
    move.ask("UPDATE goods SET photo = NULL WHERE id = 2", name=name)
    move.ask("UPDATE tags SET label = '' WHERE label IS NULL", name=name)
    before = move.dump(), move.dump(name)
    outcome = move.run("--validate-only")
    assert outcome.code == 1
    assert outcome.differences() == {
        ("master", "users", "id 3", "name"),
        ("master", "users", "id 7", "name"),
        ("master", "audit_log", "id 8", ""),
        (name, "goods", "id 2", "photo"),
        (name, "tags", "label \\N, amount 2.5", ""),
        (name, "tags", "label , amount 2.5", ""),
    }
    assert (move.dump(), move.dump(name)) == before


def test_keys_sequences_and_databases(move: Move) -> None:
    """Equal rows aren't all: what keeps them equal must be there as well."""
    name = project_of(move)
    assert move.call().code == 0
    assert move.call(validate_only=True).code == 0
    move.ask("ALTER TABLE images DROP CONSTRAINT images_message_id_fkey")
    move.ask("SELECT setval('messages_id_seq', 39, true)")
    move.ask("SELECT setval('goods_id_seq', 2, true)", name=name)
    move.ask("ALTER TABLE goods DROP CONSTRAINT goods_parent_fkey", name=name)
    outcome = move.call(validate_only=True)
    assert outcome.code == 1
    assert set(outcome.report["problems"]) == {
        "images: the foreign key of message_id is missing",
        "messages: the next id is 40, and 40 was given away",
    }
    assert outcome.differences() == {
        (name, "goods", "the foreign key of parent", ""),
        (name, "goods", "the next id", "id"),
    }
    move.ask(f"DROP DATABASE {name}", name="postgres")
    problems = move.call(validate_only=True).report["problems"]
    assert f"{name} isn't there, or not this project's" in problems


def test_an_empty_target(move: Move) -> None:
    """Every table and every database is missing, and said to be."""
    outcome = move.call(validate_only=True)
    assert outcome.code == 1
    assert len(outcome.report["problems"]) == len(master_tables()) + 1


FLOATS = [0.1 + 0.2, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e22, 1e23]
FLOATS += [-1.5, 3.0, 123456789012345680.0, float("inf"), float("-inf"), 4.35, 9007199254740993.0]
TEXTS = [ODD, "", " ", "\\", "\\N", "\\.", "\r", "\n", "\r\n", "\t", "\x01\x1f\x7f", "\u2028\u0085"]
TEXTS += ["\U0001f468\u200d\U0001f469", "e\u0301", "\ufeff", "\ufffe", "\U0010ffff", "%s {0}"]
TEXTS += ["NULL", "'", '"', "x" * 1_000_000, "ü\\\n" * 250_000]
BLOBS = [b"", b"\0", bytes(range(256)), b"\\x00", bytes(range(256)) * 20_000]


def test_values_bit_for_bit(move: Move) -> None:
    """Floats, odd texts and large images, in the master and in a project's database."""
    name = project_of(move)
    with move.source(name) as conn:
        conn.execute("CREATE TABLE kept (id INTEGER PRIMARY KEY, f REAL, t TEXT, b BLOB, j JSON)")
        for number in range(len(TEXTS)):
            values = FLOATS[number:][:1], TEXTS[number:][:1], BLOBS[number:][:1]
            row = [next(iter(value), None) for value in values]
            conn.execute(
                "INSERT INTO kept VALUES (?, ?, ?, ?, ?)",
                (number, *row, json.dumps({"a": [1.0, TEXTS[number][:9], None]})),
            )
    with move.source() as conn:
        for number, text in enumerate(TEXTS, 100):
            conn.execute(
                "INSERT INTO messages (id, user_id, session_id, role, content, created_at) "
                "VALUES (?, 3, 9, 'user', ?, ?)",
                (number, text, TIME),
            )
        for number, blob in enumerate(BLOBS, 100):
            conn.execute(
                "INSERT INTO images VALUES (?, 3, 100, 'image/png', ?, ?)",
                (number, len(blob), blob),
            )
    outcome = move.call()
    assert outcome.code == 0, outcome.report
    content = move.ask("SELECT content FROM messages WHERE id >= 100 ORDER BY id")
    assert [row[0] for row in content] == TEXTS
    images = move.ask("SELECT data FROM images WHERE id >= 100 ORDER BY id")
    assert [bytes(row[0]) for row in images] == BLOBS
    kept = move.ask("SELECT t, b, j::text FROM kept ORDER BY id", name=name)
    assert [row[0] for row in kept] == TEXTS
    assert [bytes(row[1]) for row in kept if row[1] is not None] == BLOBS
    assert [json.loads(row[2])["a"][1] for row in kept] == [text[:9] for text in TEXTS]
    bits = move.ask("SELECT float8send(f) FROM kept WHERE f IS NOT NULL ORDER BY id", name=name)
    assert [bytes(row[0]) for row in bits] == [struct.pack(">d", value) for value in FLOATS]
    assert move.call(validate_only=True).code == 0


def test_the_parts_of_a_table_cover_every_id_once(move: Move) -> None:
    """Also those below the first row and above the last, where only the target may have rows."""
    table = next(table for table in master_tables() if table.name == "users")
    with source.opened(move.path) as conn:
        ids = [row[0] for row in conn.execute("SELECT id FROM users ORDER BY id")]
        parts = rows.divide(conn, rows.Chunk(table), 1)
        sizes = [rows.digest(conn, part).rows for part in parts]
    assert (parts[0].after, parts[-1].last) == (None, None)
    assert [part.after for part in parts[1:]] == [part.last for part in parts[:-1]]
    assert sizes == [*(1 for _ in ids), 0]


def test_only_the_part_that_differs_is_held_in_memory(
    move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole chunk of long texts or images would not fit."""
    monkeypatch.setattr(rows, "PART", 1)
    assert move.call().code == 0
    table = next(table for table in master_tables() if table.name == "users")
    with move.target() as conn, source.opened(move.path) as held:
        with conn.cursor() as cursor:
            cursor.execute("UPDATE users SET name = 'another' WHERE id = 3")
        parts = list(compare.differing(held, conn, rows.Chunk(table), table))
        (found,) = compare.differences("master", held, conn, rows.Chunk(table), table)
        sizes = [rows.digest(held, part).rows for part in parts]
    assert sizes == [1]
    assert (found.row, found.column) == ("id 3", "name")
