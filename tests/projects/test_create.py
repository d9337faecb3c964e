"""Creating a project with its database."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.edge.problems import check_problem
from tests.service import Api, Service, new_name, sign_up
from tests.sql import Sql

SHOP = ["customers", "order_items", "orders", "products"]
KNOWLEDGE = ["document_tags", "documents", "notes", "sources", "tags"]


def test_every_field_of_a_new_project(api: Api, sql: Sql) -> None:
    """The contract's body; the name is lower-cased, its database is on the server."""
    name = new_name()
    fields = {"description": "Bücher 🦊\n", "project_type": "ecommerce"}
    made = api.project(f"{name.upper()}-X_1", **fields)
    assert set(made) == {
        "id",
        "name",
        "description",
        "project_type",
        "db_name",
        "created_at",
        "updated_at",
    }
    assert made["name"] == f"{name}-x_1"
    assert made["db_name"] == f"{name}_x_1_db"
    assert (made["description"], made["project_type"]) == ("Bücher 🦊\n", "ecommerce")
    assert made["created_at"] == made["updated_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", made["created_at"])
    assert api.get(f"/projects/{made['id']}").json() == made
    assert api.get("/projects").json() == {"items": [made], "next_cursor": None}
    assert made["db_name"] in sql.databases()


@pytest.mark.parametrize(
    ("project_type", "tables"), [("blank", []), ("ecommerce", SHOP), ("knowledge", KNOWLEDGE)]
)
def test_templates_create_their_tables(api: Api, project_type: str, tables: list[str]) -> None:
    """The answer is read from the project's own database, not from what was meant to be there."""
    project = api.project(project_type=project_type)
    answer = api.get(f"/projects/{project['id']}/database")
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"name", "backend", "size_bytes", "tables"}
    assert body["name"] == project["db_name"]
    assert body["backend"] == api.get("/health").json()["backend"]
    assert body["size_bytes"] > 0
    assert body["tables"] == tables


def test_the_templates_are_listed(api: Api) -> None:
    """A frontend offers them by name; the list is a page like every other."""
    body = api.get("/project-types").json()
    assert [item["name"] for item in body["items"]][:3] == ["blank", "ecommerce", "knowledge"]
    assert all(set(item) == {"id", "name", "description"} for item in body["items"])
    first = api.get("/project-types", params={"limit": 1}).json()
    second = api.get("/project-types", params={"limit": 1, "cursor": first["next_cursor"]}).json()
    assert [*first["items"], *second["items"]] == body["items"][:2]


def test_an_unknown_type_is_422(api: Api, sql: Sql) -> None:
    """Nothing is reserved for it: the name stays free."""
    name = new_name()
    answer = api.post("/projects", {"name": name, "project_type": "nonsense"})
    body = check_problem(answer, 422, "unknown_project_type")
    assert body["errors"][0]["loc"] == ["body", "project_type"]
    assert "nonsense" not in answer.text
    assert sql.count("projects", name=name) == 0
    api.project(name)


LETTERS_THAT_LOOK_ALIKE = [
    "\u0440\u043estgres",  # Cyrillic er, o
    "\uff30\uff2f\uff33\uff34\uff27\uff32\uff25\uff33",  # full width
    "postgre\u017f",  # long s
    "\u212aernel",  # the Kelvin sign lower-cases to k
    "\u0130stanbul",
    "a\u200b",
    "\u202ea",
    "a\u0301",
    "a\u0660",  # Arabic digit zero
    "\u00e9" * 40,
]


REFUSED: list[Any] = [
    "",
    "1abc",
    "-a",
    "_a",
    "a b",
    "a.b",
    "a/b",
    "abc\n",
    "\nabc",
    " abc",
    "abc ",
    "a\t",
    "a\0",
    "dreampilot\0",
    "dreampilot\0x",
    "x" * 60,
    "x" * 64,
    "x" * 10_000,
    "../../etc/passwd",
    "..",
    'x"; DROP DATABASE dreampilot; --',
    "x'--",
    "%s",
    "{}",
    "a%20b",
    *LETTERS_THAT_LOOK_ALIKE,
    None,
    5,
    True,
    ["abc"],
    {"abc": 1},
]


def test_names_that_are_refused(api: Api, sql: Sql) -> None:
    """An allow-list of ASCII, matched as a whole: `$` accepts a newline, `\\w` Cyrillic letters.

    psycopg2 cuts an identifier at a NUL: `DROP DATABASE` once ran on the master that way.
    """
    before = sql.databases()
    for name in REFUSED:
        body = check_problem(api.post("/projects", {"name": name}), 422)
        assert body["errors"][0]["loc"] == ["body", "name"], ascii(name)
    assert sql.count("projects", user_id=api.user["id"]) == 0
    assert sql.databases() == before


def test_a_missing_name_is_422(api: Api) -> None:
    """There is no default name."""
    body = check_problem(api.post("/projects", {"description": "x"}), 422)
    assert body["errors"][0] == {
        "loc": ["body", "name"],
        "msg": "Field required",
        "type": "missing",
    }


def test_the_longest_name_and_the_shortest(api: Api, sql: Sql) -> None:
    """59 characters and `_db` are inside PostgreSQL's 63 bytes, which it cuts at silently."""
    longest = new_name().ljust(59, "x")
    assert api.project(longest)["db_name"] == f"{longest}_db"
    assert f"{longest}_db" in sql.databases()
    assert api.project("q")["db_name"] == "q_db"


RESERVED = [
    "dreampilot",
    "DreamPilot",
    "defaultdb",
    "postgres",
    "POSTGRES",
    "template0",
    "template1",
    "information_schema",
    "Information-Schema",
    "pg-catalog",
]


def test_reserved_names_are_409(api: Api, sql: Sql) -> None:
    """A project called like the master would one day be deleted like a project."""
    before = sql.databases()
    for name in (*RESERVED, sql.master):
        check_problem(api.post("/projects", {"name": name}), 409, "reserved_name")
    assert sql.databases() == before


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service whose master is called like a project's database."""
    folder: Path = tmp_path_factory.mktemp("shop")
    settings = {"USE_POSTGRES": "false", "DB_PATH": str(folder / "m.db"), "DB_NAME": "shop_db"}
    with Service(settings, folder) as running:
        yield running


@pytest.mark.parametrize("name", ["shop", "Shop", "shop_db", "shop-db"])
def test_a_project_whose_database_would_be_the_master_is_409(shop: Service, name: str) -> None:
    """DB_NAME=shop_db, project `shop`: on a shared server the two would be one database."""
    api = sign_up(shop)
    check_problem(api.post("/projects", {"name": name}), 409, "reserved_name")
    assert "shop_db" not in Sql(shop.settings).databases()


def test_names_with_one_database_are_409_without_saying_whose(api: Api, sql: Sql) -> None:
    """`my-app` and `my_app` need the same database; the second must not learn of the first."""
    name = new_name()
    other = sign_up(api.service)
    project = other.project(f"{name}-app", description="mine alone")
    for spelling in (f"{name}-app", f"{name}_app", f"{name}-APP"):
        answer = api.post("/projects", {"name": spelling})
        check_problem(answer, 409, "database_name_taken")
        for secret in (other.user["email"], "mine alone", project["created_at"]):
            assert secret not in answer.text
    assert other.get(f"/projects/{project['id']}").json() == project
    assert sql.count("projects", db_name=f"{name}_app_db") == 1


def test_a_database_that_is_there_already_is_not_adopted(api: Api, sql: Sql) -> None:
    """It is somebody's: taking it over would delete it with the project one day."""
    name = new_name()
    sql.make_database(f"{name}_db")
    try:
        check_problem(api.post("/projects", {"name": name}), 409, "database_name_taken")
        assert sql.count("projects", name=name) == 0
        assert f"{name}_db" in sql.databases()
    finally:
        sql.drop_database(f"{name}_db")


def test_a_broken_template_leaves_nothing(api: Api, sql: Sql) -> None:
    """Operators write templates: both the row and the database go, and the name is free again."""
    name, kind = new_name(), new_name()
    sql.insert("project_types", name=kind, template_sql="CREATE TABLE a (id BIGINT); NONSENSE;")
    check_problem(api.post("/projects", {"name": name, "project_type": kind}), 500)
    assert sql.count("projects", name=name) == 0
    assert f"{name}_db" not in sql.databases()
    project = api.project(name)
    assert api.get(f"/projects/{project['id']}/database").json()["tables"] == []
    sql.rows("DELETE FROM project_types WHERE name = %s", kind)


def test_unknown_fields_are_ignored(api: Api) -> None:
    """Mass assignment: `db_name`, `user_id` and `status` are never taken from a request."""
    name = new_name()
    body = {"name": name, "db_name": "dreampilot", "user_id": 1, "id": 7, "status": "deleting"}
    made = api.post("/projects", body)
    assert made.status_code == 201
    assert made.json()["db_name"] == f"{name}_db"
    assert api.get(f"/projects/{made.json()['id']}").status_code == 200


def test_only_the_description_can_be_changed(api: Api) -> None:
    """A renamed project would no longer fit its database."""
    project = api.project(description="before")
    path = f"/projects/{project['id']}"
    changed = api.patch(path, {"description": "after", "name": "other", "db_name": "postgres"})
    assert changed.status_code == 200
    body = changed.json()
    assert body["updated_at"] > project["updated_at"]
    assert body == {**project, "description": "after", "updated_at": body["updated_at"]}
    assert api.patch(path, {}).json() == body, "nothing asked, nothing changed"
    assert api.patch(path, {"description": None}).json()["description"] is None
    check_problem(api.patch(path, {"description": "x" * 10_001}), 422)
    check_problem(api.patch(path, {"description": "x\0"}), 422)
