"""Puts conversations into the master database, each whole or not at all."""

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import database_adapter
from server.images.queries import add_image
from server.importing import plan as plans
from server.importing import queries, tree
from server.importing.conversation import Conversation, ImportedMessage, NoImage, Record
from server.importing.plan import BEING_DELETED, LOCAL, WRITTEN, Outcome, Plan, Result
from server.storage.contract import Connection, Row

# In one statement: SQLite takes 32,766 parameters, and a server's time for one is limited.
_ROWS = 200
_CHARACTERS = 4_000_000
T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """Whose and which project; without one, as in a dry run, everything is new."""

    user_id: int
    project_id: int | None
    now: datetime


def store(target: Target, conversations: list[Conversation]) -> list[Result]:
    """Import conversations, or what is new of them, each whole or not at all.

    They share a transaction: to make each one safe on its disk takes longer than to store it.
    """
    with database_adapter.get_db() as conn:
        database_adapter.transaction_lock(conn, f"imports of user {target.user_id}")
        return [store_within(conn, target, conversation) for conversation in conversations]


def store_within(conn: Connection, target: Target, conversation: Conversation) -> Result:
    """Import one in the caller's transaction."""
    messages, lost = tree.ordered(conversation)
    plan = plans.make(conn, target.user_id, conversation, messages)
    result = plan.result
    if result.outcome is Outcome.ADDED:
        _add_session(conn, target, conversation, plan)
    elif result.outcome is Outcome.EXTENDED:
        _grow_session(conn, target, conversation, plan)
    if result.outcome in WRITTEN:
        _add_messages(conn, target, plan)
    if lost and result.outcome is Outcome.ADDED:
        result.notes.append(f"{lost} messages had lost the one they follow")
    return result


def preview(target: Target, conversation: Conversation) -> Result:
    """What `store` would do; images are not looked at."""
    messages, _ = tree.ordered(conversation)
    with database_adapter.read_db() as conn:
        plan = plans.make(conn, target.user_id, conversation, messages)
    return plan.result


def _add_session(conn: Connection, target: Target, conversation: Conversation, plan: Plan) -> None:
    created_at, updated_at = _times(target, conversation, plan.new)
    plan.session_id = target.project_id and queries.add_session(
        conn,
        target.user_id,
        target.project_id,
        str(uuid.uuid4()),
        conversation.title,
        bool(plan.forked),
        created_at,
        updated_at,
    )
    if plan.session_id is None:
        plan.result.outcome = Outcome.REFUSED
        plan.result.problems = ["the project is gone"]
        return
    queries.add_origin(
        conn,
        target.user_id,
        plan.session_id,
        conversation.source,
        conversation.source_id,
        conversation.title,
        conversation.starred,
        json.dumps(conversation.metadata),
        target.now,
    )


def _times(
    target: Target, conversation: Conversation, new: list[ImportedMessage]
) -> tuple[datetime, datetime]:
    """When it was begun and last used; what the source doesn't say is told by its messages."""
    told = [message.created_at for message in new if message.created_at]
    created_at = conversation.created_at or min(told, default=target.now)
    return created_at, conversation.updated_at or max(told, default=created_at)


def _grow_session(conn: Connection, target: Target, conversation: Conversation, plan: Plan) -> None:
    _, updated_at = _times(target, conversation, plan.new)
    session_id = plan.session_id or 0
    if not queries.grow_session(conn, target.user_id, session_id, bool(plan.forked), updated_at):
        plan.result.outcome = Outcome.REFUSED
        plan.result.problems = [BEING_DELETED]


def _add_messages(conn: Connection, target: Target, plan: Plan) -> None:
    session_id = plan.session_id or 0
    shown = [message for message in plan.new if message.role]
    for batch in _batches(shown, lambda message: len(message.content)):
        rows = [_row(target, message, plan.forked) for message in batch]
        ids = queries.add_messages(conn, target.user_id, session_id, rows)
        plan.ids.update(zip((message.source_id for message in batch), ids, strict=True))
    for pairs in _batches(_forks(plan), lambda _: 0):
        queries.set_parents(conn, target.user_id, pairs)
    nodes = [_node(message, plan.ids) for message in plan.new]
    for some in _batches(nodes, lambda node: len(node[3] or "")):
        queries.add_nodes(conn, target.user_id, session_id, some)
    for message in shown:
        _add_images(conn, target, plan, message)


def _row(target: Target, message: ImportedMessage, forked: set[str]) -> Row:
    return {
        "role": message.role,
        "content": message.content,
        "model": message.model,
        "forked": message.source_id in forked,
        "created_at": message.created_at or target.now,
    }


def _forks(plan: Plan) -> list[tuple[int, int]]:
    """The ids of forked messages with those of their parents; the first of a branch has none."""
    pairs = []
    for message in plan.new:
        parent = plan.ids.get(plan.shown_parent[message.source_id] or LOCAL)
        if message.source_id in plan.forked and parent is not None:
            pairs.append((plan.ids[message.source_id] or 0, parent))
    return pairs


def _node(
    message: ImportedMessage, ids: dict[str, int | None]
) -> tuple[str, int | None, str, str | None]:
    kept = None if message.kept is None else json.dumps(message.kept)
    return message.source_id, ids.get(message.source_id), message.digest, kept


def _add_images(conn: Connection, target: Target, plan: Plan, message: ImportedMessage) -> None:
    for read in message.images:
        try:
            image = read()
        except NoImage as error:
            plan.result.problems.append(str(error))
        else:
            add_image(conn, target.user_id, plan.ids[message.source_id] or 0, image)
            plan.result.images += 1


def _batches(things: list[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """The things in order, as many at once as one statement may carry."""
    batch: list[T] = []
    characters = 0
    for thing in things:
        if batch and (len(batch) == _ROWS or characters + size(thing) > _CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(thing)
        characters += size(thing)
    if batch:
        yield batch


def keep(target: Target, record: Record, *, dry_run: bool) -> Result:
    """Keep a record as it is, once."""
    content = json.dumps(record.content, sort_keys=True)
    key = (target.user_id, record.source, record.kind, record.source_id)
    result = Result(Outcome.ADDED, record.source_id, record.kind)
    with database_adapter.get_db() as conn:
        database_adapter.transaction_lock(conn, f"imports of user {target.user_id}")
        found = queries.find_record(conn, *key)
        if found is not None:
            result.outcome = Outcome.PRESENT if found == content else Outcome.CHANGED
        elif not dry_run:
            queries.add_record(conn, *key, content, target.now)
    return result
