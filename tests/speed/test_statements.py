"""What each request costs the database: counted, since a count is the same on every machine.

What is printed has the numbers as they are: `scripts/test tests/speed -rP`.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

import database
from server.storage.contract import fetch_all
from tests.conftest import GATEWAY_TOKEN, fresh_master
from tests.gateway import GatewayStub
from tests.service import Service, sign_up
from tests.speed import plans, queries
from tests.speed.asking import FORMS, World, make_world
from tests.speed.crowd import Most, crowd_postgres, crowd_sqlite
from tests.speed.recording import (
    BACKGROUND,
    BACKGROUND_CONNECTIONS,
    Recorder,
    Statement,
    Trace,
    Wire,
    without_background,
)
from tests.speed.work import in_this_process, work

# Round trips on PostgreSQL, statements there, statements on SQLite. BEGIN and COMMIT are no
# statements, but each is a round trip; to connect takes three, and a fourth for the settings.
COUNTS = {
    "GET /health": (1, 1, 1),
    "GET /health/live": (0, 0, 0),
    "GET /health/ready": (1, 1, 1),
    "GET /health/db": (1, 1, 1),
    "GET /health/queue": (1, 1, 1),
    "GET /health/gateway": (0, 0, 0),
    "POST /auth/signup": (8, 6, 5),
    "POST /auth/login": (13, 10, 8),
    "GET /auth/me": (1, 1, 1),
    "PATCH /auth/me": (4, 3, 3),
    "PATCH /auth/me, the password": (15, 12, 10),
    "GET /project-types": (2, 2, 2),
    "GET /project-types, a later page": (2, 2, 2),
    "GET /projects": (2, 2, 2),
    "GET /projects, a later page": (2, 2, 2),
    "POST /projects": (28, 20, 6),
    "POST /projects, from a template": (35, 22, 14),
    "GET /projects/{project_id}": (2, 2, 2),
    "PATCH /projects/{project_id}": (4, 3, 3),
    "GET /projects/{project_id}/database": (12, 6, 3),
    "GET /projects/{project_id}/sessions": (2, 2, 2),
    "GET /projects/{project_id}/sessions, a later page": (2, 2, 2),
    "POST /projects/{project_id}/sessions": (3, 2, 2),
    "GET /sessions/{session_id}": (2, 2, 2),
    "PATCH /sessions/{session_id}": (4, 3, 3),
    "GET /sessions/{session_id}/messages": (1, 1, 1),
    "GET /sessions/{session_id}/messages, a later page": (1, 1, 1),
    "GET /sessions/{session_id}/messages, forked": (4, 4, 4),
    "GET /sessions/{session_id}/messages, a branch": (4, 4, 4),
    "GET /sessions/{session_id}/branches": (4, 4, 4),
    "GET /sessions/{session_id}/branches, forked": (5, 5, 5),
    "GET /images/{image_id}": (2, 2, 2),
    "GET /chat/{message_id}/stream": (4, 4, 4),
    "GET /chat/{message_id}/stream, running": (4, 4, 4),
    "POST /chat/{message_id}/stop": (2, 2, 2),
    "POST /chat/{message_id}/stop, running": (3, 3, 3),
    "POST /chat": (5, 4, 4),
    "POST /chat, streamed": (5, 4, 4),
    "POST /chat, with an image": (6, 5, 5),
    "POST /chat, with a key": (8, 7, 7),
    "POST /chat, its key again": (7, 6, 6),
    "POST /chat, refused by the gateway": (5, 4, 4),
    "POST /chat, edited": (8, 7, 7),
    "POST /chat, another answer": (13, 12, 12),
    "GET /deleted-projects": (2, 2, 2),
    "GET /deleted-projects, a later page": (2, 2, 2),
    "POST /projects/{project_id}/restore": (52, 39, 26),
    "DELETE /sessions/{session_id}": (9, 6, 15),
    "DELETE /projects/{project_id}": (46, 35, 33),
    "DELETE /projects/{project_id}, by force": (47, 36, 33),
    "DELETE /projects/{project_id}, for good": (30, 20, 22),
    "DELETE /projects/{project_id}, one that is deleted": (36, 25, 16),
    "POST /auth/logout": (2, 2, 2),
}
# Queries that no plan is asked for, each with the reason.
NOT_ASKED = {
    "server/cli/queries.py:estimate": "what PostgreSQL's statistics say",
    "server/cli/queries.py:estimate_bytes": "the size of a table's files",
    "server/cli/queries.py:count_messages_since": "for ./clawd stats, where there are few",
    "server/cli/queries.py:sum_images": "for ./clawd stats on SQLite, which knows no estimate",
    "server/cli/queries.py:server_connections": "about connections",
    "server/doctor/queries.py:read_clock": "about the time",
}
# What may read much, each with the reason.
MAY_READ_MUCH = {
    "server/projects/queries.py:list_databases": "once a start, to compare all with what there is",
    "server/projects/deleted_queries.py:list_kept": "the same",
    "server/cli/queries.py:list_users": "for an operator: every account with a count",
    "server/cli/queries.py:count_projects": "for an operator, of one account",
}
# Rows of these are never deleted.
STAY = {"users": "an account is disabled", "project_types": "an operator adds some"}
_REFERENCES = """
    SELECT keys."table" AS parent, EXISTS (
        SELECT 1 FROM pragma_index_list(tables.name) AS indexes
        JOIN pragma_index_info(indexes.name) AS columns
        WHERE columns.seqno = 0 AND columns.name = keys."from" AND NOT indexes.partial) AS indexed
    FROM sqlite_master AS tables JOIN pragma_foreign_key_list(tables.name) AS keys
    WHERE tables.type = 'table'
"""


@dataclass
class Asked:
    """What the service said to its database, in all and for each form, with who explains it."""

    said: list[Statement]
    forms: dict[str, list[Statement]]
    explainer: plans.Explainer
    service: Service
    postgres: bool


@pytest.fixture(scope="module")
def asked(
    backend: str,
    request: pytest.FixtureRequest,
    gateway: GatewayStub,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Asked]:
    """Every form asked twice, the second time among many rows, then what is no request."""
    folder = tmp_path_factory.mktemp("speed")
    master = fresh_master(backend, request, folder)
    settings = {
        **master,
        "OPENCLAW_URL": gateway.url,
        "OPENCLAW_TOKEN": GATEWAY_TOKEN,
        # One connection: what is prepared once is prepared for the second time.
        "DB_POOL_MIN": "1",
        "DB_POOL_MAX": "1",
    }
    with ExitStack() as stack:
        recorder, service = _start(stack, settings, folder)
        ask_all(recorder, _world(service))
        world = _world(service)
        most = Most(world.user, world.project, world.session, world.ids["forked"])
        if backend == "postgresql":
            server = request.getfixturevalue("postgres_server")
            crowd_postgres(server, master["DB_NAME"], most)
            conn = stack.enter_context(closing(server.connect(master["DB_NAME"])))
            explainer: plans.Explainer = plans.Postgres(conn.cursor())
        else:
            crowd_sqlite(Path(master["DB_PATH"]), most)
            file = database._open(Path(master["DB_PATH"]), "ro")
            explainer = plans.Sqlite(stack.enter_context(closing(file)))
        forms = ask_all(recorder, world)
        traced = recorder.path if isinstance(recorder, Trace) else None
        with in_this_process(service.settings, traced):
            work(world)
        yield Asked(recorder.said(), forms, explainer, service, backend == "postgresql")


def _start(stack: ExitStack, settings: dict[str, str], folder: Path) -> tuple[Recorder, Service]:
    if settings["USE_POSTGRES"] == "true":
        wire = stack.enter_context(Wire(int(settings["DB_PORT"])))
        through = {**settings, "DB_PORT": str(wire.port), "DB_SSLMODE": "disable"}
        return wire, stack.enter_context(Service(through, folder))
    trace = Trace(folder / "trace")
    within = ["python", "-m", "tests.speed.traced", str(trace.path)]
    return trace, stack.enter_context(Service(settings, folder, within))


def _world(service: Service) -> World:
    api = sign_up(service)
    project = api.project()["id"]
    return make_world(api, project, api.session(project)["id"])


def ask_all(recorder: Recorder, world: World) -> dict[str, list[Statement]]:
    """The statements of each form."""
    places = {}
    for name, ask in FORMS.items():
        before = len(recorder.said())
        answer = ask(world)
        assert answer.status_code < 400, (name, answer.text)
        places[name] = slice(before, len(recorder.said()))
    said = without_background(recorder.said())
    return {name: [one for one in said[at] if one is not None] for name, at in places.items()}


def test_every_route_is_asked(asked: Asked) -> None:
    """A route that is not in the table may say to the database whatever it likes."""
    described = {
        f"{method.upper()} {path}"
        for path, operations in asked.service.openapi()["paths"].items()
        for method in operations
    }
    assert {name.partition(",")[0] for name in FORMS} == described


def test_no_request_says_more_than_it_did(asked: Asked) -> None:
    """A statement more, or a round trip, is seen where it is added and not by a slow user.

    Fewer are good news: then the numbers here become lower.
    """
    found = []
    for name, statements in asked.forms.items():
        trips, mine, theirs = COUNTS.get(name, (0, 0, 0))
        now = (
            (*counts(statements), theirs)
            if asked.postgres
            else (trips, mine, counts(statements)[1])
        )
        print(f'    "{name}": {now},')
        if now != (trips, mine, theirs):
            texts = [f"\n    {one.text[:200]}" for one in statements]
            found.append(f"{name}: {now}, not {(trips, mine, theirs)}{''.join(texts)}")
    assert not found, "\n".join(found)
    assert set(COUNTS) == set(FORMS)


def counts(statements: list[Statement]) -> tuple[int, int]:
    """How many round trips, and how many statements that do more than begin, end or prepare."""
    return sum(one.waited for one in statements), sum(not one.frames for one in statements)


def test_the_service_s_own_business_is_told_from_requests(asked: Asked) -> None:
    """A beat under another text would be counted as a statement of a request, now and then."""
    for beginning in (*BACKGROUND, *(BACKGROUND_CONNECTIONS if asked.postgres else ())):
        assert any(one.text.startswith(beginning) for one in asked.said), beginning


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_every_query_is_asked(asked: Asked) -> None:
    """A query that nobody asks here is one whose plan nobody has looked at.

    On PostgreSQL, which gets the texts as they stand in the code.
    """
    texts = {one.text for one in asked.said}
    missing = {
        name
        for name, statements in queries.in_the_code().items()
        for pieces in statements
        if not any(queries.has(text, pieces) for text in texts)
    }
    assert missing == set(NOT_ASKED)


def test_what_refers_to_rows_that_go_is_found_by_an_index(tmp_path: Path) -> None:
    """No plan shows how a foreign key is checked: without one, by a scan for each row that goes.

    The schema is one for both databases.
    """
    with in_this_process({"USE_POSTGRES": "false", "DB_PATH": str(tmp_path / "master.db")}):
        database.init_schema()
        with database.read_db() as conn:
            references = fetch_all(conn, _REFERENCES)
    assert len(references) > 10
    without = {row["parent"] for row in references if not row["indexed"]}
    assert without == set(STAY)


def test_nothing_reads_a_whole_table(asked: Asked) -> None:
    """What takes a moment for a small table takes seconds for a large one."""
    code = queries.in_the_code()
    allowed = [pieces for name in MAY_READ_MUCH for pieces in code[name]]
    texts = dict.fromkeys(one.text for one in asked.said)
    found = {
        re.sub(r"'[^']*'|\d+", "?", text): f"{why}\n    {text[:1000]}"
        for text, why in asked.explainer.complaints(texts)
        if not any(queries.is_made_of(text, pieces) for pieces in allowed)
    }
    assert not found, "\n".join(found.values())
