"""What a crash left half done is finished at the next start."""

import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import fresh_master
from tests.service import Service, sign_up
from tests.sql import Sql


def test_a_restart_mends_what_a_crash_left(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Never a dropped database with a living project, never an orphan: kill -9, then start anew.

    A row that names the master, of all databases, is removed; the master stays.
    """
    settings = fresh_master(backend, request, tmp_path) | {"AUTH_RATE_LIMIT": "off"}
    sql = Sql(settings)
    with Service(settings, tmp_path) as service:
        api = sign_up(service)
        names = ("creating", "deleting", "creating-no-db", "deleting-no-db", "hostile", "alive")
        projects = {name: api.project(name) for name in names}
        service.kill()
        for name in names[:-1]:
            status = "creating" if name.startswith("creating") else "deleting"
            sql.update("projects", projects[name]["id"], status=status)
            if name.endswith("no-db"):
                sql.drop_database(projects[name]["db_name"])
        sql.update("projects", projects["hostile"]["id"], db_name=sql.master)
        service.start()
        service.wait_until_up()
        deadline = time.monotonic() + 10
        while sql.count("projects") > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert sql.rows("SELECT name, status FROM projects") == [
            {"name": "alive", "status": "active"}
        ]
        left = sql.databases()
        assert projects["alive"]["db_name"] in left
        for name in names[:4]:
            assert projects[name]["db_name"] not in left
        assert projects["hostile"]["db_name"] in left
        me = httpx.get(f"{service.url}/auth/me", headers={"Authorization": f"Bearer {api.token}"})
        assert me.status_code == 200, "the master is there, with its users"
        audited = sql.rows("SELECT detail FROM audit_log WHERE action = 'project.delete'")
        assert len(audited) == 5
        assert {row["detail"] for row in audited} == {"Was left creating", "Was left deleting"}
