"""What a target holds besides this service's tables: nothing is written beside it."""

from server.migration import target
from server.migration.compare import Difference
from server.migration.keys import NAME
from server.migration.master import NOT_COPIED
from server.migration.tables import Table

_TABLES = """
    SELECT format('%I.%I', nspname, relname), relname FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname <> 'information_schema'
        AND nspname !~ '^pg_' AND NOT EXISTS (
            SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e'
        )
    ORDER BY 1
"""


def find_strangers(conn: target.Connection, tables: list[Table]) -> list[Difference]:
    """Tables and views of somebody else; all of them where the service has made none yet."""
    known = {*(table.name for table in tables), *NOT_COPIED, NAME}
    if not target.value(conn, "SELECT to_regclass('schema_migrations')"):
        known = set()
    return [
        Difference("master", shown, "the whole table", "", None, "row")
        for shown, name in target.rows(conn, _TABLES)
        if name not in known
    ]


def is_unused(conn: target.Connection, tables: list[Table]) -> bool:
    """Whether nobody has ever written to the tables, nor a copy; the schema brings some types."""
    return all(target.is_empty(conn, table) for table in tables if table.name != "project_types")
