"""Answers that are on their way hold no connection to the database."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import GATEWAY_TOKEN, fresh_master
from tests.gateway import GatewayStub
from tests.service import Service, sign_up

LONG = "[[gateway:answer tokens=300 delay=0.1]]"


def test_open_streams_leave_the_pool_to_others(
    backend: str, request: pytest.FixtureRequest, gateway: GatewayStub, tmp_path: Path
) -> None:
    """Twelve streams on a pool of three; with a connection each, four would stop the service."""
    settings = {
        **fresh_master(backend, request, tmp_path),
        "AUTH_RATE_LIMIT": "off",
        "SHUTDOWN_GRACE": "0.1",
        "DB_POOL_MIN": "1",
        "DB_POOL_MAX": "3",
        "OPENCLAW_URL": gateway.url,
        "OPENCLAW_TOKEN": GATEWAY_TOKEN,
    }
    with Service(settings, tmp_path) as service, ExitStack() as streams:
        api = sign_up(service)
        project = api.project()["id"]
        for _ in range(12):
            session = api.session(project)["id"]
            assert streams.enter_context(api.stream(session, LONG)).status_code == 200
        assert api.get("/health/queue").json()["running"] == 12
        started = time.monotonic()
        for _ in range(10):
            assert api.get("/projects").status_code == 200
        assert time.monotonic() - started < 3
