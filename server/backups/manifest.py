"""What a backup says of itself: where it is from, which databases are in it, what they hold."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from server.backups import wanted

FORMAT = 1
PRODUCT = "clawd-backend"
_FILE = re.compile(r"(?:master|project-(?P<id>[1-9]\d{0,18}))\.(?:sqlite3|dump)", re.ASCII)

# By table: how many rows, what they are, which columns. Made by `digests`, compared as it stands.
Tables = dict[str, str]


class Damaged(Exception):
    """A backup, or what came out of it, isn't what it should be; one line."""


class Impossible(Exception):
    """Something that can't work, with what mends it; one line."""


@dataclass(frozen=True)
class Entry:
    """One database, the master where it has no project; `tables` is None where it can't be read.

    `encoding` is PostgreSQL's name of it, empty on SQLite.
    """

    name: str
    project_id: int | None
    file: str
    size: int
    sha256: str
    encoding: str
    tables: Tables | None


@dataclass(frozen=True)
class Manifest:
    """All of it. `schema` is the one that PostgreSQL's master has its tables in.

    `problems` are what could not be in it: nobody shall believe that it is.
    """

    backend: str
    version: str
    server: str
    at: str
    schema: str
    steps: list[tuple[str, str]]
    databases: list[Entry]
    problems: list[str] = field(default_factory=list)
    format: int = FORMAT
    product: str = PRODUCT

    @property
    def master(self) -> Entry:
        """The master's database."""
        return self.databases[0]

    @property
    def projects(self) -> list[Entry]:
        """The projects' databases."""
        return self.databases[1:]

    @property
    def size(self) -> int:
        """Bytes of all files together, unpacked."""
        return sum(entry.size for entry in self.databases)


_ADAPTER = TypeAdapter(Manifest)


def to_json(manifest: Manifest) -> bytes:
    """As it stands in the archive."""
    return _ADAPTER.dump_json(manifest, indent=2)


def from_json(text: bytes) -> Manifest:
    """Read it; raises `Damaged` for one that no backup of ours can have."""
    try:
        manifest = _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise Damaged(f"its manifest can't be read: {error.errors()[0]['msg']}") from error
    if manifest.product != PRODUCT:
        raise Damaged("it is no backup of this service")
    if manifest.format != FORMAT:
        raise Impossible(f"the backup has format {manifest.format}: update the service")
    if problem := next(_problems(manifest), ""):
        raise Damaged(f"its manifest is wrong: {problem}")
    return manifest


def _problems(manifest: Manifest) -> Iterator[str]:
    if not manifest.databases or manifest.master.project_id is not None:
        yield "the master isn't its first database"
        return
    if manifest.backend not in ("sqlite", "postgresql"):
        yield f"no database is called {manifest.backend}"
    for kind in ("name", "file", "project_id"):
        values = [getattr(entry, kind) for entry in manifest.databases]
        if len({*values}) < len(values):
            yield f"a {kind} is there twice"
    for entry in manifest.databases:
        match = _FILE.fullmatch(entry.file)
        if match is None or match["id"] != (entry.project_id and str(entry.project_id)):
            yield f"{entry.file!r} is no file of a backup"
    for entry in manifest.projects:
        # They become databases under these names, in place of what is there.
        if wanted.refusal(entry.name, entry.project_id or 0, manifest.master.name):
            yield f"{entry.name!r} is no project's database"
