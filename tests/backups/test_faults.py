"""A backup that is disturbed: a full disk, a second run, programs that aren't there."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from server.backups import postgres_scratch, tools
from server.backups.manifest import Impossible
from server.settings import Settings
from tests import postgres
from tests.backups.place import Place
from tests.faults.sqlite_files import small_disk
from tests.service import ROOT, environment

WRITE = """
import sys, psycopg2
if sys.argv[1] != "--version":
    with psycopg2.connect(
        host="{DB_HOST}", port={DB_PORT}, dbname="{DB_NAME}", user="{DB_USER}",
        password="{DB_PASSWORD}",
    ) as conn:
        conn.cursor().execute(
            "INSERT INTO audit_log (at, action, target, outcome) VALUES (now(), 'a', 't', 'o')"
        )
"""
STUB = """#!/bin/sh
echo "{program} (PostgreSQL) {version}"
"""
SPY = """#!/bin/sh
echo "$0 $*" >>{log}
{before}
exec {real} "$@"
"""


def test_a_full_disk(place: Place, tmp_path: Path) -> None:
    """One line that says so, nothing half made, and the old backups as they were."""
    image = {"user_id": 1, "message_id": 1, "media_type": "image/png", "size_bytes": 1_500_000}
    place.sql.insert("images", id=2, data=os.urandom(1_500_000), **image)
    with small_disk(tmp_path / "disk", "1m") as small:
        settings = {**place.settings, "BACKUP_DIR": str(small.mount / "backups")}
        (small.disk.root / "backups").mkdir(mode=0o700)
        old = small.disk.root / "backups" / "clawd-sqlite-20200101T000000Z.tar.gz"
        old.write_bytes(b"old")
        done = subprocess.run(
            [*small.within, sys.executable, "-m", "server.cli", "backup", "--json"],
            cwd=ROOT,
            env=environment(settings),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 4, done
        assert json.loads(done.stdout)["error"].startswith("no room on the disk")
        assert [path.name for path in old.parent.iterdir()] == [old.name]
        assert old.read_bytes() == b"old"


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Somebody else's run."""
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def test_two_at_once(place: Place) -> None:
    """The second says that there is one, and does nothing."""
    path = place.backup()
    with at_work(place.folder):
        for words in (["backup"], ["backup", "verify"], ["restore", path.name]):
            done = place.clawd(*words)
            assert done.code == 3
            assert "another backup, restore or verify" in done.found["error"]
    assert place.names == [path.name]


def make_stubs(folder: Path, version: str) -> Path:
    """Both programs in a version."""
    folder.mkdir(parents=True)
    for program in ("pg_dump", "pg_restore"):
        path = folder / program
        path.write_text(STUB.format(program=program, version=version))
        path.chmod(0o755)
    return folder


def test_the_lowest_version_that_is_not_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_dump refuses a newer server, and a newer pg_restore says what an older server can't."""
    other = make_stubs(tmp_path / "99", "99.1 (Debian 99.1-1)")
    monkeypatch.setenv("PATH", str(make_stubs(tmp_path / "98", "98.4")), prepend=os.pathsep)
    settings = Settings(pg_bin_dir=None)
    assert tools.find(settings, 97, {}).folder == tmp_path / "98"
    with pytest.raises(Impossible, match="apt install postgresql-client-99"):
        tools.find(settings, 99, {})
    assert tools.find(Settings(pg_bin_dir=other), 99, {}).folder == other
    (other / "pg_restore").unlink()
    with pytest.raises(Impossible, match="pg_dump and pg_restore"):
        tools.find(Settings(pg_bin_dir=other), 99, {})


def make_spies(folder: Path, binaries: str, before: str = "") -> dict[str, str]:
    """The programs themselves, with a log of how they were called, and a command before."""
    folder.mkdir()
    for program in ("pg_dump", "pg_restore"):
        path = folder / program
        real = Path(binaries) / program
        path.write_text(SPY.format(log=folder / "log", before=before, real=real))
        path.chmod(0o755)
    return {"PG_BIN_DIR": str(folder)}


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_no_password_on_a_command_line(place: Place, tmp_path: Path, binaries: str) -> None:
    """Whoever lists the processes of the machine reads none."""
    spies = make_spies(tmp_path / "spies", binaries)
    place.backup(**spies)
    assert place.clawd("backup", "verify", **spies).code == 0
    said = (tmp_path / "spies" / "log").read_text()
    assert "pg_dump" in said
    assert "pg_restore" in said
    assert place.settings["DB_PASSWORD"] not in said


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_digests_are_of_what_is_dumped(place: Place, tmp_path: Path, binaries: str) -> None:
    """Both see one snapshot, whatever is written between: else backups in use never verify."""
    path = tmp_path / "write.py"
    path.write_text(WRITE.format(**place.settings))
    spies = make_spies(tmp_path / "spies", binaries, f'{sys.executable} {path} "$1"')
    before = place.sql.count("audit_log")
    place.backup(**spies)
    assert place.sql.count("audit_log") > before
    assert place.clawd("backup", "verify", **spies).code == 0


def test_what_can_not_be_in_it(place: Place) -> None:
    """One project's trouble costs nobody else a backup; it is named, and the exit code says so."""
    lost, good = (row["db_name"] for row in place.sql.rows("SELECT db_name FROM projects"))
    place.sql.drop_database(lost)
    done = place.clawd("backup")
    assert done.code == 1
    assert done.found["problems"] == [f"{lost} isn't there, or isn't the project's"]
    assert [one["name"] for one in done.found["databases"]][1:] == [good]
    assert place.clawd("backup", "verify").code == 0


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_scratch_databases_of_a_killed_verify(
    place: Place, postgres_server: postgres.Server
) -> None:
    """The next one removes them; those of one that still runs stay."""
    dead, alive = (
        f"{postgres_scratch.prefix(place.settings['DB_NAME'])}{name}" for name in ("dead", "alive")
    )
    role = place.settings["DB_USER"]
    with closing(postgres_server.connect()) as conn, conn.cursor() as cursor:
        for name in (dead, alive):
            cursor.execute(f"CREATE DATABASE {name} OWNER {role}")
        cursor.execute("SELECT pg_advisory_lock(hashtext(%s))", (alive,))
        place.backup()
        assert place.clawd("backup", "verify").code == 0
        mine = "SELECT datname FROM pg_database WHERE starts_with(datname, %s)"
        cursor.execute(mine, (postgres_scratch.prefix(place.settings["DB_NAME"]),))
        assert cursor.fetchall() == [(alive,)]
        cursor.execute(f"DROP DATABASE {alive}")
