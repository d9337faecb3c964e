"""What PostgreSQL's errors mean for the service: by SQLSTATE, or by words where there is none.

The states are those of PostgreSQL's documentation, appendix A.
"""

from server.storage import contract

_CONNECTION_EXCEPTION = "08"
_DATA_EXCEPTION = "22"
_AWAY = (
    _CONNECTION_EXCEPTION,
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
    "57P04",  # database_dropped
    "25P03",  # idle_in_transaction_session_timeout
    "58030",  # io_error
    # undefined_table: the schema is being made.
    "42P01",
    # disk_full: the contract keeps 507 for SQLite; here the disk is another machine's.
    "53100",
)
_KINDS: dict[str, type[contract.DatabaseError]] = {
    "53300": contract.Busy,  # too_many_connections
    "53200": contract.Busy,  # out_of_memory
    "55P03": contract.Busy,  # lock_not_available
    "57014": contract.Busy,  # query_canceled
    "40001": contract.Busy,  # serialization_failure
    "40P01": contract.Busy,  # deadlock_detected
    "55006": contract.Busy,  # object_in_use
    "23505": contract.Conflict,  # unique_violation
    "23503": contract.Conflict,  # foreign_key_violation
    "25006": contract.ReadOnly,  # read_only_sql_transaction
    "42501": contract.Misconfigured,  # insufficient_privilege
}

# What a server says at connecting that it will say to every later attempt, and what mends it.
_HOPELESS = (
    (
        "password authentication failed",
        "set DB_USER and DB_PASSWORD as the server knows them, or a new password there: "
        "psql -h {host} -p {port} -c '\\password {user}'",
    ),
    ("no password supplied", "set DB_PASSWORD in .env.postgres"),
    ("authentication failed", "set the right DB_USER and DB_PASSWORD"),
    ("no pg_hba.conf entry", "allow this host, role and database in pg_hba.conf"),
    ("server does not support SSL", "set DB_SSLMODE to what the server offers"),
    ("is not permitted to log in", "psql -h {host} -p {port} -c 'ALTER ROLE {user} LOGIN'"),
    ("certificate verify failed", "give libpq the authority's certificate (PGSSLROOTCERT)"),
    ("root certificate file", "give libpq the authority's certificate (PGSSLROOTCERT)"),
    ("does not match host name", "set DB_HOST to the name in the server's certificate"),
    ('database "{name}" does not exist', "createdb -h {host} -p {port} -O {user} {name}"),
    (
        'role "{user}" does not exist',
        "createuser -h {host} -p {port} --createdb --pwprompt {user}",
    ),
)


def kind(sqlstate: str | None, message: str) -> type[contract.DatabaseError] | None:
    """The contract's error for a statement's; None for a defect of ours.

    Without a state the connection broke, or was not made.
    """
    if not sqlstate:
        full = "too many c" in message or "remaining connection slots" in message
        return contract.Busy if full else contract.Unavailable
    if sqlstate.startswith(_AWAY):
        return contract.Unavailable
    if sqlstate.startswith(_DATA_EXCEPTION):
        return contract.BadValue
    return _KINDS.get(sqlstate)


def cure(message: str, *, host: str, port: int, name: str, user: str) -> str | None:
    """What mends a connection that will never work; None for one that may work later."""
    place = {"host": host, "port": port, "name": name, "user": user}
    for words, mending in _HOPELESS:
        if words.format(**place) in message:
            return mending.format(**place)
    return None
