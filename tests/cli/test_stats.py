"""`./clawd stats`."""

from datetime import UTC, datetime, timedelta

import pytest

from server.cli import queries
from tests.cli.conftest import Cli
from tests.conftest import fresh_master
from tests.images.samples import png, png_url
from tests.service import Service, sign_up
from tests.sql import Sql


def test_it_counts_what_there_is(cli: Cli, service: Service) -> None:
    """Exactly, and the messages of the last days by their times."""
    before = cli.run(service.settings, "stats", "--json").json
    api = sign_up(service)
    session = api.session()["id"]
    assert api.chat(session, "Look!", images=[png_url()]).status_code == 200
    first = api.messages(session)[0]["id"]
    Sql(service.settings).update(
        "messages", first, created_at=datetime.now(UTC) - timedelta(days=3)
    )
    done = cli.run(service.settings, "stats", "--json")
    assert done.code == 0
    after = done.json
    grown = {
        name: after[name] - before[name]
        for name in after
        if isinstance(after[name], int) and after[name] != before[name]
    }
    assert grown == {
        "users": 1,
        "projects": 1,
        "sessions": 1,
        "messages": 2,
        "messages_1_day": 1,
        "messages_7_days": 2,
        "images": 1,
        "images_bytes": len(png()),
    }
    assert (after["estimated"], after["pool"]["max"]) == ([], 20)
    sizes = after["sizes"]
    assert sizes["number"] == before["sizes"]["number"] + 1
    assert 0 < len(sizes["largest"]) <= 5
    assert sizes["largest"] == sorted(sizes["largest"], key=lambda one: -one[1])
    assert sum(size for _, size in sizes["largest"]) <= sizes["projects"]
    text = cli.run(service.settings, "stats").out
    assert f"messages                  {after['messages']:,}\n" in text
    assert f"  of the last day         {after['messages_1_day']:,}\n" in text


def test_large_tables_are_not_read(
    cli: Cli, service: Service, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count of millions of rows under load: PostgreSQL's statistics know them well enough.

    Messages have no index by time, so that the last days would read them all.
    """
    sign_up(service).session()
    sql = Sql(service.settings)
    if backend == "postgresql":
        sql.rows("ANALYZE users")
    monkeypatch.setattr(queries, "COUNTED", 0)
    monkeypatch.setattr(queries, "LOOKED_THROUGH", -1)
    found = cli.run(service.settings, "stats", "--json").json
    assert "messages_1_day" not in found
    assert ("users" in found["estimated"]) is (backend == "postgresql")
    assert found["users"] == sql.count("users")
    text = cli.run(service.settings, "stats").out
    assert ("~" in text) is (backend == "postgresql")
    assert "of the last day" not in text


def test_no_file_is_made(
    cli: Cli, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A mistyped DB_PATH is no database of nobody's."""
    folder = tmp_path_factory.mktemp("nothing")
    done = cli.run(fresh_master("sqlite", request, folder), "stats")
    assert (done.code, list(folder.iterdir())) == (2, [])
