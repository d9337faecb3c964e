"""What the service does beside requests, done once in this process."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import database_adapter
from server import startup
from server.auth import limits
from server.auth import queries as auth
from server.auth.guard import hash_token
from server.chat import queries as chat
from server.chat.workers import Worker
from server.cli import queries as cli
from server.importing import queries as importing
from server.projects import queries as projects
from server.storage.contract import Connection
from tests.conftest import with_settings, without_settings
from tests.speed.asking import World
from tests.speed.traced import trace

NOW = datetime.now(UTC)


@contextmanager
def in_this_process(settings: dict[str, str], traced: Path | None = None) -> Iterator[None]:
    """Speak to the service's database as the service does, and as well recorded."""
    with ExitStack() as stack:
        with_settings(settings)
        stack.callback(without_settings)
        if traced is not None:
            stack.enter_context(trace(traced))
        yield


def work(world: World) -> None:
    """The chores of every minute, the life of a process, operators' commands, an import."""
    for chore in startup.CHORES:
        chore()
    worker = Worker()
    worker.beat()
    worker.leave()
    limits.end(0, failed=True)
    for query in (*_chat(world), *_accounts(world), *_import(world), _log_in_again(world)):
        with database_adapter.get_db() as conn:
            query(conn)


Query = Callable[[Connection], object]
Queries = Iterator[Query]


def _log_in_again(world: World) -> Query:
    """Make the token valid that the user was logged out of: what is explained asks with it."""
    token_hash = hash_token(world.api.token or "")
    until = NOW + timedelta(days=1)
    return lambda conn: auth.add_token(conn, world.user, token_hash, NOW, until)


def _chat(world: World) -> Queries:
    """About answers whose process died, and answers of another process."""
    user, answer = world.user, world.ids["answer"]
    yield lambda conn: chat.bury(conn, "gone", 1, "The answer was broken off.")
    yield lambda conn: chat.bury(conn, "gone", None, "The answer was broken off.")
    yield lambda conn: chat.interrupt(conn, "gone", [answer], "The answer was broken off.")
    yield lambda conn: chat.list_news(conn, [(answer, 0)])
    yield lambda conn: chat.free_key(conn, user, answer)
    yield lambda conn: chat.find_running(conn, user, world.session)
    yield lambda conn: chat.request_stop(conn, user, answer)
    yield lambda conn: chat.stop_without_worker(conn, user, answer)
    yield lambda conn: projects.is_generating(conn, user, world.project)


def _accounts(world: World) -> Queries:
    """What `./clawd users` asks."""
    user, key = world.user, world.api.user["email"]
    yield lambda conn: auth.set_disabled(conn, key, None)
    yield lambda conn: chat.stop_all(conn, user)
    yield lambda conn: auth.set_password(conn, key, "x", NOW)
    yield lambda conn: auth.delete_tokens(conn, user)
    yield lambda conn: cli.list_users(conn, 0, 20)
    yield lambda conn: cli.count_projects(conn, user)


def _import(world: World) -> Queries:
    """A conversation of two messages, and a record."""
    user, project, session = world.user, world.project, world.ids["forked"]
    rows = [
        {"role": "user", "content": "Hi", "model": None, "forked": False, "created_at": NOW}
    ] * 2
    yield lambda conn: importing.find_project(conn, user, "books")
    yield lambda conn: importing.find_imported(conn, user, "chatgpt", "1")
    yield lambda conn: importing.add_session(conn, user, project, "x", None, False, NOW, NOW)
    yield lambda conn: importing.add_origin(
        conn, user, session, "chatgpt", "1", None, False, "{}", NOW
    )
    yield lambda conn: importing.grow_session(conn, user, session, False, NOW)
    yield lambda conn: importing.add_messages(conn, user, session, rows)
    yield lambda conn: importing.set_parents(conn, user, [(world.ids["answer"], 1)])
    yield lambda conn: importing.add_nodes(conn, user, session, [("1", None, "x", None)])
    yield lambda conn: importing.list_nodes(conn, user, session)
    yield lambda conn: importing.find_record(conn, user, "openwebui", "profile", "1")
    yield lambda conn: importing.add_record(conn, user, "openwebui", "profile", "1", "{}", NOW)
