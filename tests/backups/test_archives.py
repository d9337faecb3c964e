"""A backup that was damaged or tampered with: refused with a clear word, nothing is touched."""

import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from server.backups import archive, digests, state
from server.backups.manifest import Damaged
from tests.backups.archives import change_manifest, opened, packed
from tests.backups.place import Place


@pytest.fixture(scope="session", params=["sqlite"])
def backend(request: pytest.FixtureRequest) -> str:
    """The file is the same on both databases."""
    return str(request.param)


def cut(path: Path) -> None:
    """As a copy that broke off leaves it."""
    path.write_bytes(path.read_bytes()[:-200])


def flipped(path: Path) -> None:
    """One bit, somewhere."""
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 16
    path.write_bytes(content)


def flipped_at_the_end(path: Path) -> None:
    """In the checksum, behind all files."""
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)


def exchanged(path: Path) -> None:
    """A file that isn't the manifest's."""
    members = opened(path)
    members["project-1.sqlite3"] = members["project-1.sqlite3"][:-1] + b"x"
    packed(path, members)


def other_rows(path: Path) -> None:
    """A whole file, with its right checksum, and other rows than the manifest says."""
    members = opened(path)
    change_manifest(members, lambda one: one["databases"][0]["tables"].update(users="2 x id"))
    packed(path, members)


def lacking(path: Path) -> None:
    """A file less."""
    members = opened(path)
    del members["project-2.sqlite3"]
    packed(path, members)


def traversal(path: Path) -> None:
    """A file more, which would go elsewhere."""
    packed(path, {**opened(path), "../evil": b"evil"})


def traversal_in_the_manifest(path: Path) -> None:
    """The same, and the manifest has it."""
    members = opened(path)
    members["../evil"] = members.pop("project-2.sqlite3")
    change_manifest(members, lambda one: one["databases"][2].update(file="../evil"))
    packed(path, members)


def traversal_in_the_database(path: Path) -> None:
    """A project whose database would go elsewhere."""
    members = opened(path)
    change_manifest(members, lambda one: one["databases"][2].update(name="../evil_db"))
    packed(path, members)


def the_master_as_a_project(path: Path) -> None:
    """A project whose database would take the master's place."""
    members = opened(path)
    change_manifest(members, lambda one: one["databases"][2].update(name="dreampilot"))
    packed(path, members)


def linked(path: Path) -> None:
    """A link in the place of a file."""
    members = opened(path)
    members["project-2.sqlite3"] = b""
    packed(path, members, {"project-2.sqlite3": tarfile.SYMTYPE})


def nothing_of_ours(path: Path) -> None:
    """Somebody else's archive."""
    packed(path, {"notes.txt": b"hello"})


def no_archive(path: Path) -> None:
    """No archive at all."""
    path.write_bytes(b"hello" * 1000)


def tree(place: Place) -> dict[str, object]:
    """All files that there are, with their content: SQLite's logs are their databases'."""
    top = place.folder.parent
    return {
        str(path.relative_to(top)): content(path)
        for path in sorted(top.rglob("*"))
        if path.is_file() and not path.name.endswith((state.VERIFIED, "-wal", "-shm"))
    }


def content(path: Path) -> object:
    """What a file holds."""
    if ".tar" in path.name:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return digests.of_sqlite(path)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (cut, "is damaged"),
        (flipped, "is damaged"),
        (flipped_at_the_end, "CRC check failed"),
        (exchanged, "project-1.sqlite3 in it was changed"),
        (other_rows, "master comes out different: users"),
        (lacking, "it lacks project-2.sqlite3"),
        (traversal, "'../evil' in it isn't what its manifest says"),
        (traversal_in_the_manifest, "'../evil' is no file of a backup"),
        (traversal_in_the_database, "'../evil_db' is no project's database"),
        (the_master_as_a_project, "'dreampilot' is no project's database"),
        (linked, "'project-2.sqlite3' in it isn't what its manifest says"),
        (nothing_of_ours, "doesn't begin with a manifest"),
        (no_archive, "is damaged"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_spoilt_backup(place: Place, spoil: Callable[[Path], None], word: str) -> None:
    """Whatever is wrong with it, what is there stays as it is, and verify says what it is."""
    path = place.backup()
    spoil(path)
    before = tree(place)
    done = place.clawd("restore", path.name)
    assert (done.code, tree(place)) == (1, before), done
    assert word in done.found["error"]
    done = place.clawd("backup", "verify")
    assert (done.code, tree(place)) == (1, before), done
    assert word in done.found["problem"]


def test_any_byte_counts(place: Place, tmp_path: Path) -> None:
    """Wherever a bit is flipped, it is noticed, or it is one that deflate itself leaves unused.

    Before the end of a block there may be up to seven such bits (RFC 1951, 3.2.4).
    """
    path = place.backup()
    content = path.read_bytes()
    whole = unpacked(path, tmp_path / "whole")
    noticed, numbers = 0, range(10, len(content), len(content) // 60)  # before is gzip's own time
    for number in numbers:
        path.write_bytes(content[:number] + bytes([content[number] ^ 4]) + content[number + 1 :])
        try:
            assert unpacked(path, tmp_path / str(number)) == whole
        except Damaged:
            noticed += 1
    assert noticed >= len(numbers) - 2


def unpacked(path: Path, target: Path) -> dict[str, bytes]:
    """All files in it."""
    target.mkdir()
    unpack(path, target)
    return {file.name: file.read_bytes() for file in target.iterdir()}


def unpack(path: Path, target: Path) -> None:
    """Unpack it all."""
    archive.unpack(path, lambda entry: target / entry.file, lambda count: None)


def test_a_backup_of_the_other_database(place: Place) -> None:
    """It isn't damaged, only no answer to these settings."""
    path = place.backup()
    settings = {"USE_POSTGRES": "true", "DB_PASSWORD": "x"}
    done = place.clawd("restore", path.name, **settings)
    assert done.code == 2
    assert "migrate_to_postgres.py" in done.found["error"]


def test_a_backup_of_a_newer_version(place: Place) -> None:
    """A master that this code doesn't know is never put where this code is to serve it."""
    path = place.backup()
    members = opened(path)
    change_manifest(members, lambda one: one["steps"].append(["9999_future", "x"]))
    packed(path, members)
    done = place.clawd("restore", path.name)
    assert done.code == 2
    assert "newer than this version" in done.found["error"]
