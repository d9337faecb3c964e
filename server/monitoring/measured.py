"""What is looked up elsewhere than in the process: databases' sizes, backups, disks."""

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

import database_adapter
from server.backups import state
from server.settings import Settings
from server.storage.contract import DatabaseError, DatabaseSizes

log = logging.getLogger("clawd.monitoring")
T = TypeVar("T")

# How long a scrape waits for it; what comes later is shown the next time.
PATIENCE = 1.0
SIZES_SECONDS = 60.0


class Measurement(Generic[T]):
    """Something that takes a while: measured in a thread, once in `seconds`, never twice at once.

    What raises or hangs leaves the value that was there.
    """

    def __init__(self, measure: Callable[[], T], seconds: float = 0.0) -> None:
        self._measure = measure
        self._seconds = seconds
        # Of its own: a disk that hangs takes this thread, and no other.
        self._limiter = CapacityLimiter(1)
        self._running: asyncio.Task[None] | None = None
        self._next = 0.0
        self._value: T | None = None

    async def value(self) -> T | None:
        """The newest value; None while there is none."""
        if self._running is None and time.monotonic() >= self._next:
            self._running = asyncio.create_task(self._run())
        if self._running is not None:
            await asyncio.wait([self._running], timeout=PATIENCE)
        return self._value

    async def _run(self) -> None:
        try:
            self._value = await anyio.to_thread.run_sync(
                self._measure, limiter=self._limiter, abandon_on_cancel=True
            )
        except (DatabaseError, OSError) as error:
            log.warning("not measured", extra={"cause": str(error)})
        except Exception:
            log.exception("not measured")
        finally:
            self._next = time.monotonic() + self._seconds
            self._running = None


@dataclass(frozen=True)
class Folder:
    """A folder that the service writes to, and the bytes of the disk under it."""

    name: str
    size: int
    free: int


def folders(settings: Settings) -> list[tuple[str, Path]]:
    """The folders that the service writes to, each with its name in the metrics."""
    data = [] if settings.postgres else [("data", settings.db_path.parent)]
    return [*data, ("backups", settings.backup_dir)]


def measure_disk(name: str, folder: Path) -> Folder:
    """The disk under a folder, or under the first above it that there is."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    usage = shutil.disk_usage(there)
    return Folder(name, usage.total, usage.free)


def newest_backup(settings: Settings) -> state.Backup | None:
    """The newest backup of the database in use."""
    mine = [
        backup
        for backup in state.list_backups(settings.backup_dir)
        if backup.backend == settings.backend_choice[0]
    ]
    return mine[-1] if mine else None


class Measured:
    """The numbers of the instance that no process counts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sizes = Measurement(database_adapter.database_sizes, SIZES_SECONDS)
        self._disks = Measurement(lambda: [measure_disk(*folder) for folder in folders(settings)])
        self._backups = Measurement(
            lambda: (newest_backup(settings), state.read_verified(settings.backup_dir))
        )

    async def families(self) -> list[Metric]:
        """What is known now."""
        sizes, disks, backups = await asyncio.gather(
            self._sizes.value(), self._disks.value(), self._backups.value()
        )
        newest, verified = backups or (None, None)
        return [*_sizes(sizes), *_disks(disks or []), *_backup(newest), *_verified(verified)]


def _gauge(name: str, meaning: str, value: float | None) -> GaugeMetricFamily:
    """A number; without a value it isn't shown."""
    family = GaugeMetricFamily(name, meaning)
    if value is not None:
        family.add_metric([], value)
    return family


def _age(at: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - at).total_seconds())


def _sizes(sizes: DatabaseSizes | None) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "clawd_database_size_bytes",
        "Bytes on disk of the master, and of all projects' databases; measured once a minute.",
        labels=["database"],
    )
    if sizes is not None:
        family.add_metric(["master"], sizes["master"])
        family.add_metric(["projects"], sizes["projects"])
    yield family
    number = sizes["number"] if sizes is not None else None
    yield _gauge("clawd_project_databases", "How many databases projects have.", number)


def _disks(disks: list[Folder]) -> Iterator[Metric]:
    size = GaugeMetricFamily(
        "clawd_disk_size_bytes", "Size of the disk under a folder.", labels=["folder"]
    )
    free = GaugeMetricFamily(
        "clawd_disk_free_bytes", "What the service may still use of it.", labels=["folder"]
    )
    for disk in disks:
        size.add_metric([disk.name], disk.size)
        free.add_metric([disk.name], disk.free)
    yield from (size, free)


def _backup(newest: state.Backup | None) -> Iterator[Metric]:
    age = _age(newest.at) if newest else None
    size = newest.size if newest else None
    yield _gauge(
        "clawd_backup_age_seconds",
        "Age of the newest backup of the database in use; absent: there is none.",
        age,
    )
    yield _gauge("clawd_backup_size_bytes", "Size of the newest backup.", size)


def _verified(verified: state.Verified | None) -> Iterator[Metric]:
    age = _age(verified.at) if verified else None
    ok = float(verified.ok) if verified else None
    yield _gauge(
        "clawd_backup_verified_age_seconds",
        "Time since a backup was last verified; absent: none ever was.",
        age,
    )
    yield _gauge("clawd_backup_verified_ok", "1 where that backup was whole and equal, else 0.", ok)
