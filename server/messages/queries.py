"""SQL about messages."""

from dataclasses import dataclass
from datetime import datetime

from server.auth.queries import CALLER
from server.storage.contract import (
    JSON_TIME,
    Connection,
    Planned,
    Row,
    fetch_all,
    fetch_one,
    in_range,
)

Span = tuple[int, int]

MESSAGE = (
    "id, session_id, role, content, status, error, model, prompt_tokens, completion_tokens, "
    "created_at"
)
_NEWEST_FIRST = "ORDER BY session_id DESC, id DESC"
_AFTER_ALL = 2**63 - 1


def _or_null(column: str) -> str:
    return f"coalesce(CAST(to_json({column}) AS TEXT), 'null')"


# A row of `messages` as the API shows it: `message.Message` as JSON, made where the rows are. Put
# together like this it takes half the time of functions that make JSON of anything.
_SHOWN = f"""
    '{{"id":' || id || ',"session_id":' || session_id
    || ',"role":"' || role || '","content":' || to_json(content)
    || ',"status":"' || status || '","error":' || {_or_null("error")}
    || ',"images":[' || coalesce((
        SELECT string_agg(shown, ',' ORDER BY id)
        FROM (
            SELECT id, '{{"id":' || id || ',"media_type":' || to_json(media_type)
                || ',"bytes":' || size_bytes || '}}' AS shown
            FROM images
            WHERE images.message_id = messages.id AND images.user_id = messages.user_id
            ORDER BY id
        ) AS images
    ), '') || '],"model":' || {_or_null("model")}
    || ',"usage":' || CASE WHEN coalesce(prompt_tokens, completion_tokens) IS NULL THEN 'null'
        ELSE '{{"prompt_tokens":' || coalesce(prompt_tokens, 0)
            || ',"completion_tokens":' || coalesce(completion_tokens, 0) || ',"total_tokens":'
            || (coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0)) || '}}' END
    || ',"created_at":"' || {JSON_TIME.format("created_at")} || '"}}'
"""
_IMAGE = "images.id AS image_id, images.media_type, images.size_bytes"


@dataclass(frozen=True)
class Place:
    """Where a message stands: after the one before it, or, `forked`, after `parent_id`."""

    forked: bool
    parent_id: int | None


@dataclass(frozen=True)
class Generator:
    """Who generates an answer: the gateway's model, asked by a process of the service."""

    model: str
    worker_id: str


def _within(spans: list[Span]) -> tuple[str, dict[str, int]]:
    """A condition on `id`, with its parameters; no spans: no condition."""
    if not spans:
        return "", {}
    ors = [f"id BETWEEN %(low{i})s AND %(high{i})s" for i in range(len(spans))]
    params = {f"low{i}": low for i, (low, _) in enumerate(spans)}
    params |= {f"high{i}": high for i, (_, high) in enumerate(spans)}
    return f"AND ({' OR '.join(ors)})", params


def _ranges(before_id: int, limit: int, spans: list[Span]) -> list[Span]:
    """The ranges of ids, without their ends, that the messages of a page are in, newest first."""
    if not spans:
        return [(0, before_id)]
    below = [(low - 1, min(high + 1, before_id)) for low, high in spans if low < before_id]
    # Each span has a message at its end, which only the newest one may have lost to `before_id`.
    return below[: limit + 1] or [(0, 0)]


def _newest(session: str, number: int, most: str) -> str:
    """The newest messages of a range.

    Nothing is asked of them but the range: with a further condition PostgreSQL expects few, and
    reads the whole session to sort it.
    """
    place = in_range("session_id, id", session, f"%(above{number})s", f"%(below{number})s")
    return f"""
        SELECT * FROM (
            SELECT * FROM messages WHERE {place} {_NEWEST_FIRST} LIMIT {most}
        ) AS range{number}
    """


def list_shown(
    conn: Connection,
    token_hash: str,
    now: datetime,
    session_id: int,
    before_id: int,
    limit: int,
    spans: list[Span],
) -> Row | None:
    """The newest messages before an id, as one row; None for a token that is nobody's.

    Who is calling, their session and its messages in one round trip. `items` has the messages,
    oldest first, as the JSON of `message.Message` with commas between, NULL where there are none;
    `oldest` the first one's id; `more` whether there are older ones. `user_id` is the caller;
    `session_id` is NULL when the session isn't theirs; `forked` is the session's.
    """
    ranges = _ranges(before_id, limit, spans)
    params = {
        **{f"above{number}": above for number, (above, _) in enumerate(ranges)},
        **{f"below{number}": below for number, (_, below) in enumerate(ranges)},
        "token_hash": token_hash,
        "now": now,
        "session_id": session_id,
        "limit": limit,
    }
    return fetch_one(conn, _SHOW if len(ranges) == 1 else _show(len(ranges)), params)


def _show(ranges: int) -> str:
    """The text of `list_shown` for so many ranges."""
    newest = " UNION ALL ".join(
        _newest("(SELECT id FROM session)", number, "%(limit)s + 1") for number in range(ranges)
    )
    return f"""
        WITH caller AS ({CALLER}),
        session AS (
            SELECT sessions.id, sessions.user_id, sessions.forked
            FROM sessions
            JOIN projects ON projects.id = sessions.project_id AND projects.status = 'active'
            WHERE sessions.id = %(session_id)s AND sessions.user_id = (SELECT id FROM caller)
                AND NOT sessions.deleting
        )
        SELECT caller.id AS user_id, session.id AS session_id, session.forked, page.*
        FROM caller
        LEFT JOIN session ON TRUE
        LEFT JOIN (
            SELECT string_agg(shown, ',' ORDER BY id) FILTER (WHERE place <= %(limit)s) AS items,
                min(id) FILTER (WHERE place <= %(limit)s) AS oldest,
                count(*) > %(limit)s AS more
            FROM (
                SELECT id, {_SHOWN} AS shown,
                    row_number() OVER (ORDER BY id DESC) AS place
                FROM ({newest} {_NEWEST_FIRST} LIMIT %(limit)s + 1) AS messages
                WHERE user_id = (SELECT user_id FROM session)
                ORDER BY id
            ) AS shown
        ) AS page ON TRUE
    """


# Most conversations have no branches, and so one range.
_SHOW = Planned(_show(1))


def list_joined(conn: Connection, user_id: int, message_id: int) -> list[Row]:
    """One message, a row for each of its images."""
    columns = ", ".join(f"messages.{name.strip()}" for name in MESSAGE.split(","))
    return fetch_all(
        conn,
        f"""
        SELECT {columns}, {_IMAGE}
        FROM messages LEFT JOIN images
            ON images.message_id = messages.id AND images.user_id = %(user_id)s
        WHERE messages.user_id = %(user_id)s AND messages.id = %(id)s
        ORDER BY images.id
        """,
        {"user_id": user_id, "id": message_id},
    )


def find_message(conn: Connection, user_id: int, session_id: int, message_id: int) -> Row | None:
    """One message of a session, with its place."""
    return fetch_one(
        conn,
        f"""
        SELECT {MESSAGE}, forked, parent_id FROM messages
        WHERE user_id = %s AND session_id = %s AND id = %s
        """,
        (user_id, session_id, message_id),
    )


def find_newest(conn: Connection, user_id: int, session_id: int) -> int | None:
    """The id of the session's newest message."""
    return find_before(conn, user_id, session_id, _AFTER_ALL)


def find_before(conn: Connection, user_id: int, session_id: int, message_id: int) -> int | None:
    """The id of the message with the next smaller id in the session."""
    row = fetch_one(
        conn,
        f"""
        SELECT id FROM ({_newest("%(session_id)s", 0, "1")}) AS newest WHERE user_id = %(user_id)s
        """,
        {
            "user_id": user_id,
            "session_id": session_id,
            "above0": 0,
            "below0": message_id,
        },
    )
    return row["id"] if row else None


def list_forks(conn: Connection, user_id: int, session_id: int) -> list[Row]:
    """The messages that don't follow the one before them, oldest first."""
    return fetch_all(
        conn,
        """
        SELECT id, parent_id FROM messages
        WHERE user_id = %s AND session_id = %s AND forked
        ORDER BY id
        """,
        (user_id, session_id),
    )


def list_conversation(
    conn: Connection, user_id: int, session_id: int, spans: list[Span]
) -> list[Row]:
    """What was said within the spans, oldest first."""
    within, params = _within(spans)
    return fetch_all(
        conn,
        f"""
        SELECT id, role, content FROM messages
        WHERE user_id = %(user_id)s AND session_id = %(session_id)s AND status <> 'streaming'
            {within}
        ORDER BY id
        """,
        {"user_id": user_id, "session_id": session_id, **params},
    )


def add_turn(
    conn: Connection,
    user_id: int,
    session_id: int,
    content: str,
    place: Place,
    generator: Generator,
    now: datetime,
) -> tuple[Row, Row]:
    """What the user says, and a row for the answer that is about to be generated.

    Raises `Conflict` while another one streams in the session.
    """
    asked, answer = fetch_all(
        conn,
        f"""
        INSERT INTO messages (
            user_id, session_id, role, content, status, model, worker_id, forked, parent_id,
            created_at
        )
        VALUES (
            %(user_id)s, %(session_id)s, 'user', %(content)s, 'complete', NULL, NULL, %(forked)s,
            %(parent_id)s, %(now)s
        ), (
            %(user_id)s, %(session_id)s, 'assistant', '', 'streaming', %(model)s, %(worker_id)s,
            FALSE, NULL, %(now)s
        )
        RETURNING {MESSAGE}
        """,
        {
            "user_id": user_id,
            "session_id": session_id,
            "content": content,
            "forked": place.forked,
            "parent_id": place.parent_id,
            "model": generator.model,
            "worker_id": generator.worker_id,
            "now": now,
        },
    )
    return asked, answer


def add_answer(
    conn: Connection,
    user_id: int,
    session_id: int,
    parent_id: int,
    generator: Generator,
    now: datetime,
) -> Row:
    """A row for another answer to a message.

    Raises `Conflict` while another one streams in the session.
    """
    row = fetch_one(
        conn,
        f"""
        INSERT INTO messages
            (user_id, session_id, role, status, model, worker_id, forked, parent_id, created_at)
        VALUES (%s, %s, 'assistant', 'streaming', %s, %s, TRUE, %s, %s)
        RETURNING {MESSAGE}
        """,
        (user_id, session_id, generator.model, generator.worker_id, parent_id, now),
    )
    return row or {}
