"""The audit log: a row and a log line for every attempt on something that can't be undone."""

import logging
from datetime import UTC, datetime

from server import metrics
from server.storage.contract import Connection, execute

log = logging.getLogger("clawd.audit")


def record(
    conn: Connection,
    user_id: int,
    action: str,
    target: str,
    outcome: str,
    detail: str | None = None,
    *,
    level: int = logging.INFO,
) -> None:
    """Write the attempt down, in the transaction of `conn`."""
    execute(
        conn,
        """
        INSERT INTO audit_log (at, user_id, action, target, outcome, detail)
        VALUES (%s, %s, %s, %s, %s, %s)
        """,
        (datetime.now(UTC), user_id, action, target, outcome, detail),
    )
    metrics.AUDITED.labels(action, outcome.partition(",")[0]).inc()
    extra = {"user_id": user_id, "target": target, "outcome": outcome, "detail": detail}
    log.log(level, action, extra=extra)
