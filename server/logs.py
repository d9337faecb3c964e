"""Structured logs: one JSON object a line, in UTC, without secrets or message texts."""

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

# Of the request that this task serves; "-" outside of requests.
request_id: ContextVar[str] = ContextVar("request_id", default="-")

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {
        "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
        "event": record.getMessage(),
        "request_id": request_id.get(),
    }
    fields.update({k: v for k, v in record.__dict__.items() if k not in _STANDARD})
    return fields


def _without_rows(traceback: str) -> str:
    """PostgreSQL's DETAIL shows the failing row, with messages and password hashes in it."""
    return re.sub(r"(?m)^DETAIL:.*$", "DETAIL: (left out)", traceback)


class JsonFormatter(logging.Formatter):
    """One line of JSON; control characters are escaped, so that no input can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        if record.exc_info:
            fields["traceback"] = _without_rows(self.formatException(record.exc_info))
        return json.dumps(fields, default=str)


class TextFormatter(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        lead = f"{fields.pop('ts')} {fields.pop('level'):7} {fields.pop('event')}"
        fields.pop("logger")
        rest = " ".join(f"{name}={json.dumps(v, default=str)}" for name, v in fields.items())
        line = f"{lead}  {rest}".encode("unicode_escape").decode("ascii")
        if not record.exc_info:
            return line
        return f"{line}\n{_without_rows(self.formatException(record.exc_info))}"


def configure(log_format: str, level: str) -> None:
    """Send every logger of the process, uvicorn's too, to standard error in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    # What no line shows, and costs a look at the stack and more for each (Python's "Logging
    # HOWTO", Optimization): who called the logger, on which thread, in which process.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # The service logs its requests itself, with their ids.
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
