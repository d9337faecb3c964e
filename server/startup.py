"""What happens between starting the process and serving requests, and at its end."""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import FrameType

import anyio
import anyio.to_thread
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

import database_adapter
from server import memory
from server.auth import limits
from server.auth.passwords import Hashing
from server.chat.echo import EchoGateway
from server.chat.gateway import Gateway
from server.chat.openclaw import HttpGateway
from server.chat.service import Chat
from server.chat.turns import forget_keys
from server.edge import StartupFailed
from server.health.checks import Checks
from server.logs import configure
from server.monitoring.page import Monitor
from server.projects import consistency, mending, purging
from server.sessions import deletion
from server.settings import Settings, get_settings
from server.storage import environment
from server.storage.contract import Busy, DatabaseError, Misconfigured, StorageFull, Unavailable
from server.version import misplaced

log = logging.getLogger("clawd.startup")

RETRY_SECONDS = 1.0
MEND_SECONDS = 60.0
# More threads than this only fight over the interpreter and the pool.
THREADS = 16


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open what the service needs, serve, and close it in the opposite order."""
    settings = get_settings()
    configure(settings.log_format, settings.log_level)
    memory.keep_little()
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    if reason := misplaced(settings):
        raise StartupFailed(reason)
    state = app.state
    state.started, state.ready, state.not_ready_because = time.monotonic(), False, "starting"
    state.hashing, state.checks = Hashing(), Checks()
    state.chat = Chat(_gateway(settings), settings)
    state.monitor = Monitor(settings, state.checks)
    log.info("database chosen", extra=database_adapter.get_database_info())
    if not await _prepare(app, first=True):
        log.warning("the database is not there yet; trying on")
    housekeeping = asyncio.create_task(_keep_house(app), name="housekeeping")
    await state.chat.generations.open()
    state.monitor.open()
    _drain_on_signal(app, settings)
    try:
        yield
    finally:
        housekeeping.cancel()
        with suppress(asyncio.CancelledError):
            await housekeeping
        state.monitor.close()
        await state.chat.close()
        await run_in_threadpool(database_adapter.close_pool)
        log.info("stopped")


def _drain_on_signal(app: FastAPI, settings: Settings) -> None:
    """Give running answers their grace when the process is asked to end.

    The server waits for open streams before it ends the lifespan, so this must begin with the
    signal itself. The handler that was there, the server's, is called too.
    """
    loop = asyncio.get_running_loop()

    def drain() -> None:
        app.state.ready, app.state.not_ready_because = False, "shutting down"
        app.state.chat.drain()
        loop.call_later(settings.shutdown_grace, app.state.chat.interrupt)
        log.info("draining", extra={"running": app.state.chat.generations.count})

    def watch(number: signal.Signals) -> None:
        before = signal.getsignal(number)

        def handle(received: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(drain)
            if callable(before):
                before(received, frame)

        signal.signal(number, handle)

    if threading.current_thread() is threading.main_thread():
        # systemd and docker send SIGTERM, PM2 and a terminal SIGINT.
        watch(signal.SIGTERM)
        watch(signal.SIGINT)


def _gateway(settings: Settings) -> Gateway:
    return HttpGateway(settings) if settings.openclaw_url else EchoGateway()


async def _prepare(app: FastAPI, *, first: bool = False) -> bool:
    """Make or update the schema; False while the database is not there.

    Raises `StartupFailed` for what waiting won't mend.
    """
    try:
        await run_in_threadpool(_take_database)
    except Misconfigured as error:
        reason = str(error)
        if not reason.startswith("PostgreSQL at"):
            reason = f"the database {_place()} can't be used: {reason}"
        raise StartupFailed(reason) from error
    except DatabaseError as error:
        away = isinstance(error, Unavailable) and get_settings().postgres
        if not (away or isinstance(error, Busy | StorageFull)):
            raise StartupFailed(f"the database {_place()} can't be used: {error}") from error
        app.state.not_ready_because = _reason(error)
        log.log(logging.WARNING if first else logging.DEBUG, "no database: %s", error)
        return False
    app.state.ready, app.state.not_ready_because = True, ""
    log.info("ready")
    return True


def _take_database() -> None:
    """Bring the database up to date, unless this is development and the database production's.

    A branch's steps of schema/ would keep production itself from starting again.
    """
    settings = get_settings()
    production = settings.app_env == "production"
    marked = database_adapter.is_production()
    if marked and not production and not settings.allow_prod_db:
        raise Misconfigured(
            "production has marked it as its own; set APP_ENV=production to start production, "
            "or give development a database of its own, or set ALLOW_PROD_DB=1"
        )
    database_adapter.init_schema()
    if production and not marked:
        with database_adapter.get_db() as conn:
            environment.mark_production(conn)


def _place() -> str:
    info = database_adapter.get_database_info()
    return info.get("path") or "{host}:{port}, database {database}".format(**info)


def _reason(error: DatabaseError) -> str:
    match error:
        case Busy():
            return "the database is busy"
        case StorageFull():
            return "the disk is full"
    return "the database is unavailable"


async def _keep_house(app: FastAPI) -> None:
    """Wait for the database if it isn't there, then mend and tidy up from time to time."""
    try:
        while not app.state.ready and not app.state.chat.generations.draining:
            await asyncio.sleep(RETRY_SECONDS)
            await _prepare(app)
    except StartupFailed as error:
        # The server has come and will never take us: a process manager should know.
        log.critical("can't start: %s", error)
        os._exit(3)
    except Exception:
        log.critical("can't start", exc_info=True)
        os._exit(3)
    # The report once a start: what nothing mends by itself would be said every minute.
    await _do(*CHORES, consistency.report)
    while True:
        await asyncio.sleep(MEND_SECONDS)
        await _do(*CHORES)


CHORES = (mending.mend, purging.sweep, deletion.mend, limits.forget_old, forget_keys)


async def _do(*chores: Callable[[], None]) -> None:
    for chore in chores:
        name = f"{chore.__module__}.{chore.__name__}"
        try:
            await run_in_threadpool(chore)
        except DatabaseError as error:
            log.warning("chore not done", extra={"chore": name, "cause": str(error)})
        except Exception:
            log.exception("chore failed", extra={"chore": name})
