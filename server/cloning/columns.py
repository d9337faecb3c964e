"""What of production's master a clone has: every table and column is decided here.

A column that nobody has decided on doesn't come: a test names it then.
"""

import uuid
from collections.abc import Callable
from typing import Any

# No password has this hash: nobody can log in.
NO_PASSWORD = "!"  # noqa: S105

Replaced = dict[str, Callable[[int], Any]]

# Columns that come as they are, parents first.
COPIED: dict[str, tuple[str, ...]] = {
    "users": ("id", "created_at", "updated_at", "disabled_at"),
    "project_types": ("id", "name", "description", "template_sql"),
    "projects": (
        "id",
        "user_id",
        "name",
        "description",
        "project_type_id",
        "db_name",
        "status",
        "created_at",
        "updated_at",
    ),
    "sessions": (
        "id",
        "user_id",
        "project_id",
        "title",
        "created_at",
        "updated_at",
        "forked",
        "deleting",
    ),
    "messages": (
        "id",
        "user_id",
        "session_id",
        "role",
        "content",
        "status",
        "error",
        "model",
        "prompt_tokens",
        "completion_tokens",
        "created_at",
        "error_code",
        "forked",
        "parent_id",
    ),
    "images": ("id", "user_id", "message_id", "media_type", "size_bytes", "data"),
    "imported_sessions": (
        "session_id",
        "user_id",
        "source",
        "source_id",
        "title",
        "starred",
        "imported_at",
    ),
    "imported_messages": ("session_id", "source_id", "user_id", "message_id", "digest"),
    "audit_log": ("id", "at", "user_id", "action", "target", "outcome"),
}
# Columns that are made anew, from the first column's value.
REPLACED: dict[str, Replaced] = {
    "users": {
        "email": "user{}@example.invalid".format,
        "name": "User {}".format,
        "password_hash": lambda _: NO_PASSWORD,
    },
    # By its key a gateway remembers a session: the clone must not write into production's.
    "sessions": {"session_key": lambda _: str(uuid.uuid4())},
    # What the source knew of people and devices.
    "imported_sessions": {"metadata": lambda _: "{}"},
}
LEFT_OUT_COLUMNS = {
    "messages": ("worker_id", "stop_requested"),
    "imported_messages": ("metadata",),
    "audit_log": ("detail",),
}
LEFT_OUT = (
    "auth_tokens",
    "auth_attempts",
    "idempotency_keys",
    "workers",
    "imported_records",
    # What production is marked by: the clone is nobody's.
    "environment",
    "schema_migrations",
    "deleted_projects",
    "deleted_sessions",
    "deleted_messages",
    "deleted_images",
    "deleted_imported_sessions",
    "deleted_imported_messages",
)
