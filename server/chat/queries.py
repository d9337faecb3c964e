"""SQL about generations: their workers, their progress, their keys."""

from collections.abc import Sequence
from datetime import datetime

from server.messages.queries import MESSAGE
from server.storage.contract import Connection, Row, execute, fetch_all, fetch_one


def beat(conn: Connection, worker_id: str, process: str | None) -> None:
    """Show that the worker lives."""
    execute(
        conn,
        """
        INSERT INTO workers (id, beat, process) VALUES (%s, 1, %s)
        ON CONFLICT (id) DO UPDATE SET beat = workers.beat + 1
        """,
        (worker_id, process),
    )


def list_workers(conn: Connection) -> list[Row]:
    """All workers with their beats, and those of streaming messages who have no row (beat NULL)."""
    return fetch_all(
        conn,
        """
        SELECT id, beat, process FROM workers
        UNION ALL
        SELECT DISTINCT coalesce(worker_id, '') AS id, CAST(NULL AS BIGINT) AS beat,
            CAST(NULL AS TEXT) AS process
        FROM messages
        WHERE status = 'streaming'
            AND NOT EXISTS (SELECT 1 FROM workers WHERE workers.id = messages.worker_id)
        """,
    )


def bury(conn: Connection, worker_id: str, last_beat: int | None, error: str) -> int | None:
    """End what a dead worker left; the number of messages, or None when it lives after all."""
    if last_beat is not None and not execute(
        conn, "DELETE FROM workers WHERE id = %s AND beat = %s", (worker_id, last_beat)
    ):
        return None
    return execute(
        conn,
        """
        UPDATE messages SET status = 'interrupted', error = %(error)s, error_code = 'interrupted'
        WHERE status = 'streaming' AND coalesce(worker_id, '') = %(worker_id)s
            AND NOT EXISTS (SELECT 1 FROM workers WHERE workers.id = %(worker_id)s)
        """,
        {"worker_id": worker_id, "error": error},
    )


def interrupt(conn: Connection, worker_id: str, message_ids: Sequence[int], error: str) -> int:
    """End messages of a worker's own that it does not generate."""
    marks = ", ".join(["%s"] * len(message_ids))
    return execute(
        conn,
        f"""
        UPDATE messages SET status = 'interrupted', error = %s, error_code = 'interrupted'
        WHERE status = 'streaming' AND worker_id = %s AND id IN ({marks})
        """,
        [error, worker_id, *message_ids],
    )


def leave(conn: Connection, worker_id: str) -> None:
    """The worker ends in order."""
    execute(conn, "DELETE FROM workers WHERE id = %s", (worker_id,))


def save_progress(conn: Connection, texts: Sequence[tuple[int, str]]) -> None:
    """Store the text so far of messages that still stream."""
    values = ", ".join(["(%s, %s)"] * len(texts))
    execute(
        conn,
        f"""
        UPDATE messages SET content = saved.column2
        FROM (VALUES {values}) AS saved
        WHERE messages.id = saved.column1 AND messages.status = 'streaming'
        """,
        [value for text in texts for value in text],
    )


def list_streaming(conn: Connection, worker_id: str) -> dict[int, bool]:
    """The ids of a worker's messages that stream, with whether somebody asked to stop each."""
    rows = fetch_all(
        conn,
        "SELECT id, stop_requested FROM messages WHERE status = 'streaming' AND worker_id = %s",
        (worker_id,),
    )
    return {row["id"]: bool(row["stop_requested"]) for row in rows}


def count_generations(conn: Connection) -> Row:
    """How many answers all processes generate, `waiting` for their first text, and the processes.

    Those that died lately are still among them.
    """
    row = fetch_one(
        conn,
        """
        SELECT count(*) AS running, count(CASE WHEN content = '' THEN 1 END) AS waiting,
            (SELECT count(*) FROM workers) AS workers
        FROM messages WHERE status = 'streaming'
        """,
    )
    return row or {"running": 0, "waiting": 0, "workers": 0}


def stop_all(conn: Connection, user_id: int) -> int:
    """Ask whoever generates answers for the user to stop; the number of such answers."""
    return execute(
        conn,
        "UPDATE messages SET stop_requested = TRUE WHERE user_id = %s AND status = 'streaming'",
        (user_id,),
    )


def finish(
    conn: Connection,
    user_id: int,
    message_id: int,
    worker_id: str,
    status: str,
    content: str,
    error: str | None,
    error_code: str | None,
    usage: tuple[int, int] | None,
) -> bool:
    """End the worker's own message; False when it is gone or was stopped.

    A worker that was thought dead, and whose message was therefore interrupted, still ends it.
    """
    return bool(
        execute(
            conn,
            """
            UPDATE messages
            SET status = %(status)s, content = %(content)s, error = %(error)s,
                error_code = %(error_code)s,
                prompt_tokens = %(prompt)s, completion_tokens = %(completion)s
            WHERE user_id = %(user_id)s AND id = %(id)s AND worker_id = %(worker_id)s
                AND status IN ('streaming', 'interrupted')
            """,
            {
                "user_id": user_id,
                "id": message_id,
                "worker_id": worker_id,
                "status": status,
                "content": content,
                "error": error,
                "error_code": error_code,
                "prompt": usage[0] if usage else None,
                "completion": usage[1] if usage else None,
            },
        )
    )


def request_stop(conn: Connection, user_id: int, message_id: int) -> None:
    """Ask the process that generates the message to stop."""
    execute(
        conn,
        """
        UPDATE messages SET stop_requested = TRUE
        WHERE user_id = %s AND id = %s AND status = 'streaming'
        """,
        (user_id, message_id),
    )


def stop_without_worker(conn: Connection, user_id: int, message_id: int) -> None:
    """End a message whose process does not answer."""
    execute(
        conn,
        """
        UPDATE messages SET status = 'stopped'
        WHERE user_id = %s AND id = %s AND status = 'streaming'
        """,
        (user_id, message_id),
    )


def find_answer(conn: Connection, user_id: int, message_id: int) -> Row | None:
    """One of the user's answers, with its error's code and what decides whom it answers."""
    return fetch_one(
        conn,
        f"""
        SELECT {MESSAGE}, error_code, forked, parent_id FROM messages
        WHERE user_id = %(user_id)s AND id = %(id)s AND role = 'assistant' AND EXISTS (
            SELECT 1 FROM sessions
            JOIN projects ON projects.id = sessions.project_id AND projects.status = 'active'
            WHERE sessions.id = messages.session_id AND sessions.user_id = %(user_id)s
                AND NOT sessions.deleting)
        """,
        {"user_id": user_id, "id": message_id},
    )


def list_news(conn: Connection, places: Sequence[tuple[int, int]]) -> list[Row]:
    """For messages and the number of characters known of each: its status and the rest."""
    values = ", ".join(["(%s, %s)"] * len(places))
    return fetch_all(
        conn,
        f"""
        SELECT messages.id, messages.status, substr(messages.content, known.column2 + 1) AS news
        FROM (VALUES {values}) AS known JOIN messages ON messages.id = known.column1
        """,
        [value for place in places for value in place],
    )


def find_running(conn: Connection, user_id: int, session_id: int) -> int | None:
    """The id of the message that is being generated in the session."""
    row = fetch_one(
        conn,
        "SELECT id FROM messages WHERE user_id = %s AND session_id = %s AND status = 'streaming'",
        (user_id, session_id),
    )
    return row["id"] if row else None


def claim_key(
    conn: Connection, user_id: int, key: str, fingerprint: str, now: datetime, since: datetime
) -> Row:
    """Take an idempotency key; its row, without a message when it is ours now.

    Of several at once one inserts; the others wait for its transaction, then see its row.
    """
    execute(
        conn,
        "DELETE FROM idempotency_keys WHERE user_id = %s AND key = %s AND created_at <= %s",
        (user_id, key, since),
    )
    row = fetch_one(
        conn,
        """
        INSERT INTO idempotency_keys (user_id, key, fingerprint, created_at)
        VALUES (%s, %s, %s, %s)
        ON CONFLICT (user_id, key) DO UPDATE SET key = excluded.key
        RETURNING fingerprint, user_message_id, message_id
        """,
        (user_id, key, fingerprint, now),
    )
    return row or {}


def fill_key(
    conn: Connection, user_id: int, key: str, user_message_id: int, message_id: int
) -> None:
    """Note which messages the key stands for."""
    execute(
        conn,
        "UPDATE idempotency_keys SET user_message_id = %s, message_id = %s "
        "WHERE user_id = %s AND key = %s",
        (user_message_id, message_id, user_id, key),
    )


def free_key(conn: Connection, user_id: int, message_id: int) -> None:
    """Let the key of a run be used again that never reached the gateway."""
    execute(
        conn,
        "DELETE FROM idempotency_keys WHERE user_id = %s AND message_id = %s",
        (user_id, message_id),
    )


def forget_keys(conn: Connection, before: datetime) -> None:
    """Remove keys that are too old to count."""
    execute(conn, "DELETE FROM idempotency_keys WHERE created_at <= %s", (before,))
