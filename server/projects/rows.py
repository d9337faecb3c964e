"""A project's rows on their way out of the tables that are served, and back, in batches."""

import time
from collections.abc import Callable

import database_adapter
from server.projects import deleted_queries, queries
from server.storage.contract import Connection, Row

# One statement over hundreds of thousands of messages would exceed the database's time limit, and
# one that copies thousands of images would keep SQLite's other writers waiting.
BATCH = 2000
SESSIONS = 200
MOST_BYTES = 16 * 1024 * 1024

Choose = Callable[[Connection, int, int, int], list[Row]]
Move = Callable[[Connection, int, list[Row]], None]


def delete(user_id: int, project_id: int) -> tuple[int, int]:
    """Delete the rows for good; how many sessions and messages it were."""
    messages = _delete_batches(queries.delete_messages, user_id, project_id)
    return _delete_batches(queries.delete_sessions, user_id, project_id), messages


def keep(user_id: int, project_id: int) -> tuple[int, int]:
    """Move the rows to where deleted ones are; how many sessions and messages it were.

    Sessions that were being deleted by themselves go for good.
    """
    at = (user_id, project_id)
    messages = _move_batches(*at, deleted_queries.list_messages, _keep_messages, BATCH)
    return _move_batches(*at, deleted_queries.list_sessions, _keep_sessions, SESSIONS), messages


def _keep_messages(conn: Connection, user_id: int, found: list[Row]) -> None:
    if kept := [row["id"] for row in found if not row["deleting"]]:
        deleted_queries.keep_messages(conn, user_id, kept)
    deleted_queries.delete_messages(conn, user_id, _ids(found))


def _keep_sessions(conn: Connection, user_id: int, found: list[Row]) -> None:
    if kept := [row["id"] for row in found if not row["deleting"]]:
        deleted_queries.keep_sessions(conn, user_id, kept)
    deleted_queries.delete_sessions(conn, user_id, _ids(found))


def give_back(user_id: int, project_id: int) -> tuple[int, int]:
    """Move the rows of a project that is being restored back; how many it were.

    Sessions come first and are told from those that are still away; a kept message is found by its
    kept session, so those go last.
    """
    at = (user_id, project_id)
    sessions = _move_batches(
        *at, deleted_queries.list_absent_sessions, _give_back_sessions, SESSIONS
    )
    messages = _move_batches(*at, deleted_queries.list_kept_messages, _give_back_messages, BATCH)
    delete_kept(user_id, project_id)
    return sessions, messages


def _give_back_sessions(conn: Connection, user_id: int, found: list[Row]) -> None:
    deleted_queries.give_back_sessions(conn, user_id, _ids(found))


def _give_back_messages(conn: Connection, user_id: int, found: list[Row]) -> None:
    if back := [row["id"] for row in found if row["session_is_back"]]:
        deleted_queries.give_back_messages(conn, user_id, back)
    _delete_kept_messages(conn, user_id, found)


def delete_kept(user_id: int, project_id: int) -> tuple[int, int]:
    """Delete what is kept of the rows; how many sessions and messages it were."""
    at = (user_id, project_id)
    messages = _move_batches(*at, deleted_queries.list_kept_messages, _delete_kept_messages, BATCH)
    sessions = _move_batches(
        *at, deleted_queries.list_kept_sessions, _delete_kept_sessions, SESSIONS
    )
    return sessions, messages


def _delete_kept_messages(conn: Connection, user_id: int, found: list[Row]) -> None:
    deleted_queries.delete_kept_messages(conn, user_id, _ids(found))


def _delete_kept_sessions(conn: Connection, user_id: int, found: list[Row]) -> None:
    deleted_queries.delete_kept_sessions(conn, user_id, _ids(found))


def _ids(found: list[Row]) -> list[int]:
    return [row["id"] for row in found]


def _delete_batches(
    delete_some: Callable[[Connection, int, int, int], int], user_id: int, project_id: int
) -> int:
    """Delete in short transactions: none meets the statement's limit, others write in between."""
    total = 0
    while True:
        with database_adapter.get_db() as conn:
            deleted = delete_some(conn, user_id, project_id, BATCH)
        total += deleted
        if deleted < BATCH:
            return total
        _give_way()


def _move_batches(user_id: int, project_id: int, choose: Choose, move: Move, most: int) -> int:
    """The same for rows that are chosen first, so that several statements are about the same."""
    total = 0
    while True:
        with database_adapter.get_db() as conn:
            found = choose(conn, user_id, project_id, most)
            chosen = _within_bytes(found)
            if chosen:
                move(conn, user_id, chosen)
        total += len(chosen)
        if len(chosen) == len(found) < most:
            return total
        _give_way()


def _within_bytes(found: list[Row]) -> list[Row]:
    """The first rows up to the one that makes them too large, at least one."""
    total = 0
    for number, row in enumerate(found, 1):
        total += int(row.get("size", 0))
        if total >= MOST_BYTES:
            return found[:number]
    return found


def _give_way() -> None:
    """SQLite's lock is not fair: let those who wait for it have it."""
    time.sleep(0.005)
