"""Backups taken apart, and put together otherwise."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

from server.backups import archive
from tests.service import Json

Members = dict[str, bytes]


def opened(path: Path) -> Members:
    """What the archive holds."""
    with tarfile.open(path) as tar:
        found = {}
        for member in tar:
            file = tar.extractfile(member)
            found[member.name] = file.read() if file else b""
    return found


def packed(path: Path, members: Members, kinds: dict[str, bytes] | None = None) -> None:
    """Make the archive of these."""
    with gzip.open(path, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), (kinds or {}).get(name, tarfile.REGTYPE)
            member.linkname = "/etc/passwd" if kinds and name in kinds else ""
            tar.addfile(member, io.BytesIO(content))


def change_manifest(members: Members, change: Callable[[Json], object]) -> None:
    """Change the manifest."""
    manifest = json.loads(members[archive.MANIFEST])
    change(manifest)
    members[archive.MANIFEST] = json.dumps(manifest).encode()
