"""The roles on PostgreSQL: one serves and may use the master, another one owns it.

`cluster_sql` and `master_sql` are the recipe, for a superuser to run; `find_strengths` is the
check that the service makes at its start.
"""

from server.storage.contract import Connection, Misconfigured, fetch_one
from server.storage.migrate import TABLE, Step

# The service never deletes from these, never changes a row of that, and only reads that one.
NEVER_DELETED = ("users", "project_types", "audit_log", "schema_migrations")
NEVER_UPDATED = ("audit_log", "schema_migrations")
NEVER_WRITTEN = ("schema_migrations",)


def owner(role: str) -> str:
    """The role that owns the master's tables when `role` is the one that serves."""
    return f"{role}_owner"


def cluster_sql(role: str, password: str) -> str:
    """Make both roles, or bring them to what they should be; to be run in any database."""
    return f"""
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(role)} AND rolsuper) THEN
        RAISE EXCEPTION '% is a superuser: set DB_USER to a role of its own', {literal(role)};
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(role)}) THEN
        CREATE ROLE {identifier(role)};
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(owner(role))}) THEN
        CREATE ROLE {identifier(owner(role))};
    END IF;
END $$;
ALTER ROLE {identifier(role)} LOGIN CREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
    PASSWORD {literal(password)};
ALTER ROLE {identifier(owner(role))} NOLOGIN NOCREATEDB NOCREATEROLE;
DO $$ BEGIN
    IF pg_has_role({literal(role)}, {literal(owner(role))}, 'MEMBER') THEN
        REVOKE {identifier(owner(role))} FROM {identifier(role)};
    END IF;
END $$;
"""


def database_sql(master: str) -> str:
    """Make the master database; it belongs to whoever runs this."""
    return f"CREATE DATABASE {identifier(master)} TEMPLATE template0 ENCODING 'UTF8'"


def master_sql(role: str, master: str, steps: list[Step]) -> str:
    """Make the tables, or bring them up to date, and let the role use them; in the master.

    A master that the role had made itself, with its tables in `public`, is taken over.
    """
    return f"""
ALTER DATABASE {identifier(master)} OWNER TO CURRENT_USER;
ALTER DATABASE {identifier(master)} IS_TEMPLATE false;
REVOKE ALL ON DATABASE {identifier(master)} FROM PUBLIC, {identifier(role)};
GRANT CONNECT ON DATABASE {identifier(master)} TO {identifier(role)};
REVOKE CREATE ON SCHEMA public FROM PUBLIC, {identifier(role)};
DO $$ BEGIN
    IF to_regclass('public.schema_migrations') IS NULL THEN
        CREATE SCHEMA IF NOT EXISTS {identifier(role)};
        ALTER SCHEMA {identifier(role)} OWNER TO {identifier(owner(role))};
        GRANT USAGE ON SCHEMA {identifier(role)} TO {identifier(role)};
        SET LOCAL search_path = {identifier(role)};
    ELSE
        GRANT CREATE ON SCHEMA public TO {identifier(owner(role))};
        GRANT USAGE ON SCHEMA public TO {identifier(role)};
        SET LOCAL search_path = public;
    END IF;
END $$;
{_take_over(role)}
SET LOCAL ROLE {identifier(owner(role))};
{TABLE};
{"".join(map(_apply, steps))}
{_grants(role)}
RESET ROLE;
"""


def _take_over(role: str) -> str:
    """Make the owner the owner of what the role owns there."""
    return f"""
DO $$ DECLARE
    found record;
BEGIN
    FOR found IN SELECT oid::regclass AS name FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
            AND relowner = {literal(role)}::regrole
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO %I', found.name, {literal(owner(role))});
    END LOOP;
    FOR found IN SELECT oid::regprocedure AS name FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace
            AND proowner = {literal(role)}::regrole
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO %I', found.name, {literal(owner(role))});
    END LOOP;
END $$;
"""


def _apply(step: Step) -> str:
    """The step, unless it was applied already."""
    return f"""
DO $do$ BEGIN
    IF NOT EXISTS (SELECT FROM schema_migrations WHERE name = {literal(step.name)}) THEN
        EXECUTE {literal(step.sql)};
        INSERT INTO schema_migrations (name, checksum, applied_at)
        VALUES ({literal(step.name)}, {literal(step.checksum)}, now()::text);
    END IF;
END $do$;
"""


def _grants(role: str) -> str:
    """What the role may do with the tables, no more; it may set sequences, as copies need."""
    return f"""
DO $$ DECLARE
    place text := current_schema();
BEGIN
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', place, {literal(role)});
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO %I',
        place, {literal(role)});
    EXECUTE format('GRANT ALL ON ALL SEQUENCES IN SCHEMA %I TO %I', place, {literal(role)});
END $$;
REVOKE DELETE ON {", ".join(NEVER_DELETED)} FROM {identifier(role)};
REVOKE UPDATE ON {", ".join(NEVER_UPDATED)} FROM {identifier(role)};
REVOKE INSERT ON {", ".join(NEVER_WRITTEN)} FROM {identifier(role)};
"""


def identifier(name: str) -> str:
    """The name as SQL spells it."""
    return '"' + _whole(name).replace('"', '""') + '"'


def literal(text: str) -> str:
    """The text as SQL spells it, whatever `standard_conforming_strings` says."""
    quoted = _whole(text).replace("'", "''")
    return f"E'{quoted.replace(chr(92), chr(92) * 2)}'" if "\\" in quoted else f"'{quoted}'"


def _whole(text: str) -> str:
    if "\0" in text:
        raise Misconfigured("a name or password for PostgreSQL can't contain a NUL")
    return text


def find_strengths(conn: Connection) -> list[str]:
    """What the current role could do to the master and the service never does."""
    row = fetch_one(
        conn,
        """
        SELECT (SELECT pg_has_role(current_user, datdba, 'MEMBER') FROM pg_database
                WHERE datname = current_database()) AS master,
            (SELECT rolcreaterole FROM pg_roles WHERE rolname = current_user) AS roles,
            EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('users')
                AND pg_has_role(current_user, relowner, 'MEMBER')) AS tables
        """,
    )
    reasons = {
        "master": "owns the master database",
        "tables": "owns the master's tables",
        "roles": "may make roles",
    }
    return [reason for name, reason in reasons.items() if row and row[name]]


def is_superuser(conn: Connection) -> bool:
    """Whether the current role is a superuser, or may become one: then nothing is refused it."""
    row = fetch_one(
        conn,
        "SELECT EXISTS (SELECT FROM pg_roles "
        "WHERE rolsuper AND pg_has_role(current_user, oid, 'MEMBER')) AS found",
    )
    return bool(row and row["found"])
