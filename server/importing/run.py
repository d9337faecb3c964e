"""One run of the import: files, one after the other, into a project of a user's."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.importing import formats, store
from server.importing.conversation import Conversation, Imported, Record, Unreadable
from server.importing.files import Export, opened
from server.importing.formats import Format
from server.importing.plan import Outcome, Result
from server.importing.report import Report
from server.importing.store import Target
from server.importing.values import mapping, name, title

Tell = Callable[[str, int], None]
# Bytes of a file whose conversations are stored in one transaction, and are in memory at once.
_AT_ONCE = 1 << 20


@dataclass
class Run:
    """Where to, what, and what has come of it.

    An export may hold the conversations of several people. `source_user` says whose to take; if
    it doesn't, the first one's are taken, and those of others refused.
    """

    target: Target
    email: str
    only: Format
    report: Report
    source_user: str | None = None
    owner: str | None = None

    def take(self, path: Path, tell: Tell) -> None:
        """Import a file; `tell` hears its name and how many bytes have been read."""
        try:
            with opened(path) as export:
                self._take_all(path.name, export, tell)
        except Unreadable as error:
            self.report.broken[path.name] = str(error)

    def _take_all(self, file: str, export: Export, tell: Tell) -> None:
        waiting: list[Conversation] = []
        stored = 0
        try:
            for value, read in export.values():
                tell(file, read)
                if (conversation := self._take(file, value, export)) is not None:
                    waiting.append(conversation)
                if read - stored >= _AT_ONCE:
                    self._store(file, waiting)
                    waiting, stored = [], read
        except Unreadable as error:
            # What came before the break is whole.
            self.report.broken[file] = str(error)
        self._store(file, waiting)

    def _take(self, file: str, value: Any, export: Export) -> Conversation | None:
        """The value as a conversation that is to be stored; whatever else it is, is dealt with."""
        try:
            imported = formats.read(value, export, self.only)
            theirs = self._is_theirs(imported)
        except (Unreadable, RecursionError) as error:
            known_by = name(mapping(value).get("id")) or ""
            told = title(mapping(value).get("title"))
            refused = Result(Outcome.REFUSED, known_by, told, problems=[str(error)])
            self.report.add(file, refused)
            return None
        if isinstance(imported, Conversation):
            return imported if theirs else None
        if theirs:
            self.report.add(file, store.keep(self.target, imported, dry_run=self.report.dry_run))
        return None

    def _store(self, file: str, conversations: list[Conversation]) -> None:
        if self.report.dry_run:
            results = [store.preview(self.target, one) for one in conversations]
        else:
            results = store.store(self.target, conversations) if conversations else []
        for result in results:
            self.report.add(file, result)

    def _is_theirs(self, imported: Imported) -> bool:
        if imported.owner is not None:
            if self.source_user is not None:
                return imported.owner == self.source_user
            self.owner = self.owner or imported.owner
            if imported.owner != self.owner:
                raise Unreadable(
                    f"it belongs to {imported.owner}, those before it to {self.owner}; "
                    "--source-user says whose to take"
                )
        if not isinstance(imported, Conversation) and self.source_user is None:
            self._check_email(imported)
        return True

    def _check_email(self, record: Record) -> None:
        """A profile says whose it is; llmcouncil writes unknown@clerk.local where it doesn't."""
        known = record.email is not None and not record.email.endswith("@clerk.local")
        if known and (record.email or "").lower() != self.email.lower():
            raise Unreadable(f"it belongs to {record.email}; --source-user says whose to take")
