"""Deleting a project with its database: the guard, force, races, the audit trail."""

import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests import postgres
from tests.edge.problems import check_problem
from tests.service import Api, new_name, sign_up
from tests.sql import Sql


def delete(api: Api, project_id: int, query: str = "") -> httpx.Response:
    """DELETE the project."""
    return api.delete(f"/projects/{project_id}{query}")


def audit(sql: Sql, project_id: int) -> list[tuple[str, int]]:
    """The outcome of each attempt on a project, and whose it was."""
    rows = sql.rows(
        "SELECT * FROM audit_log WHERE action = 'project.delete' AND target LIKE %s ORDER BY id",
        f"project {project_id}, %",
    )
    return [(row["outcome"], row["user_id"]) for row in rows]


def logged(api: Api, project_id: int) -> list[dict[str, Any]]:
    """The log lines about attempts to delete a project."""
    return [
        line
        for line in api.service.log_lines()
        if str(line.get("target", "")).startswith(f"project {project_id}, ")
    ]


def test_a_deletion_answers_what_went(api: Api, sql: Sql) -> None:
    """The contract's body, word for word; what hung on the project is gone, nothing else is."""
    project, bystander = api.project(), api.project()
    sessions = [api.session(project["id"]) for _ in range(2)]
    kept = api.session(bystander["id"])
    for session in (*sessions, kept):
        api.chat(session["id"], "Hello")
    answer = delete(api, project["id"])
    assert answer.status_code == 200
    body = answer.json()
    until = datetime.fromisoformat(body.pop("restorable_until"))
    assert abs(until - datetime.now(UTC) - timedelta(days=7)) < timedelta(minutes=1)
    assert body == {
        "success": True,
        "status": "deleted",
        "message": "Project deleted",
        "database": project["db_name"],
        "cleanup": {"database_dropped": True, "sessions": 2, "messages": 4},
    }
    assert project["db_name"] not in sql.databases()
    assert sql.count("projects", id=project["id"]) == 0
    for session in sessions:
        assert sql.count("messages", session_id=session["id"]) == 0
        check_problem(api.get(f"/sessions/{session['id']}"), 404)
    assert len(api.messages(kept["id"])) == 2
    assert bystander["db_name"] in sql.databases()
    check_problem(delete(api, project["id"]), 404, "not_found")
    user = api.user["id"]
    assert audit(sql, project["id"]) == [("deleted", user), ("not found", user)]
    assert api.project(project["name"])["id"] != project["id"], "the name is free again"


def test_a_forced_deletion_says_so(api: Api, sql: Sql) -> None:
    """The security warning stands in the answer, in the audit trail and in the log."""
    project = api.project()
    body = delete(api, project["id"], "?force=true").json()
    warning = f"FORCE deletion requested for project {project['id']}"
    assert body["warning"] == warning
    assert body["cleanup"]["database_dropped"] is True
    rows = sql.rows("SELECT detail FROM audit_log WHERE detail LIKE %s", f"{warning}%")
    assert len(rows) == 1
    lines = [line for line in api.service.log_lines() if warning in line["event"]]
    assert [line["level"] for line in lines] == ["WARNING"]
    assert project["db_name"] not in sql.databases()


def test_a_name_that_does_not_match_is_refused_unless_forced(api: Api, sql: Sql) -> None:
    """Rows of older versions: 400 with the seed's body; force goes on and says why it was asked."""
    project, stray = api.project(), f"{new_name()}_db"
    sql.update("projects", project["id"], db_name=stray)
    reason = (
        f"Database name '{stray}' doesn't match expected pattern '{project['db_name']}' "
        f"for project '{project['name']}'"
    )
    for query in ("", "?force=false"):
        body = check_problem(delete(api, project["id"], query), 400)
        assert body["success"] is False
        assert body["error"] == reason
        assert body["database"] == stray
        assert body["force_required"] is True
    assert api.get(f"/projects/{project['id']}").status_code == 200
    body = delete(api, project["id"], "?force=true").json()
    assert body["cleanup"]["database_dropped"] is False
    assert reason in body["warning"]
    assert f"FORCE deletion requested for project {project['id']}" in body["warning"]
    assert project["db_name"] in sql.databases(), "what the row didn't name is not dropped"
    sql.drop_database(project["db_name"])
    user = api.user["id"]
    assert audit(sql, project["id"]) == [("refused", user)] * 2 + [("deleted", user)]


def hostile_names(sql: Sql) -> dict[str, str]:
    """Names that a row must never get dropped, and what the answer says of each."""
    master = (
        "Cannot delete master database '{}'. Master database is protected from deletion.".format
    )
    system = "Cannot delete system database '{}'.".format
    names = {name: system(name) for name in ("template0", "template1", "Template1", "pg_catalog")}
    masters = ("dreampilot", "DREAMPILOT", " dreampilot ", "postgres", "defaultdb", sql.master)
    return names | {name: master(name) for name in masters}


def test_protected_databases_are_never_deleted(api: Api, sql: Sql) -> None:
    """A row that names the master, whoever wrote it: 403 with and without force, for ever.

    This is the incident that the guard is for: a project's row pointed at the production master.
    """
    project, before = api.project(), sql.databases()
    for name, reason in hostile_names(sql).items():
        sql.update("projects", project["id"], db_name=name)
        for query in ("", "?force=true"):
            body = check_problem(delete(api, project["id"], query), 403)
            assert body["success"] is False
            assert (body["error"], body["database"]) == (reason, name)
            assert body["force_required"] is False
        assert sql.count("projects", id=project["id"], status="active") == 1
    assert sql.databases() == before
    user, attempts = api.user["id"], len(hostile_names(sql))
    assert (
        audit(sql, project["id"])
        == [
            ("refused", user),
            ("refused, though forced", user),
        ]
        * attempts
    )
    lines = logged(api, project["id"])
    assert len(lines) == 2 * attempts
    assert {line["level"] for line in lines} == {"CRITICAL"}
    sql.update("projects", project["id"], db_name=project["db_name"])
    assert delete(api, project["id"]).status_code == 200


def test_what_is_no_project_database_is_never_deleted(api: Api, sql: Sql) -> None:
    """A malformed name is a hard refusal: quoting and cutting are left to no driver."""
    project, too_long = api.project(), "x" * 61 + "_db"
    names = ["", '"dreampilot"', "dreampilot;", "a b_db", too_long, "../master", "A_db", "a-b_db"]
    for name in names:
        sql.update("projects", project["id"], db_name=name)
        for query in ("", "?force=true"):
            body = check_problem(delete(api, project["id"], query), 403)
            assert body["force_required"] is False
            assert body["database"] == name
    assert sql.count("projects", id=project["id"], status="active") == 1


def test_a_database_made_anew_behind_us_is_not_ours(api: Api, sql: Sql) -> None:
    """PostgreSQL's comment says whose a database is; on SQLite the name and the path do."""
    project = api.project()
    sql.drop_database(project["db_name"])
    sql.make_database(project["db_name"])
    if not sql.postgres:
        assert delete(api, project["id"]).json()["cleanup"]["database_dropped"] is True
        return
    for query in ("", "?force=true"):
        body = check_problem(delete(api, project["id"], query), 403)
        assert body["force_required"] is False
    assert project["db_name"] in sql.databases()
    assert api.get(f"/projects/{project['id']}").status_code == 200
    sql.drop_database(project["db_name"])
    assert delete(api, project["id"]).status_code == 200


def test_another_projects_database_is_not_deleted(api: Api, sql: Sql) -> None:
    """Forced, with a row that names it: the other project keeps its database."""
    project, other = api.project(), sign_up(api.service).project()
    sql.update("projects", other["id"], db_name=f"{new_name()}_db")
    sql.update("projects", project["id"], db_name=other["db_name"])
    check_problem(delete(api, project["id"]), 400)
    if sql.postgres:
        body = check_problem(delete(api, project["id"], "?force=true"), 403)
        assert body["force_required"] is False
        assert other["db_name"] in sql.databases()
    assert sql.count("projects", id=project["id"], status="active") == 1


def test_a_missing_database_is_no_obstacle(api: Api, sql: Sql) -> None:
    """Whoever dropped it by hand can still get rid of the project, without force."""
    project = api.project()
    sql.drop_database(project["db_name"])
    answer = api.get(f"/projects/{project['id']}/database")
    check_problem(answer, 404, "database_missing")
    body = delete(api, project["id"]).json()
    assert body["cleanup"] == {"database_dropped": False, "sessions": 0, "messages": 0}
    assert body["warning"] == f"Database '{project['db_name']}' was already missing"


def test_a_database_in_use_needs_force(api: Api, sql: Sql) -> None:
    """409 at once (PostgreSQL itself would wait five seconds), the project lives on; then force."""
    project = api.project()
    with sql.using(project["db_name"]):
        started = time.monotonic()
        body = check_problem(delete(api, project["id"]), 409)
        assert time.monotonic() - started < 1
        assert body["force_required"] is True
        assert body["database"] == project["db_name"]
        assert api.get(f"/projects/{project['id']}").status_code == 200
        assert project["db_name"] in sql.databases()
        forced = delete(api, project["id"], "?force=true")
        assert forced.status_code == 200
        assert "FORCE" in forced.json()["warning"]
    assert project["db_name"] not in sql.databases()
    user = api.user["id"]
    assert audit(sql, project["id"]) == [("refused", user), ("deleted", user)]
    assert len(logged(api, project["id"])) == 2


def test_a_superuser_in_the_database_is_not_sent_away(
    api: Api, sql: Sql, postgres_server: postgres.Server
) -> None:
    """The role may not end that connection: 409, also forced, and the project is back at once."""
    if not sql.postgres:
        return
    project = api.project()
    with closing(postgres_server.connect(project["db_name"])):
        for query in ("", "?force=true"):
            started = time.monotonic()
            body = check_problem(delete(api, project["id"], query), 409, "database_in_use")
            assert time.monotonic() - started < 1
            assert body["database"] == project["db_name"]
            assert api.get(f"/projects/{project['id']}/database").status_code == 200
    assert delete(api, project["id"], "?force=true").status_code == 200


@pytest.mark.parametrize("database_there", [True, False])
def test_an_interrupted_deletion_is_finished_by_the_same_request(
    api: Api, sql: Sql, database_there: bool
) -> None:
    """A crash leaves the row `deleting`, before or after the drop: invisible, yet deletable."""
    project = api.project()
    session = api.session(project["id"])
    sql.update("projects", project["id"], status="deleting")
    if not database_there:
        sql.drop_database(project["db_name"])
    for path in (f"/projects/{project['id']}", f"/sessions/{session['id']}"):
        check_problem(api.get(path), 404)
    check_problem(api.chat(session["id"], "Hello"), 404)
    assert api.get("/projects").json()["items"] == []
    answer = delete(api, project["id"])
    assert answer.status_code == 200
    assert answer.json()["cleanup"]["database_dropped"] is database_there
    assert project["db_name"] not in sql.databases()
    assert sql.count("projects", id=project["id"]) == 0


@pytest.mark.parametrize("word", ["force", "purge"])
def test_force_is_true_or_false(api: Api, sql: Sql, word: str) -> None:
    """pydantic takes `1`, `yes`, `t` for true: a word that overrides a guard has one spelling.

    And so has one that keeps nothing.
    """
    name = new_name()
    project = sql.insert("projects", user_id=api.user["id"], name=name, db_name=f"{name}_db")
    for value in ("1", "yes", "on", "t", "TRUE", "True", "", "true ", "0", "null", "true\0"):
        check_problem(api.delete(f"/projects/{project}", params={word: value}), 422)
    assert api.get(f"/projects/{project}").status_code == 200


@pytest.mark.parametrize(
    "query",
    ["?force=false&force=true", "?force=true&force=true", "?purge=false&purge=true"],
)
def test_force_is_said_once(api: Api, query: str) -> None:
    """The last one would win, unseen by a proxy that reads the first."""
    project = api.project()
    check_problem(delete(api, project["id"], query), 422)
    assert delete(api, project["id"]).status_code == 200


def test_force_in_capitals_forces_nothing(api: Api, sql: Sql) -> None:
    """An unknown parameter is no permission."""
    project = api.project()
    sql.update("projects", project["id"], db_name=f"{new_name()}_db")
    check_problem(delete(api, project["id"], "?FORCE=true"), 400)
