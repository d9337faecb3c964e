"""kill -9 at any step of a backup or a restore: nothing is lost, and run again it works."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.backups import archive, postgres_scratch
from tests.backups.dying import Dying
from tests.backups.place import Place


@pytest.fixture
def dying(place: Place, tmp_path: Path) -> Iterator[Dying]:
    """Commands on the place that die."""
    with Dying(place.settings, str(tmp_path)) as made:
        yield made


def moments(place: Place, steps: int) -> list[int]:
    """Each step from the middle on; on PostgreSQL, where it costs a second, one within the swap."""
    if place.sql.postgres:
        return [steps // 3, steps - 6, steps]
    return [1, *range(steps // 2, steps + 1)]


def test_a_backup(place: Place, dying: Dying) -> None:
    """The old ones stay whole, and the next run removes what is left."""
    first = place.backup()
    content = first.read_bytes()
    whole = dying.run("backup")
    assert whole["code"] == 0
    for step in moments(place, whole["steps"]):
        assert dying.run("backup", stop=step)["code"] == "killed"
        assert first.read_bytes() == content
        assert archive.read_manifest(place.folder / place.names[-1]).problems == []
    last = place.backup()
    assert place.work_left() == []
    assert place.clawd("backup", "verify", last.name).code == 0


def test_a_restore(place: Place, dying: Dying) -> None:
    """The master is there at every moment: the old one or the new one, whole."""
    path = place.backup()
    new = place.holds()
    whole = dying.run("restore", path.name)
    assert whole["code"] == 0
    for step in moments(place, whole["steps"]):
        place.sql.rows("UPDATE messages SET content = %s WHERE id = 2", f"changed before {step}")
        old = place.holds()
        assert dying.run("restore", path.name, stop=step)["code"] == "killed"
        said = place.sql.value("SELECT content FROM messages WHERE id = 2")
        assert said in (f"changed before {step}", "Nr. 2 \\ \t ä")
        if is_whole(place):
            assert place.holds() in (old, new)
        else:
            assert not place.sql.postgres
            assert place.clawd("restore", path.name).code == 0
    assert place.clawd("restore", path.name).code == 0
    assert place.holds() == new
    assert scratch(place) == []


def is_whole(place: Place) -> bool:
    """Whether each project has its database."""
    named = {row["db_name"] for row in place.sql.rows("SELECT db_name FROM projects")}
    return named <= place.sql.databases()


def scratch(place: Place) -> list[str]:
    """What is left of restores that never came to their end."""
    if place.sql.postgres:
        mine = postgres_scratch.prefix(place.settings["DB_NAME"])
        found = place.sql.rows(
            "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", mine
        )
        return [row["datname"] for row in found]
    return [path.name for path in place.folder.parent.glob("*.restoring")]
