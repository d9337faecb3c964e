"""Which backups stay, and what is known of them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from server.backups import state
from server.settings import Settings
from tests.backups.place import Place


def old(place: Place, days: int) -> str:
    """A backup's file of some days ago; its content is not looked at."""
    name = state.file_name("sqlite", datetime.now(UTC) - timedelta(days=days))
    (place.folder / name).write_bytes(b"old")
    return name


def test_the_oldest_go(place: Place) -> None:
    """Beyond BACKUP_KEEP, once a new one is there; other people's files stay."""
    place.folder.mkdir()
    names = [old(place, days) for days in (4, 3, 2, 1)]
    (place.folder / "clawd-mine.tar.gz").write_text("mine")
    (place.folder / "migration-1").mkdir()
    done = place.clawd("backup", BACKUP_KEEP="3")
    assert done.found["removed"] == names[:2]
    assert place.names == [*names[2:], Path(done.found["file"]).name]
    assert place.work_left() == ["clawd-mine.tar.gz", "migration-1"]


def test_the_one_that_was_found_good_stays(place: Place) -> None:
    """Who has one backup that surely works keeps it, however many are made after it."""
    good = place.backup().name
    assert place.clawd("backup", "verify").code == 0
    place.backup().write_bytes(b"spoilt")
    assert place.clawd("backup", "verify").code == 1
    last = place.backup(BACKUP_KEEP="1").name
    assert place.names == [good, last]


def test_what_others_are_told(place: Place) -> None:
    """Metrics and doctor: the newest backup, the last verification, None where there was none."""
    settings = Settings(backup_dir=place.folder)
    assert state.read(settings) == state.State(None, None)
    path = place.backup()
    assert path.stat().st_mode & 0o777 == 0o600
    assert place.folder.stat().st_mode & 0o777 == 0o700
    found = state.read(settings)
    assert found.newest
    assert found.newest.path == path
    assert abs(found.newest.at - datetime.now(UTC)) < timedelta(minutes=1)
    assert (found.newest.size, found.verified) == (path.stat().st_size, None)
    assert place.clawd("backup", "verify").code == 0
    verified = state.read(settings).verified
    assert verified
    assert (verified.file, verified.ok, verified.problem) == (path.name, True, "")
    listed = place.clawd("backup", "list").found
    assert [(one["file"], one["verified"]) for one in listed["backups"]] == [
        (path.name, "verified")
    ]


def test_without_a_backup(empty: Place) -> None:
    """There is nothing to list, verify or restore, and nothing yet to back up: each says so."""
    assert empty.clawd("backup", "list").found["backups"] == []
    done = empty.clawd("backup", "verify")
    assert (done.code, "./clawd backup makes one" in done.found["error"]) == (2, True)
    done = empty.clawd("restore", "clawd-x.tar.gz")
    assert (done.code, "there is no clawd-x.tar.gz" in done.found["error"]) == (2, True)
    assert empty.clawd("backup").code == 2
    assert empty.names == []
