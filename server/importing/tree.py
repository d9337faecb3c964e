"""The order in which the messages of a tree are stored.

Parents come before their children, siblings by time, and the branch that was current comes last:
the service shows the branch of the newest message.
"""

from dataclasses import replace
from datetime import UTC, datetime

from server.importing.conversation import Conversation, ImportedMessage

_START = datetime.min.replace(tzinfo=UTC)
_Parents = dict[str, str | None]


def ordered(conversation: Conversation) -> tuple[list[ImportedMessage], int]:
    """The messages in that order, and how many had no parent though they name one.

    Those, and one of those that are their own ancestors, begin the conversation anew. A message
    without a time has that of its parent, the first one that of the conversation.
    """
    by_id = {message.source_id: message for message in conversation.messages}
    parents, lost = _mended({name: message.parent_source_id for name, message in by_id.items()})
    current = set(_way(parents, conversation.current_id))
    children: dict[str | None, list[ImportedMessage]] = {}
    for name, parent in parents.items():
        children.setdefault(parent, []).append(by_id[name])
    found: list[ImportedMessage] = []
    stack = _last_first(children.get(None, []), conversation.created_at, current)
    while stack:
        message = stack.pop()
        parent = parents[message.source_id]
        if message.parent_source_id != parent:
            message = replace(message, parent_source_id=parent)
        found.append(message)
        stack += _last_first(children.get(message.source_id, []), message.created_at, current)
    return found, lost


def _last_first(
    siblings: list[ImportedMessage], parent_at: datetime | None, current: set[str]
) -> list[ImportedMessage]:
    dated = [one if one.created_at else replace(one, created_at=parent_at) for one in siblings]
    dated.sort(key=lambda one: (one.source_id in current, one.created_at or _START))
    return dated[::-1]


def _mended(parents: _Parents) -> tuple[_Parents, int]:
    """The parents without those that are missing, and with every circle cut at one place."""
    there = {name: parent if parent in parents else None for name, parent in parents.items()}
    lost = sum(parent is not None and there[name] is None for name, parent in parents.items())
    safe: set[str] = set()
    for first in there:
        way: dict[str, None] = {}
        name: str | None = first
        while name is not None and name not in safe and name not in way:
            way[name] = None
            name = there[name]
        if name is not None and name in way:
            there[name] = None
            lost += 1
        safe.update(way)
    return there, lost


def _way(parents: _Parents, last: str | None) -> list[str]:
    """From a message to the beginning."""
    way = []
    while last is not None and last in parents:
        way.append(last)
        last = parents[last]
    return way
