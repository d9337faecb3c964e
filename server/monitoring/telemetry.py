"""OpenTelemetry's traces and metrics of requests, through FastAPI's own `telemetry`."""

import os
from importlib.util import find_spec

from fastapi.telemetry import TelemetryConfig
from starlette.types import Scope

from server import metrics
from server.settings import BadSettings, Settings

EXPORTER = "opentelemetry.exporter.otlp.proto.http"
# What the SDK reads from the environment. A collector that is away must not hold up the end.
DEFAULTS = {"OTEL_SERVICE_NAME": "clawd-backend", "OTEL_EXPORTER_OTLP_TIMEOUT": "2"}


def config(settings: Settings) -> TelemetryConfig:
    """What FastAPI is told: everything off unless there is somewhere to send it to.

    The SDK gets the address as it gets all else, by the environment. Raises `BadSettings` where
    the packages are missing.
    """
    endpoint = settings.otel_exporter_otlp_endpoint
    if endpoint is None:
        return {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
    if not _installed():
        raise BadSettings(
            "OTEL_EXPORTER_OTLP_ENDPOINT: needs packages that are not installed; "
            "scripts/venv requirements.lock requirements-otel.lock"
        )
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Its logs hold the texts of exceptions, and these may hold a database's rows.
    return {"logs": False, "auto_configure": True, "exclude": _is_a_check}


def _installed() -> bool:
    try:
        return find_spec(EXPORTER) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def _is_a_check(scope: Scope) -> bool:
    """What is asked every few seconds would bury what users do."""
    path: str = scope.get("path", "")
    return path == metrics.PATH or path.startswith("/health")
