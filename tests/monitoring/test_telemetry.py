"""OpenTelemetry: off unless there is somewhere to send it to."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.service import ROOT, Service, environment, sign_up


class Collector:
    """What a collector of OpenTelemetry got over HTTP."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.got.append((self.path, body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> list[tuple[str, dict[str, str]]]:
        """The names of all spans, with their attributes."""
        found = []
        for path, body in self.got:
            if path == "/v1/traces":
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        for span in scope.spans:
                            pairs = {one.key: one.value.string_value for one in span.attributes}
                            found.append((span.name, pairs))
        return found

    def metrics(self) -> set[str]:
        """The names of all metrics."""
        return {
            metric.name
            for path, body in self.got
            if path == "/v1/metrics"
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def collector() -> Iterator[Collector]:
    """One that listens."""
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def test_traces_and_metrics_reach_the_collector(collector: Collector, tmp_path: Path) -> None:
    """Each request's span with its route, and how long they took; no texts, no health checks."""
    settings = {
        "USE_POSTGRES": "false",
        "DB_PATH": str(tmp_path / "m.db"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
    }
    with Service(settings, tmp_path) as service:
        user = sign_up(service)
        session = user.session()
        user.chat(session["id"], "a text of nobody else's")
        assert user.post("/projects", {"name": 7}).status_code == 422
        user.http.get("/metrics")
        assert user.token
    spans = dict(collector.spans())
    assert spans["POST /projects/{project_id}/sessions"]["http.route"]
    assert {"http.server.request.duration", "http.server.active_requests"} <= collector.metrics()
    everything = b"".join(body for _, body in collector.got)
    assert b"clawd-backend" in everything
    assert {path for path, _ in collector.got} == {"/v1/traces", "/v1/metrics"}
    for secret in (b"a text of nobody", user.token.encode(), b"correct horse", b"/health"):
        assert secret not in everything
    assert "GET /metrics" not in spans


def test_without_an_address_nothing_is_loaded(tmp_path: Path) -> None:
    """The base is small: neither the SDK nor the exporter is imported, nor is a span made."""
    loaded = (
        "import sys; import app; "
        "assert not app.app._native_telemetry.enabled(); "
        "sys.exit(any('opentelemetry.sdk' in name or 'exporter' in name for name in sys.modules))"
    )
    settings = {"USE_POSTGRES": "false", "DB_PATH": str(tmp_path / "m.db")}
    done = subprocess.run(
        [sys.executable, "-c", loaded], cwd=ROOT, env=environment(settings), check=False
    )
    assert done.returncode == 0


def test_missing_packages_are_named(tmp_path: Path) -> None:
    """Asked for and not installed: one line with the command, not a warning that nobody reads."""
    without = (
        "import sys; sys.argv = ['server']; sys.modules['opentelemetry.exporter'] = None; "
        "from server.__main__ import main; main()"
    )
    settings = {
        "USE_POSTGRES": "false",
        "DB_PATH": str(tmp_path / "m.db"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-c", without],
        cwd=ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        "clawd-backend can't start: OTEL_EXPORTER_OTLP_ENDPOINT: needs packages that are not "
        "installed; scripts/venv requirements.lock requirements-otel.lock"
    )
    assert "Traceback" not in done.stderr
    for name in last.split()[-2:]:
        assert (ROOT / name).exists()
