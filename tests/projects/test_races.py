"""Requests about one project at the same moment, to two processes on one master."""

import itertools
import random
from collections.abc import Iterator
from functools import partial

import pytest

from tests.edge.problems import check_problem
from tests.parallel import at_once
from tests.service import Api, Service, new_name
from tests.sql import Sql


@pytest.fixture(scope="module")
def twin(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A second process of the service on the same master."""
    settings = {name: value for name, value in service.settings.items() if name != "PORT"}
    with Service(settings, tmp_path_factory.mktemp("twin")) as running:
        yield running


@pytest.fixture
def both(api: Api, twin: Service) -> tuple[Api, Api]:
    """One user's clients of the two processes."""
    return api, Api(twin, api.token)


def count_deletions(sql: Sql, db_name: str) -> int:
    """How often the audit log says that a project with this database was deleted."""
    found: int = sql.value(
        "SELECT count(*) FROM audit_log WHERE outcome = 'deleted' AND target LIKE %s",
        f"%, database {db_name}",
    )
    return found


def check_pairs(sql: Sql, name: str) -> None:
    """There is a database exactly where there is a row, and the row is finished."""
    rows = sql.rows("SELECT status FROM projects WHERE name = %s", name)
    assert [row["status"] for row in rows] in ([], ["active"])
    assert (f"{name}_db" in sql.databases()) is bool(rows)


def test_twenty_creations_at_once_make_one_project(both: tuple[Api, Api], sql: Sql) -> None:
    """One 201, one row, one database; CREATE DATABASE's own race ends in errors of three kinds."""
    name = new_name()
    answers = at_once([partial(api.post, "/projects", {"name": name}) for api in both * 10])
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19
    for answer in answers:
        if answer.status_code == 409:
            check_problem(answer, 409)
    assert sql.count("projects", name=name, status="active") == 1
    check_pairs(sql, name)


def test_ten_deletions_at_once_are_one(both: tuple[Api, Api], sql: Sql) -> None:
    """Exactly one 200; the others find it busy or gone, never 500; each is in the audit trail."""
    project = both[0].project()
    path = f"/projects/{project['id']}"
    answers = at_once([partial(api.delete, path) for api in both * 5])
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {404, 409}
    check_pairs(sql, project["name"])
    rows = sql.rows(
        "SELECT outcome FROM audit_log WHERE target LIKE %s", f"project {project['id']}, %"
    )
    outcomes = [row["outcome"] for row in rows]
    assert len(outcomes) == 10
    assert outcomes.count("deleted") == 1
    assert set(outcomes) <= {"busy", "deleted", "not found"}


def test_ten_restorations_at_once_are_one(both: tuple[Api, Api], sql: Sql) -> None:
    """Exactly one 200; the others find it busy or back; it is back whole, once."""
    project = both[0].project()
    session = both[0].session(project["id"])
    both[0].chat(session["id"], "Hello")
    assert both[1].delete(f"/projects/{project['id']}").status_code == 200
    path = f"/projects/{project['id']}/restore"
    answers = at_once([partial(api.post, path) for api in both * 5])
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {404, 409}
    check_pairs(sql, project["name"])
    assert len(both[0].messages(session["id"])) == 2
    assert sql.count("deleted_projects", id=project["id"]) == 0
    assert sql.count("audit_log", outcome="restored", user_id=both[0].user["id"]) == 1


def test_restorations_purges_and_creations_race_safely(both: tuple[Api, Api], sql: Sql) -> None:
    """One of them has it: it is back, or gone for good, or its name is another project's."""
    seen: set[tuple[int, int, int]] = set()
    for turn in range(6):
        name = new_name()
        project = both[0].project(name)
        path = f"/projects/{project['id']}"
        both[0].delete(path)
        moves = [
            partial(both[turn % 2].post, f"{path}/restore"),
            partial(both[0].delete, f"{path}?purge=true"),
            partial(both[1].post, "/projects", {"name": name}),
        ]
        restored, purged, created = (answer.status_code for answer in at_once(moves))
        seen.add((restored, purged, created))
        check_pairs(sql, name)
        living = [row["id"] for row in both[0].get("/projects").json()["items"]]
        assert (project["id"] in living) is (restored == 200 and purged != 200)
        assert sql.count("projects", name=name) == (created == 201) + (project["id"] in living)
        kept = sql.count("deleted_projects", id=project["id"])
        assert kept == (restored != 200 and purged != 200)
    assert {status for statuses in seen for status in statuses} <= {200, 201, 404, 409}


def test_deletions_and_creations_of_one_name_race_safely(both: tuple[Api, Api], sql: Sql) -> None:
    """Whatever the order: rows and databases in pairs, each deletion written down once."""
    name, coin = new_name(), random.Random(1)
    deleted = 0

    def create_or_delete(api: Api, create: bool) -> int:
        if create:
            return api.post("/projects", {"name": name}).status_code
        found = [row for row in api.get("/projects").json()["items"] if row["name"] == name]
        return api.delete(f"/projects/{found[0]['id']}").status_code if found else 404

    seen: set[int] = set()
    for _ in range(12):
        clients = itertools.islice(itertools.cycle(both), 6)
        moves = [(api, coin.random() < 0.5) for api in clients]
        statuses = at_once([partial(create_or_delete, *move) for move in moves])
        seen |= set(statuses)
        deleted += statuses.count(200)
        check_pairs(sql, name)
        assert count_deletions(sql, f"{name}_db") == deleted
    assert {200, 201} <= seen <= {200, 201, 404, 409}
