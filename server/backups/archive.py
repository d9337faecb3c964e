"""The file of a backup: a compressed tar, the manifest first, then a file for each database."""

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from server.backups import manifest as manifests
from server.backups.manifest import Damaged, Entry, Manifest
from server.migration.sqlite_files import sync

MANIFEST = "manifest.json"
BLOCK = 1 << 20
LARGEST_MANIFEST = 1 << 28

# Takes the number of bytes that have gone by.
Progress = Callable[[int], None]
# Where an entry is to be unpacked.
Place = Callable[[Entry], Path]


def write(path: Path, manifest: Manifest, folder: Path, level: int, progress: Progress) -> None:
    """Pack the manifest's files, each removed once it is in; the path is whole or not there."""
    part = path.with_name(f"{path.name}.part")
    with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as raw:
        with (
            gzip.GzipFile("", "wb", level, raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            text = manifests.to_json(manifest)
            tar.addfile(_member(MANIFEST, len(text)), io.BytesIO(text))
            for entry in manifest.databases:
                with (folder / entry.file).open("rb") as file:
                    tar.addfile(_member(entry.file, entry.size), _Counting(file, progress))
                (folder / entry.file).unlink()
        raw.flush()
        os.fsync(raw.fileno())
    part.rename(path)
    sync(path.parent)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


class _Counting(io.RawIOBase):
    """A file that tells how much of it was read."""

    def __init__(self, file: IO[bytes], progress: Progress) -> None:
        self._file, self._progress = file, progress

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self._file.read(size)
        self._progress(len(data))
        return data


def read_manifest(path: Path) -> Manifest:
    """What the backup says of itself; the rest of it isn't looked at."""
    with _reading(path) as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
        return _manifest(tar)


def unpack(path: Path, place: Place, progress: Progress) -> Manifest:
    """Unpack what the manifest names, each file as it was when it was packed.

    Raises `Damaged` for a backup that lacks something, has something else, or was changed. Where
    a file goes is the caller's choice, whatever it is called in the archive.
    """
    with _reading(path) as packed:
        with tarfile.open(fileobj=packed, mode="r|") as tar:
            manifest = _manifest(tar)
            missing = {entry.file: entry for entry in manifest.databases}
            while member := tar.next():
                entry = missing.pop(member.name, None)
                if entry is None or not member.isreg() or member.size != entry.size:
                    raise Damaged(f"{member.name!r} in it isn't what its manifest says")
                _extract(tar, member, place(entry), entry, progress)
        if missing:
            raise Damaged(f"it lacks {', '.join(missing)}")
        while packed.read(BLOCK):
            pass  # to the checksum at its end
    return manifest


@contextmanager
def _reading(path: Path) -> Iterator[gzip.GzipFile]:
    try:
        with gzip.open(path) as packed:
            yield packed
    except Damaged as error:
        raise Damaged(f"{path.name} is damaged: {error}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        raise Damaged(f"{path.name} is damaged: {error}") from error


def _manifest(tar: tarfile.TarFile) -> Manifest:
    member = tar.next()
    file = tar.extractfile(member) if member and member.isreg() else None
    if member is None or file is None or member.name != MANIFEST:
        raise Damaged("it doesn't begin with a manifest")
    if member.size > LARGEST_MANIFEST:
        raise Damaged("its manifest is too large")
    return manifests.from_json(file.read())


def _extract(
    tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, entry: Entry, progress: Progress
) -> None:
    content = tar.extractfile(member)
    found = hashlib.sha256()
    with (
        content or io.BytesIO() as file,
        os.fdopen(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as copy,
    ):
        while block := file.read(BLOCK):
            found.update(block)
            copy.write(block)
            progress(len(block))
        copy.flush()
        os.fsync(copy.fileno())
    if found.hexdigest() != entry.sha256:
        raise Damaged(f"{entry.file} in it was changed")


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
