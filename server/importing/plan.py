"""What an import of a conversation has to do, compared with what is there."""

from dataclasses import dataclass, field
from enum import StrEnum

from server.importing import queries
from server.importing.conversation import Conversation, ImportedMessage
from server.messages.queries import find_newest
from server.storage.contract import Connection, Row

BEING_DELETED = "its session is being deleted; run this again"
# No id of a source: what was said here after the import.
LOCAL = "\0"


class Outcome(StrEnum):
    """What became of a conversation or record."""

    ADDED = "added"
    EXTENDED = "extended"
    PRESENT = "present"
    CHANGED = "changed"
    REFUSED = "refused"


WRITTEN = (Outcome.ADDED, Outcome.EXTENDED)


@dataclass
class Result:
    """What became of one, in numbers and words.

    `problems` is what was refused of it or differs; `notes` is what else is worth knowing.
    """

    outcome: Outcome
    source_id: str = ""
    title: str | None = None
    messages: int = 0
    images: int = 0
    replaced: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Plan:
    """What there is to do: the messages that are new, and where the others are."""

    result: Result
    new: list[ImportedMessage]
    shown_parent: dict[str, str | None]
    ids: dict[str, int | None]
    session_id: int | None = None
    newest: int | None = None
    forked: set[str] = field(default_factory=set)


def make(
    conn: Connection, user_id: int, conversation: Conversation, messages: list[ImportedMessage]
) -> Plan:
    result = Result(Outcome.ADDED, conversation.source_id, conversation.title)
    known: dict[str, Row] = {}
    found = queries.find_imported(conn, user_id, conversation.source, conversation.source_id)
    if found is not None:
        known = {
            row["source_id"]: row for row in queries.list_nodes(conn, user_id, found["session_id"])
        }
    new = [one for one in messages if one.source_id not in known and _is_something(one)]
    plan = Plan(
        result,
        new,
        _shown_parents(messages),
        {key: row["message_id"] for key, row in known.items()},
    )
    if found is not None:
        plan.session_id = found["session_id"]
        plan.newest = find_newest(conn, user_id, found["session_id"])
        _compare(result, found, known, conversation, grown=bool(new))
    plan.forked = _forked(plan)
    _count(result, new)
    return plan


def _is_something(message: ImportedMessage) -> bool:
    """Roots of trees are empty: there is nothing to show or keep."""
    return message.role is not None or message.kept is not None


def _compare(
    result: Result,
    found: Row,
    known: dict[str, Row],
    conversation: Conversation,
    *,
    grown: bool,
) -> None:
    """Whether the conversation is there as it was, has grown, or was changed at the source."""
    there = {message.source_id: message.digest for message in conversation.messages}
    changed = [key for key, row in known.items() if there.get(key) != row["digest"]]
    if changed:
        result.problems.append(f"{len(changed)} of its messages were changed or removed")
    if conversation.title != found["title"]:
        result.problems.append(f"its title was {found['title']!r}")
    if conversation.starred != found["starred"]:
        result.problems.append(f"its star was {'set' if found['starred'] else 'not set'}")
    if not found["there"]:
        result.outcome = Outcome.REFUSED
        result.problems = [BEING_DELETED]
    elif changed or (result.problems and not grown):
        result.outcome = Outcome.CHANGED
    else:
        result.outcome = Outcome.EXTENDED if grown else Outcome.PRESENT
        result.notes.append(f"in project {found['project']}")


def _shown_parents(messages: list[ImportedMessage]) -> dict[str, str | None]:
    """For each message the nearest one before it that is shown."""
    parents: dict[str, str | None] = {}
    shown: dict[str | None, str | None] = {None: None}
    for message in messages:
        parents[message.source_id] = shown[message.parent_source_id]
        shown[message.source_id] = message.source_id if message.role else parents[message.source_id]
    return parents


def _forked(plan: Plan) -> set[str]:
    """The new messages that don't follow the one before them in the session."""
    forked = set()
    last: str | None = next(
        (key for key, found in plan.ids.items() if found is not None and found == plan.newest),
        None if plan.newest is None else LOCAL,
    )
    for message in plan.new:
        if message.role:
            if plan.shown_parent[message.source_id] != last:
                forked.add(message.source_id)
            last = message.source_id
    return forked


def _count(result: Result, new: list[ImportedMessage]) -> None:
    if result.outcome in WRITTEN:
        result.messages = sum(message.role is not None for message in new)
        result.replaced = sum(message.replaced for message in new)
        result.problems += [reason for message in new for reason in message.refused]
