"""What the tests of the import share: samples, and the import into the running service."""

import json
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.importing.formats import Format
from server.importing.report import Report
from server.importing.run import Run
from server.importing.store import Target
from tests.conftest import with_settings, without_settings
from tests.images.samples import png
from tests.importing.exports import SAMPLES
from tests.service import Api, Service
from tests.sql import Sql

Importer = Callable[..., Report]


@pytest.fixture
def sql(service: Service) -> Sql:
    """The service's databases, past the service."""
    return Sql(service.settings)


@pytest.fixture
def importer(service: Service) -> Iterator[Importer]:
    """Imports a file into a user's project as the command does, in this process."""
    with_settings({name: service.settings[name] for name in service.settings if name != "PORT"})

    def take(
        api: Api,
        project_id: int | None,
        *paths: Path,
        dry_run: bool = False,
        only: Format = Format.AUTO,
        source_user: str | None = None,
    ) -> Report:
        report = Report(dry_run)
        target = Target(api.user["id"], project_id, datetime.now(UTC))
        run = Run(target, api.user["email"], only, report, source_user)
        for path in paths:
            run.take(path, lambda name, read: None)
        return report

    yield take
    without_settings()


@pytest.fixture
def chatgpt_zip(tmp_path: Path) -> Path:
    """ChatGPT's export as it is downloaded, with the images of the sample but one."""
    path = tmp_path / "chatgpt.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(SAMPLES / "chatgpt_conversations.json", "conversations.json")
        archive.writestr("user.json", json.dumps({"id": "user-1", "email": "ada@example.com"}))
        archive.writestr("file-Ab12Cd34-sketch.png", png(2, 2))
        archive.writestr("user-1/file_00000000c0ffee-abcd.dat", png(3, 3))
    return path
