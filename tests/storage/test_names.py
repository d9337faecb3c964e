"""The guard: what may be made, what may be dropped, and that each of its conditions is needed."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.storage import names
from server.storage.names import Refused

MASTER = "clawd_main"
# Letters that look like, fold to, or count as those of a name.
TRICKY = st.text(
    st.sampled_from("abzAZ019_-. \t\n\0\"';%/\\\u00e9\u0130\u0131\u017f\u212a\uff50\u0430\u200b"),
    max_size=70,
)
TEXT = TRICKY | st.text(max_size=70) | st.from_regex(names.PROJECT_NAME, fullmatch=True)


def refusal(project: str, db_name: str, master: str = MASTER) -> tuple[bool, str] | None:
    """Whether the guard's refusal is hard, with the reason; None when it lets pass."""
    found = names.check_deletion(project, db_name, master)
    return None if found is None else (found.hard, found.reason)


@given(TEXT)
@example("a" * 59)
@example("a" * 60)
@example("postgres\n")
def test_a_name_is_refused_or_safe(project: str) -> None:
    """A new project's database has a plain ASCII name inside PostgreSQL's 63 bytes, or none.

    PostgreSQL cuts a longer name with a mere notice: two projects shared one database, and of
    forty accented letters the `_db` was cut off.
    """
    try:
        db_name = names.new_database_name(project, MASTER)
    except Refused:
        return
    assert names.PROJECT_NAME.fullmatch(project)
    assert names.PROJECT_DATABASE.fullmatch(db_name)
    assert len(db_name.encode()) <= 63
    assert db_name == project.replace("-", "_") + "_db"
    assert names.find_refusal(db_name, MASTER) is None
    assert names.validate_deletion(project, db_name, MASTER) == (True, "Validation passed")


@given(TEXT, TEXT, TEXT)
@example("amazon", "books_db", MASTER)
def test_the_guard_lets_pass_only_the_projects_own(project: str, db_name: str, master: str) -> None:
    """Whatever the three names are: passing means well-formed, unprotected and derived."""
    allowed, reason = names.validate_deletion(project, db_name, master)
    assert allowed == (
        names.PROJECT_DATABASE.fullmatch(db_name) is not None
        and db_name == project.replace("-", "_") + "_db"
        and names.normalize(db_name) != names.normalize(master)
    )
    assert allowed == (reason == "Validation passed")


@given(TEXT, TEXT)
def test_what_force_may_do(project: str, db_name: str) -> None:
    """A soft refusal is only ever for a database that some project could own."""
    found = names.check_deletion(project, db_name, MASTER)
    below = names.find_refusal(db_name, MASTER)
    assert (below is None) == (found is None or not found.hard)


@given(TEXT)
def test_spellings_of_the_master_are_the_master(master: str) -> None:
    """Case, `-` for `_` and blanks around it make no other database of it."""
    for spelling in (master, f" {master}\n", master.replace("_", "-")):
        assert names.is_master(spelling, master)
        assert names.is_protected(spelling, master)
    if master.isascii():
        assert names.is_master(master.upper(), master)


# Each line is refused, or passes, by one condition alone: without it the line would change.
@pytest.mark.parametrize(
    ("project", "db_name", "expected"),
    [
        ("amazon", "amazon_db", None),
        ("my-app", "my_app_db", None),
        ("a", "a_db", None),
        ("a" * 59, "a" * 59 + "_db", None),
        ("a_db", "a_db_db", None),
        # the derived name, and nothing near it
        ("amazon", "amazon2_db", (False, "doesn't match expected pattern 'amazon_db'")),
        ("amazon", "amazon_db_db", (False, "doesn't match")),
        ("amazon", "xamazon_db", (False, "doesn't match")),
        ("my-app", "myapp_db", (False, "doesn't match expected pattern 'my_app_db'")),
        # well-formed: its letters, its case, its ending, its length, all of it
        ("amazon", "amazon", (True, "doesn't match")),
        ("amazon", "AMAZON_db", (True, "doesn't match")),
        ("amazon", "amazon_DB", (True, "doesn't match")),
        ("amazon", "amazon_db\n", (True, "doesn't match")),
        ("amazon", " amazon_db", (True, "doesn't match")),
        ("amazon", "amazon_db\0", (True, "doesn't match")),
        ("my-app", "my-app_db", (True, "doesn't match")),
        ("1a", "1a_db", (True, "is not the name of a project database")),
        ("_a", "_a_db", (True, "is not the name")),
        ("", "_db", (True, "is not the name")),
        ("\u0430", "\u0430_db", (True, "is not the name")),
        ("\u0661", "a\u0661_db", (True, "doesn't match")),
        ("a" * 60, "a" * 60 + "_db", (True, "is not the name")),
        # the masters, known and configured
        ("amazon", "dreampilot", (True, "Cannot delete master database 'dreampilot'. Master")),
        ("amazon", "defaultdb", (True, "Cannot delete master database")),
        ("amazon", "postgres", (True, "Cannot delete master database")),
        ("amazon", MASTER, (True, "Cannot delete master database")),
        ("amazon", "Clawd-Main", (True, "Cannot delete master database 'Clawd-Main'.")),
        ("amazon", " postgres ", (True, "Cannot delete master database ' postgres '.")),
        # the system's
        ("amazon", "template0", (True, "Cannot delete system database 'template0'.")),
        ("amazon", "template1", (True, "Cannot delete system database")),
        ("amazon", "information_schema", (True, "Cannot delete system database")),
        ("amazon", "pg-catalog", (True, "Cannot delete system database 'pg-catalog'.")),
    ],
)
def test_each_condition_of_the_guard(
    project: str, db_name: str, expected: tuple[bool, str] | None
) -> None:
    """Take one condition away, and one of these lines lets a wrong database be dropped."""
    found = refusal(project, db_name)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found[0] == expected[0]
        assert expected[1] in found[1]


@pytest.mark.parametrize("master", ["shop_db", "SHOP_DB", "shop-db", " shop_db "])
def test_a_project_whose_database_would_be_the_master(master: str) -> None:
    """`DB_NAME=shop_db` and a project `shop`: refused when made and hard when dropped."""
    with pytest.raises(Refused, match="reserved"):
        names.new_database_name("shop", master)
    found = refusal("shop", "shop_db", master)
    assert found is not None
    assert found[0]
    assert found[1].startswith("Cannot delete master database 'shop_db'.")
    assert refusal("shop2", "shop2_db", master) is None


@pytest.mark.parametrize(
    "project", ["postgres", "dreampilot", "defaultdb", "template1", "pg-catalog", "clawd-main"]
)
def test_a_project_named_like_a_protected_database(project: str) -> None:
    """`postgres_db` would be nobody's, but whose `postgres` is meant must never be a question."""
    with pytest.raises(Refused, match="reserved"):
        names.new_database_name(project, MASTER)
