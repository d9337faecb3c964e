"""A disk of a few megabytes for a PostgreSQL that shall fill it."""

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import postgres

# Ends with the tests, however they end, and then waits for the server before the disk goes.
HOLDER = """
mount -t tmpfs -o size="$1" none "$0" || exit
mkdir -m 0700 "$0/data" && chown "$2" "$0/data" && : >"$0/ballast" && echo mounted
cat >/dev/null
tries=0
while [ -e "$0/data/postmaster.pid" ] && [ $((tries += 1)) -lt 100 ]; do sleep 0.1; done
umount -l "$0"
"""
CURE = (
    "This test needs a disk of a limited size. Nobody needs to be root for that where user "
    "namespaces are allowed (unshare -rm true); else run the tests as root. On Ubuntu: "
    "sysctl kernel.apparmor_restrict_unprivileged_userns=0"
)


class Disk:
    """A disk in memory with a file on it that takes the room away."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fill(self, leave: int = 0) -> None:
        """Leave so many bytes free, or fewer."""
        with (self.root / "ballast").open("r+b") as file:
            while True:
                known = os.fstatvfs(file.fileno())
                size = os.fstat(file.fileno()).st_size + known.f_bavail * known.f_bsize - leave
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                except OSError as error:
                    # Somebody else took some of it meanwhile.
                    if error.errno != errno.ENOSPC:
                        raise
                else:
                    return

    def clear(self) -> None:
        """Give the room back."""
        os.truncate(self.root / "ballast", 0)


@contextmanager
def small_disk(server: postgres.Server, size: str) -> Iterator[Disk]:
    """Put the data directory of a server that was never started on a disk of `size`.

    Raises RuntimeError where this machine lets nobody make one.
    """
    mount = Path(tempfile.mkdtemp(prefix="disk-", dir=server.folder.parent))
    mount.chmod(0o777)
    holder, root = _hold(mount, size)
    try:
        server.data_dir.rmdir()
        server.data_dir.symlink_to(root / "data")
        yield Disk(root)
    finally:
        server.kill()
        holder.communicate()
        mount.rmdir()


def _hold(mount: Path, size: str) -> tuple[subprocess.Popen[bytes], Path]:
    """The process that keeps the disk, and where the disk is for us.

    PostgreSQL's user mounts it in a namespace of its own, into which only that user and root see;
    where there are no such namespaces root mounts it for all.
    """
    pipe = subprocess.PIPE
    script = "sh", "-c", HOLDER, str(mount), size
    holder = postgres.spawn("unshare", "-rm", *script, "0", stdin=pipe, output=pipe)
    if _mounted(holder):
        return holder, Path(f"/proc/{holder.pid}/root{mount}")
    owner = str(postgres.unprivileged().get("user", os.geteuid()))
    holder = subprocess.Popen([*script, owner], stdin=pipe, stdout=pipe, start_new_session=True)
    if _mounted(holder):
        return holder, mount
    raise RuntimeError(CURE)


def _mounted(holder: subprocess.Popen[bytes]) -> bool:
    assert holder.stdout is not None
    if holder.stdout.readline() == b"mounted\n":
        return True
    holder.communicate()
    return False
