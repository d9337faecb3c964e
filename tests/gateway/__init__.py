"""A stub of the OpenClaw gateway on a real socket; tests/recorded holds what it speaks."""

from tests.gateway.behaviours import (
    Answer,
    Behaviour,
    Cut,
    Data,
    Drip,
    EndEarly,
    GzipBomb,
    HangUp,
    Page,
    ProviderError,
    Redirect,
    Refuse,
    Silence,
    ToolUse,
)
from tests.gateway.markers import NAMED
from tests.gateway.protocol import ERRORS, RecordedError, Wire
from tests.gateway.request import RecordedRequest
from tests.gateway.server import GatewayStub

__all__ = [
    "ERRORS",
    "NAMED",
    "Answer",
    "Behaviour",
    "Cut",
    "Data",
    "Drip",
    "EndEarly",
    "GatewayStub",
    "GzipBomb",
    "HangUp",
    "Page",
    "ProviderError",
    "RecordedError",
    "RecordedRequest",
    "Redirect",
    "Refuse",
    "Silence",
    "ToolUse",
    "Wire",
]
