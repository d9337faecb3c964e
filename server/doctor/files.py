"""Checks of the files, and of the disks under them."""

import os
import re
import shlex
import stat
from collections.abc import Iterable
from pathlib import Path

from server.doctor.finding import Finding, problem, warning, well
from server.monitoring.measured import folders, measure_disk
from server.settings import Settings

MOUNTS = Path("/proc/self/mountinfo")
LITTLE, TOO_LITTLE = 10, 2  # percent
# Their locks, and the memory that processes share for a WAL file, don't reach other machines.
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|lustre|ocfs2|gfs2|gpfs|glusterfs|davfs|ncpfs"
    r"|fuse\.(?!fuse-overlayfs|mergerfs|ntfs|bindfs|lxcfs|gocryptfs|encfs).+"
)


def permissions(paths: Iterable[Path]) -> Finding:
    """Whether everybody on the machine can read, or write, what holds secrets."""
    looked_at = list(paths)
    open_ones = [path for path in looked_at if path.exists() and _is_open(path)]
    if not open_ones:
        return well(f"{len(looked_at)} files with secrets, none of them for everybody's eyes")
    names = ", ".join(map(str, open_ones))
    cure = f"chmod o= {' '.join(shlex.quote(str(path)) for path in open_ones)}"
    return problem(f"everybody on this machine can read {names}", cure)


def _is_open(path: Path) -> bool:
    """Whether the file is for everybody, and each folder on the way lets everybody through."""
    resolved = path.resolve()
    if not resolved.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        return False
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in resolved.parents)


def disks(settings: Settings) -> Finding:
    """How much room is left where the service writes."""
    places = dict(folders(settings))
    if not settings.postgres:
        places["projects"] = settings.project_databases
    free = {
        str(path): 100 * disk.free / disk.size
        for path, disk in ((path, measure_disk(name, path)) for name, path in places.items())
        if disk.size
    }
    least, percent = min(free.items(), key=lambda one: one[1])
    detail = f"{percent:.0f} % free under {least}"
    if percent >= LITTLE:
        return well(detail)
    cure = f"make room: du -xsh {shlex.quote(least)}/* shows what takes it"
    return (problem if percent < TOO_LITTLE else warning)(detail, cure)


def file_system(settings: Settings, mountinfo: str) -> Finding:
    """Whether SQLite's files lie where its locks hold; `mountinfo` is the list of mounts."""
    places = (settings.db_path.parent, settings.project_databases)
    kinds = {str(place): mounted_as(place, mountinfo) for place in places}
    for place, kind in kinds.items():
        if _NETWORK.fullmatch(kind):
            return problem(
                f"{place} is on a network file system ({kind}), on which SQLite loses data when "
                "two machines or processes write",
                "move DB_PATH and PROJECT_DB_DIR to a local disk, or use PostgreSQL: "
                "python3 migrate_to_postgres.py",
            )
    return well(f"SQLite's files are on a local one ({', '.join(dict.fromkeys(kinds.values()))})")


def mounted_as(path: Path, mountinfo: str) -> str:
    """The type of the file system that the path is on, as proc(5) has it; `unknown` if not there.

    Of several mounts on one place the last is the one that is seen.
    """
    real = os.path.realpath(path)
    best, kind = -1, "unknown"
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = _unescaped(fields[4]).rstrip("/")
        if (real == point or real.startswith(f"{point}/")) and len(point) >= best:
            best, kind = len(point), after.split(" ")[0]
    return kind


def _unescaped(text: str) -> str:
    """Blanks and the like stand in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
