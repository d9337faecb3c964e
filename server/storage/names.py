"""The guard: which names a project and its database may have, which database may be dropped."""

import re
import secrets

from server.storage.contract import DatabaseError

# 59 characters and `_db` stay inside PostgreSQL's 63 bytes, beyond which it cuts names silently.
PROJECT_NAME = re.compile(r"[a-z][a-z0-9_-]{0,58}", re.ASCII)
PROJECT_DATABASE = re.compile(r"[a-z][a-z0-9_]{0,58}_db", re.ASCII)
# What a deleted project's database is called while it is kept: no project's has a `~`, and the end
# is random, so that nothing else on the server, of another master or an earlier life, has it too.
KEPT_DATABASE = re.compile(r"deleted~([1-9][0-9]{0,18})~[0-9a-f]{16}", re.ASCII)

MASTER_NAMES = frozenset({"dreampilot", "defaultdb", "postgres"})
SYSTEM_NAMES = frozenset({"template0", "template1", "information_schema", "pg_catalog"})


class Refused(DatabaseError):
    """The guard says no. A hard refusal stands whatever `force` says, a soft one gives way."""

    def __init__(self, reason: str, *, hard: bool, in_use: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hard = hard
        self.in_use = in_use


def normalize(name: str) -> str:
    """The spelling in which names are compared; drivers and files end a name at a NUL."""
    return str(name).partition("\0")[0].strip().replace("-", "_").lower()


def database_name(project_name: str) -> str:
    """The database that a project of this name gets."""
    return str(project_name).replace("-", "_").lower() + "_db"


def is_master(db_name: str, master: str) -> bool:
    """Whether the name is the configured master's or one that masters commonly have."""
    return normalize(db_name) in MASTER_NAMES | {normalize(master)}


def is_protected(name: str, master: str) -> bool:
    """Whether a database of this name must never be created or dropped for a project."""
    return is_master(name, master) or normalize(name) in SYSTEM_NAMES


def new_database_name(project_name: str, master: str) -> str:
    """The database that a new project of this name may have; raises `Refused` otherwise."""
    if not PROJECT_NAME.fullmatch(str(project_name)):
        raise Refused(f"{project_name!r} is not a project's name", hard=True)
    db_name = database_name(project_name)
    if is_protected(project_name, master) or is_protected(db_name, master):
        raise Refused(f"The name '{project_name}' is reserved.", hard=True)
    return db_name


def find_refusal(db_name: str, master: str) -> Refused | None:
    """Why the database may not be dropped for any project at all, or None."""
    if is_master(db_name, master):
        return Refused(
            f"Cannot delete master database '{db_name}'. "
            "Master database is protected from deletion.",
            hard=True,
        )
    if normalize(db_name) in SYSTEM_NAMES:
        return Refused(f"Cannot delete system database '{db_name}'.", hard=True)
    if not PROJECT_DATABASE.fullmatch(str(db_name)):
        return Refused(f"'{db_name}' is not the name of a project database.", hard=True)
    return None


def new_kept_name(project_id: int) -> str:
    """The name under which a deleted project's database is kept; each time another one."""
    return f"deleted~{project_id}~{secrets.token_hex(8)}"


def find_kept_refusal(kept_name: str, project_id: int) -> Refused | None:
    """Why this is no name under which the project's database was ever kept, or None."""
    match = KEPT_DATABASE.fullmatch(str(kept_name))
    if match is None or match[1] != str(project_id):
        return Refused(
            f"'{kept_name}' is not the name of a database that project {project_id} left.",
            hard=True,
        )
    return None


def check_deletion(project_name: str, db_name: str, master: str) -> Refused | None:
    """Why the database may not be dropped for this project, or None."""
    if not isinstance(project_name, str):
        # `None` would mean the project `none`.
        return Refused(f"{project_name!r} is not a project's name", hard=True)
    if is_protected(project_name, master):
        # No project is called that: whoever names it means the database.
        meant = db_name if is_protected(db_name, master) else project_name
        return find_refusal(meant, master)
    expected = database_name(project_name)
    refusal = find_refusal(db_name, master)
    if db_name == expected or is_protected(db_name, master):
        return refusal
    return Refused(
        f"Database name '{db_name}' doesn't match expected pattern '{expected}' "
        f"for project '{project_name}'",
        hard=refusal is not None,
    )


def validate_deletion(project_name: str, db_name: str, master: str) -> tuple[bool, str]:
    """The guard's answer in the form that scripts and frontends know."""
    refusal = check_deletion(project_name, db_name, master)
    return (True, "Validation passed") if refusal is None else (False, refusal.reason)
