"""The files of an export: JSON as it was downloaded, or a ZIP with images in it."""

import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, TextIO

from server.errors import Problem
from server.images import checks
from server.importing.conversation import NoImage, Unreadable
from server.importing.reading import values

# In ChatGPT's ZIP; large ones are split into conversations-000.json and so on.
_CONVERSATIONS = re.compile(r"(?:.*/)?conversations(?:-\d+)?\.json")
# `file-service://file-abc` stands for a file `file-abc-photo.png`, `sediment://file_00ab` for
# `file_00ab-sanitized.png` or `file_00ab.dat`, in whatever folder.
_FILE_ID = re.compile(r"file(?:-[A-Za-z0-9]+|_[A-Za-z0-9]+)")
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class _Found:
    """A file that may be an image."""

    size: int
    open: Callable[[], IO[bytes]]


class Export:
    """An opened export: its values, and the images that belong to it."""

    def __init__(self, texts: list[Callable[[], IO[bytes]]], images: dict[str, _Found]) -> None:
        self._texts = texts
        self._images = images

    def values(self) -> Iterator[tuple[Any, int]]:
        """The values of all texts, each with the number of bytes that have been read by then.

        Raises `Unreadable`, after the values that came before the break.
        """
        before = read = 0
        for text in self._texts:
            with _readable(), text() as raw, _decoded(raw) as stream:
                for value in values(stream):
                    read = before + raw.tell()
                    yield value, read
            before = read

    def has(self, pointer: str) -> bool:
        """Whether the file that an asset pointer names is there."""
        return _file_id(pointer) in self._images

    def read_image(self, pointer: str) -> checks.Image:
        """The image that an asset pointer names; raises `NoImage`."""
        found = self._images[_file_id(pointer)]
        try:
            if found.size > checks.MAX_BYTES:
                raise NoImage(f"image {pointer} has more than 10 MB")
            with found.open() as file:
                return checks.check(file.read(checks.MAX_BYTES + 1))
        except Problem as problem:
            raise NoImage(f"image {pointer} was refused: {problem.detail}") from problem
        except (OSError, *_ZIP_ERRORS) as error:
            raise NoImage(f"image {pointer} can't be read: {error}") from error


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def _decoded(raw: IO[bytes]) -> TextIO:
    """The text, with a lone surrogate for each byte that is no UTF-8."""
    return io.TextIOWrapper(raw, "utf-8-sig", "surrogateescape")


def _file_id(pointer: str) -> str:
    match = _FILE_ID.match(pointer.rpartition("//")[2])
    return match[0] if match else ""


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (OSError, *_ZIP_ERRORS) as error:
        raise Unreadable(str(error)) from error


@contextmanager
def opened(path: Path) -> Iterator[Export]:
    """The export in the file; raises `Unreadable`."""
    with ExitStack() as stack:
        with _readable():
            if zipfile.is_zipfile(path):
                export = _zipped(stack.enter_context(zipfile.ZipFile(path)))
            else:
                export = Export([partial(_open, path)], _beside(path))
        yield export


def _zipped(archive: zipfile.ZipFile) -> Export:
    names = sorted(name for name in archive.namelist() if name.endswith(".json"))
    chats = [name for name in names if _CONVERSATIONS.fullmatch(name)] or names
    if not chats:
        raise Unreadable("there is no JSON file in it")
    images = {
        match[0]: _Found(info.file_size, partial(archive.open, info.filename))
        for info in archive.infolist()
        if (match := _FILE_ID.match(info.filename.rpartition("/")[2]))
    }
    return Export([partial(archive.open, name) for name in chats], images)


def _beside(path: Path) -> dict[str, _Found]:
    """What lies beside ChatGPT's conversations where its ZIP was unpacked."""
    if not _CONVERSATIONS.fullmatch(path.name):
        return {}
    files = [*path.parent.glob("file[-_]*"), *path.parent.glob("*/file[-_]*")]
    return {
        match[0]: _Found(file.stat().st_size, partial(_open, file))
        for file in files
        if file.is_file() and (match := _FILE_ID.match(file.name))
    }
