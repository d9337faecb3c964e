"""The answers that need no model: health, readiness, unknown paths."""

from tests.gateway.protocol import (
    JSON_TYPE,
    NO_STORE,
    TEXT_TYPE,
    Headers,
    Json,
    json_text,
    whole_head,
)
from tests.gateway.request import RecordedRequest

CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
AGENTS = ("openclaw", "openclaw/default", "openclaw/main")


def probe(request: RecordedRequest, *, draining: bool, uptime: float) -> bytes:
    """The answer to anything but a chat; `uptime` is in seconds."""
    status, content_type, extra, body = _page(request.path.partition("?")[0], draining, uptime)
    data = body.encode()
    head = whole_head(status, len(data), content_type, extra, close=request.closes)
    return head if request.method == "HEAD" else head + data


def _page(path: str, draining: bool, uptime: float) -> tuple[int, str, Headers, str]:
    if path in ("/health", "/healthz"):
        return 200, JSON_TYPE, NO_STORE, json_text({"ok": True, "status": "live"})
    if path in ("/ready", "/readyz"):
        body = json_text(_readiness(draining, uptime))
        return (503 if draining else 200), JSON_TYPE, NO_STORE, body
    if path == MODELS:
        found = [{"id": agent, "object": "model"} for agent in AGENTS]
        return 200, JSON_TYPE, NO_STORE, json_text({"object": "list", "data": found})
    if path == CHAT:
        return 405, TEXT_TYPE, (("Allow", "POST"),), "Method Not Allowed"
    return 404, TEXT_TYPE, (), "Not Found"


def _readiness(draining: bool, uptime: float) -> Json:
    return {
        "ready": not draining,
        "failing": ["gateway-draining"] if draining else [],
        "uptimeMs": int(uptime * 1000),
        "eventLoop": {
            "degraded": False,
            "degradedSinceMs": None,
            "reasons": [],
            "intervalMs": 1000.5,
            "delayP99Ms": 21.5,
            "delayMaxMs": 21.5,
            "utilization": 0.009,
            "cpuCoreRatio": 0.009,
            "cpuBreakdown": {
                "mainThreadCoreRatio": 0.009,
                "hostUtilization": 0.5,
                "hostCpuCount": 2,
                "workerCoreRatio": 0,
                "otherThreadsCoreRatio": 0,
            },
        },
    }
