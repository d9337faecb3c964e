"""Puts the three parts together once for the whole suite: model stub, real gateway, our service."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.openclaw.gateway import Gateway, running_gateway
from tests.openclaw.model_stub import ModelStub
from tests.openclaw.service import Service, Transcript, running_service


@pytest.fixture(scope="session")
def model() -> Iterator[ModelStub]:
    """The model provider behind the gateway."""
    with ModelStub() as stub:
        yield stub


@pytest.fixture(scope="session")
def gateway(model: ModelStub) -> Iterator[Gateway]:
    """The real gateway, up and taking traffic."""
    install = os.environ.get("OPENCLAW_HOME_DIR")
    if not install:
        pytest.fail("OPENCLAW_HOME_DIR is not set: run this suite with ./scripts/test-openclaw")
    with running_gateway(Path(install), model.url) as running:
        yield running


@pytest.fixture(scope="session")
def whole_transcript() -> Transcript:
    """The file that OPENCLAW_TRANSCRIPT names, emptied; nothing is written without it."""
    name = os.environ.get("OPENCLAW_TRANSCRIPT")
    if not name:
        return Transcript(None)
    path = Path(name)
    path.write_text("# Conversations with a real OpenClaw gateway\n", encoding="utf-8")
    return Transcript(path)


@pytest.fixture
def transcript(whole_transcript: Transcript, request: pytest.FixtureRequest) -> Transcript:
    """The transcript, opened at a heading with the test's name."""
    whole_transcript.heading(request.node.name)
    return whole_transcript


@pytest.fixture(scope="session")
def running(
    gateway: Gateway, whole_transcript: Transcript, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Our service in front of the gateway, one for all tests."""
    folder = tmp_path_factory.mktemp("service")
    with running_service(folder, gateway.url, gateway.token, whole_transcript) as service:
        yield service


@pytest.fixture
def service(running: Service, transcript: Transcript) -> Service:
    """Our service in front of the gateway, with this test's part of the transcript opened."""
    return running
