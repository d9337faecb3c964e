"""Bringing a file home into a master that is in use: what collides gets new ids.

All of it happens on the copy of the snapshot, before anything is written: rows that the target
has already are found there, the others get ids that are free, and what names them follows.
"""

import hashlib
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count

from server.migration import rows, target
from server.migration.compare import (
    Difference,
    Line,
    difference,
    key_places,
    source_lines,
    target_lines,
)
from server.migration.copying import transaction
from server.migration.folder import Folder
from server.migration.rows import Chunk
from server.migration.tables import Table, quote
from server.storage import names

# What makes two rows the same, whatever their ids are.
NATURAL = {
    "users": "email",
    "project_types": "name",
    "sessions": "session_key",
}
# Columns that name a row without a foreign key: (table, column) -> the table named.
LOOSE = {("messages", "parent_id"): "messages", ("audit_log", "user_id"): "users"}
# What may differ between a row and its copy that went on being used.
CHANGING = ("parent_id", "worker_id", "stop_requested", "forked")


@dataclass
class Merge:
    """What became of the source's rows: new ids, and databases under the target's names.

    Those `kept` are on both sides already, those `renamed` need another name.
    """

    ids: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    kept: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Merging:
    """Changes the ids in a copy of the source's master so that it fits into the target."""

    def __init__(
        self, conn: sqlite3.Connection, present: target.Connection, tables: list[Table]
    ) -> None:
        self._conn = conn
        self._present = present
        self._tables = tables
        self.merge = Merge()

    def run(self) -> Merge:
        """Parents first, so that every row is compared with its parents' ids already changed."""
        self._conn.execute("PRAGMA foreign_keys = OFF")
        with self._conn:
            for table in self._tables:
                if not table.numbered or not target.has_sequence(self._present, table):
                    continue
                known, gone = self._same_rows(table)
                self._tell_changed(table, known)
                self._drop(table, gone)
                self._renumber(table, known)
        self.merge.ids = {name: ids for name, ids in self.merge.ids.items() if ids}
        return self.merge

    def _same_rows(self, table: Table) -> tuple[dict[int, int], list[int]]:
        """Source ids whose rows the target has, with the target's; those whose rows differ."""
        if table.name == "projects":
            return self._same_projects()
        if table.name in NATURAL:
            return self._same_by_name(table, NATURAL[table.name])
        theirs: dict[bytes, list[int]] = defaultdict(list)
        for key, mark in self._marks(table, target_lines(self._present, Chunk(table))):
            theirs[mark].append(key)
        known: dict[int, int] = {}
        for key, mark in self._marks(table, source_lines(self._conn, Chunk(table))):
            if theirs[mark]:
                known[key] = theirs[mark].pop(0)
        # The target's row stays as it is; ours, which may differ in what changes, isn't needed.
        return known, list(known)

    def _tell_changed(self, table: Table, known: dict[int, int]) -> None:
        """What was changed in a row that both sides have: the target's stays, and that is said."""
        place = [column.name for column in table.columns].index(table.key[0])
        theirs = {int(line[place]): line for line in target_lines(self._present, Chunk(table))}
        for line in source_lines(self._conn, Chunk(table)):
            number = int(line[place])
            if number not in known:
                continue
            pairs = zip(table.columns, line, theirs[known[number]], strict=True)
            changed = [
                column.name
                for column, ours, other in pairs
                if ours != other and column.name not in (table.key[0], "updated_at", *CHANGING)
            ]
            if changed:
                self.merge.notes.append(
                    f"{table.name} {number}, which the target has as {known[number]}: the target's "
                    f"{', '.join(changed)} stays, the source's is in the backup"
                )

    @staticmethod
    def _marks(table: Table, lines: Iterator[Line]) -> Iterator[tuple[int, bytes]]:
        """Each row's id, and a digest of the rest."""
        place = [column.name for column in table.columns].index(table.key[0])
        kept = [
            number
            for number, column in enumerate(table.columns)
            if number != place and column.name not in CHANGING
        ]
        for line in lines:
            rest = "\t".join(line[number] for number in kept)
            yield int(line[place]), hashlib.sha256(rest.encode()).digest()

    def _same_by_name(self, table: Table, column: str) -> tuple[dict[int, int], list[int]]:
        key, name = quote(table.key[0]), quote(column)
        lowered = "lower" if table.name == "users" else ""
        theirs = dict(
            target.rows(self._present, f"SELECT {lowered}({name}), {key} FROM {quote(table.name)}")
        )
        known, gone = {}, []
        for number, text in self._conn.execute(
            f"SELECT {key}, {name} FROM {quote(table.name)} ORDER BY {key}"
        ).fetchall():
            found = theirs.get(text.lower() if lowered else text)
            if found is None:
                continue
            known[number] = found
            gone.append(number)
        return known, gone

    def _same_projects(self) -> tuple[dict[int, int], list[int]]:
        """A project is the same when one user made it at one moment, whatever it is called."""
        theirs = {
            (user, at): (number, name)
            for number, user, at, name in target.rows(
                self._present,
                "SELECT id, user_id, to_char(created_at AT TIME ZONE 'UTC', "
                "'YYYY-MM-DD HH24:MI:SS.US'), db_name FROM projects",
            )
        }
        taken = {name for _, name in theirs.values()}
        known = {}
        for number, user, at, name in self._conn.execute(
            "SELECT id, user_id, created_at, db_name FROM projects ORDER BY id"
        ).fetchall():
            if found := theirs.get((user, at[:26])):
                known[number] = found[0]
                self.merge.kept[name] = found[1]
            elif name in taken:
                self._rename(number, name, taken)
        return known, list(known)

    def _rename(self, project_id: int, db_name: str, taken: set[str]) -> None:
        """Another name for a project whose name somebody else's has."""
        name = self._conn.execute(
            "SELECT name FROM projects WHERE id = ?", (project_id,)
        ).fetchone()[0]
        ours = {row[0] for row in self._conn.execute("SELECT db_name FROM projects")}
        for number in count(2):
            new = f"{name[: 59 - len(str(number)) - 1]}-{number}"
            if names.database_name(new) not in taken | ours:
                break
        self._conn.execute(
            "UPDATE projects SET name = ?, db_name = ? WHERE id = ?",
            (new, names.database_name(new), project_id),
        )
        self.merge.renamed[db_name] = names.database_name(new)
        self.merge.notes.append(
            f"project {project_id}, {name}, is now {new}: the target has a project of that name"
        )

    def _drop(self, table: Table, gone: list[int]) -> None:
        """Leave out of the copy what the target has."""
        self._conn.executemany(
            f"DELETE FROM {quote(table.name)} WHERE {quote(table.key[0])} = ?",
            [(number,) for number in gone],
        )

    def _renumber(self, table: Table, known: dict[int, int]) -> None:
        """Free ids for the rest; all after the first that collides, since ids are an order."""
        key = quote(table.key[0])
        ours = [
            row[0]
            for row in self._conn.execute(f"SELECT {key} FROM {quote(table.name)} ORDER BY {key}")
        ]
        theirs = self._taken(table, ours)
        first = next((number for number in ours if number in theirs), None)
        free = max(
            target.highest_id(self._present, table),
            target.next_id(self._present, table) - 1,
            max(ours, default=0),
        )
        moved = [number for number in ours if first is not None and number >= first]
        mapping = dict(zip(moved, count(free + 1), strict=False))
        self.merge.ids[table.name] |= mapping
        everything = {**mapping, **{old: new for old, new in known.items() if old != new}}
        if everything:
            self._apply(table, mapping, everything)

    def _taken(self, table: Table, ours: list[int]) -> set[int]:
        if not ours:
            return set()
        key = quote(table.key[0])
        return {
            row[0]
            # What was deleted there may come back, with the same ids.
            for name in (table.name, f"deleted_{table.name}")
            if target.value(self._present, "SELECT to_regclass(%s)", (quote(name),))
            for row in target.rows(
                self._present,
                f"SELECT {key} FROM {quote(name)} WHERE {key} BETWEEN %s AND %s",
                (ours[0], ours[-1]),
            )
        }

    def _apply(self, table: Table, own: dict[int, int], named: dict[int, int]) -> None:
        """Change the rows' own ids, and wherever they are named."""
        self._replace(table.name, table.key[0], own)
        for child, column in self._naming(table.name, table.key[0]):
            self._replace(child, column, named)

    def _naming(self, table: str, column: str) -> Iterator[tuple[str, str]]:
        """The columns that name this one, and those that name these."""
        found = [
            (child.name, key.columns[0])
            for child in self._tables
            for key in child.foreign_keys
            if (key.table, key.references) == (table, (column,))
        ]
        found += [place for place, to in LOOSE.items() if to == table and column == "id"]
        for child, name in found:
            yield child, name
            yield from self._naming(child, name)

    def _replace(self, table: str, column: str, mapping: dict[int, int]) -> None:
        """By way of negative numbers, since an old id may be another row's new one."""
        name, place = quote(column), quote(table)
        self._conn.execute("CREATE TEMP TABLE moved (old INTEGER PRIMARY KEY, new INTEGER)")
        self._conn.executemany("INSERT INTO moved VALUES (?, ?)", mapping.items())
        self._conn.execute(
            f"UPDATE {place} SET {name} = -(SELECT new FROM moved WHERE old = {name}) "
            f"WHERE {name} IN (SELECT old FROM moved)"
        )
        self._conn.execute(
            f"UPDATE {place} SET {name} = -{name} WHERE {name} IN (SELECT -new FROM moved)"
        )
        self._conn.execute("DROP TABLE moved")


def prepare(folder: Folder, present: target.Connection, tables: list[Table]) -> Merge:
    """Make the folder's copy of the master fit, with the files of renamed projects."""
    path = folder.settled / "master.sqlite3"
    if not path.exists():
        shutil.copyfile(folder.backup / "master.sqlite3", path)
    with closing(sqlite3.connect(path)) as conn:
        merge = Merging(conn, present, tables).run()
    for old, new in merge.renamed.items():
        if folder.database(old).exists():
            shutil.copyfile(folder.database(old), folder.settled / f"{new}.sqlite3")
    return merge


def insert_missing(
    conn: sqlite3.Connection, present: target.Connection, tables: list[Table]
) -> dict[str, int]:
    """Add what the target hasn't, all or nothing; how many rows of each table that were."""
    added: dict[str, int] = {}
    with transaction(present):
        for table in tables:
            for chunk in rows.chunks(conn, table):
                absent, _ = missing(chunk, conn, present)
                text = "".join("\t".join(line) + "\n" for line in absent)
                if absent:
                    target.copy_in(present, table, [text.encode()])
                added[table.name] = added.get(table.name, 0) + len(absent)
    return added


def prove(
    conn: sqlite3.Connection, present: target.Connection, table: Table
) -> tuple[int, list[Difference]]:
    """How many of the copy's rows there are, and which of them the target hasn't as they are."""
    count, found = 0, []
    for chunk in rows.chunks(conn, table):
        absent, other = missing(chunk, conn, present)
        count += rows.digest(conn, chunk).rows
        found += [difference(table, "master", line, None) for line in absent]
        found += [difference(table, "master", *pair) for pair in other]
    return count, found


def missing(
    chunk: Chunk, conn: sqlite3.Connection, present: target.Connection
) -> tuple[list[Line], list[tuple[Line, Line]]]:
    """The chunk's rows that the target hasn't, and those that it has otherwise."""
    keys = key_places(chunk.table)
    theirs = {tuple(line[i] for i in keys): line for line in target_lines(present, chunk)}
    absent, other = [], []
    for line in source_lines(conn, chunk):
        found = theirs.get(tuple(line[i] for i in keys))
        if found is None:
            absent.append(line)
        elif found != line:
            other.append((line, found))
    return absent, other
