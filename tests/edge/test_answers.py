"""What every answer has: a shape, an id, its headers."""

import re
import time
from typing import Any

import httpx
import pytest

from tests.edge.conftest import ORIGINS
from tests.edge.problems import check_problem
from tests.edge.wire import Wire
from tests.service import PASSWORD, Api, Service, sign_up

PUBLIC = {"/auth/signup", "/auth/login"}


def operations(service: Service) -> list[tuple[str, str]]:
    """Every method and path that the service describes, with ids that nothing has."""
    return [
        (method.upper(), re.sub(r"\{\w+\}", str(2**62), path))
        for path, methods in service.openapi()["paths"].items()
        for method in methods
    ]


def access_line(service: Service, request_id: str) -> dict[str, Any]:
    """The log's line about a request, which is written once its answer is on its way."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for line in service.log_lines():
            if (line["request_id"], line["event"]) == (request_id, "request"):
                return line
        time.sleep(0.02)
    raise AssertionError(f"no line about {request_id}")


def test_unknown_routes_are_problems(api: Api) -> None:
    """404 in the one shape, with and without a token; a slash at the end is another path."""
    for path in ("/", "/nothing", "/projects/", "/auth", "/projects/1/x", "/AUTH/ME", "/redoc"):
        for client in (api, Api(api.service)):
            check_problem(client.get(path), 404, "not_found")
    check_problem(api.http.post("/projects/", json={"name": "abc"}), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/projects", {"GET", "POST"}),
        ("PUT", "/projects/1", {"GET", "PATCH", "DELETE"}),
        ("POST", "/sessions/1", {"GET", "PATCH", "DELETE"}),
        ("GET", "/auth/login", {"POST"}),
        ("DELETE", "/auth/me", {"GET", "PATCH"}),
        ("TRACE", "/health", {"GET", "HEAD"}),
        ("PURGE", "/chat", {"POST"}),
        ("OPTIONS", "/projects", {"GET", "POST"}),
    ],
)
def test_other_methods_are_405_with_allow(
    api: Api, method: str, path: str, allowed: set[str]
) -> None:
    """`Allow` names every method of the path (RFC 9110, 15.5.6), not only the first route's."""
    answer = api.http.request(method, path)
    check_problem(answer, 405, "method_not_allowed")
    assert {one.strip() for one in answer.headers["allow"].split(",")} == allowed


def test_every_route_but_the_public_ones_wants_a_token(service: Service) -> None:
    """A new route is closed until somebody opens it: this test reads the description."""
    nobody = Api(service)
    for method, path in operations(service):
        if path in PUBLIC or path.startswith("/health"):
            continue
        answer = nobody.request(method, path, json={} if method in ("POST", "PATCH") else None)
        check_problem(answer, 401)


def test_every_answer_has_its_headers(api: Api) -> None:
    """nosniff and an id on successes and failures, of every route, the documentation included."""
    paths = [*operations(api.service), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/x")]
    for method, path in paths:
        if path == "/auth/logout":
            continue
        answer = api.http.request(method, path)
        where = f"{method} {path} -> {answer.status_code}"
        assert answer.status_code < 500, where
        assert answer.headers["x-content-type-options"] == "nosniff", where
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answer.headers["x-request-id"]), where
        assert "server" not in answer.headers, where


@pytest.mark.parametrize("mine", ["a", "abc-1.2_X", "0" * 64])
def test_a_clean_request_id_is_kept(api: Api, mine: str) -> None:
    """So that a client's log and ours can be put together; it stands in the body and in the log."""
    answer = api.get("/projects/0", headers={"X-Request-ID": mine})
    assert answer.headers["x-request-id"] == mine
    assert check_problem(answer, 422)["request_id"] == mine
    assert access_line(api.service, mine)["status"] == 422


def test_another_request_id_is_replaced(api: Api) -> None:
    """Anything that could forge a line of a log, or fill it."""
    for theirs in ("", "a b", "x" * 65, "a\tb", "a;b", '"', "\u00e9", "{}"):
        headers = {b"X-Request-ID": theirs.encode("latin-1")}
        ours = api.http.get("/health/live", headers=headers).headers["x-request-id"]
        assert ours != theirs
        assert re.fullmatch(r"[0-9a-f]{20}", ours)
    first, second = (api.get("/health/live").headers["x-request-id"] for _ in range(2))
    assert first != second


IDS = [
    "+1",
    "01",
    "1_0",
    "1.0",
    "-1",
    "0",
    "9223372036854775808",
    str(10**30),
    "%201",
    "1%20",
    "1%0a",
    "%D9%A1",
    "1e3",
    "0x1",
    "abc",
    "null",
    "%00",
    "1%00",
]


def test_ids_are_plain_digits(api: Api) -> None:
    """Python's `int` reads `+1`, `01`, `1_0` and Arabic digits: one thing would have many URLs."""
    session = api.session()
    assert session["id"] > 0
    with Wire(api.service) as wire:
        token = ("Authorization", f"Bearer {api.token}")
        for text in IDS:
            for method, path in (
                ("GET", f"/projects/{text}"),
                ("DELETE", f"/projects/{text}?force=true"),
                ("GET", f"/projects/{text}/database"),
                ("GET", f"/projects/{text}/sessions"),
                ("GET", f"/sessions/{text}"),
                ("DELETE", f"/sessions/{text}"),
                ("GET", f"/sessions/{text}/messages"),
                ("GET", f"/images/{text}"),
            ):
                answer = wire.send(method, path, [token])
                assert answer.status in (404, 422), f"{method} {path}: {answer.status}"
    for session_id in ("1", 1.5, True, 0, -1, 2**63, 10**30, None, [1]):
        body = {"session_id": session_id, "message": "x"}
        check_problem(api.post("/chat", body), 422)
    check_problem(api.get(f"/projects/{2**63 - 1}"), 404, "not_found")


def test_no_origin_is_allowed_by_default(api: Api) -> None:
    """Starlette's `*` with credentials reflects every origin; without a setting there is none."""
    headers = {"Origin": "http://localhost:3001", "Access-Control-Request-Method": "POST"}
    for answer in (
        api.http.get("/projects", headers=headers),
        api.http.options("/projects", headers=headers),
        api.http.get("/health", headers=headers),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_configured_origins_are_allowed_and_no_others(guarded: Service) -> None:
    """Exactly those that are named, without credentials; failures can be read by the page too."""
    url = guarded.url + "/projects"
    for origin in ORIGINS:
        preflight = httpx.options(
            url,
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization, content-type, idempotency-key",
            },
        )
        assert preflight.status_code == 200, preflight.text
        assert preflight.headers["access-control-allow-origin"] == origin
        refused = httpx.get(url, headers={"Origin": origin})
        check_problem(refused, 401)
        assert refused.headers["access-control-allow-origin"] == origin
        assert "x-request-id" in refused.headers["access-control-expose-headers"].lower()
        assert "access-control-allow-credentials" not in refused.headers
        assert "Origin" in refused.headers["vary"]
    for origin in (
        "https://evil.example",
        "https://app.example.com.evil.example",
        "http://app.example.com",
        "https://app.example.com:444",
        "null",
    ):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        for answer in (httpx.options(url, headers=asked), httpx.get(url, headers=asked)):
            assert "access-control-allow-origin" not in answer.headers


def test_production_shows_no_documentation(guarded: Service, service: Service) -> None:
    """In development /docs is there; in production it is as absent as any unknown route."""
    for path in ("/docs", "/openapi.json"):
        check_problem(httpx.get(guarded.url + path), 404, "not_found")
        assert httpx.get(service.url + path).status_code == 200
    api = sign_up(guarded, password="a rather uncommon one")
    assert api.http.get("/auth/me").json() == api.user


def test_health_in_full(service: Service, backend: str) -> None:
    """The contract's members, and HEAD for load balancers that ask that way."""
    api = Api(service)
    answer = api.get("/health")
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    assert set(body) == {
        "status",
        "backend",
        "version",
        "commit",
        "uptime_s",
        "database",
        "gateway",
    }
    assert (body["status"], body["backend"]) == ("ok", backend)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", body["version"])
    assert body["uptime_s"] >= 0
    assert body["database"]["status"] == "ok"
    assert body["gateway"]["kind"]
    head = api.http.head("/health")
    assert (head.status_code, head.content) == (200, b"")


def test_health_of_each_part(service: Service) -> None:
    """Each says what it is about, without a token and without a secret."""
    api = Api(service)
    for path in ("live", "ready", "db", "queue", "gateway"):
        answer = api.get(f"/health/{path}")
        assert answer.status_code == 200, path
        assert answer.json()["status"] == "ok"
    assert api.get("/health/live").json() == {"status": "ok"}
    db = api.get("/health/db").json()
    assert db["latency_ms"] >= 0
    assert {"size", "in_use", "idle", "waiting", "max"} <= set(db["pool"])
    assert api.get("/health/queue").json()["running"] >= 0
    for path in ("", "/db", "/gateway", "/ready"):
        text = api.get(f"/health{path}").text
        assert service.settings["OPENCLAW_TOKEN"] not in text
        assert service.settings.get("DB_PASSWORD", PASSWORD) not in text


def test_health_without_a_gateway_says_so(guarded: Service) -> None:
    """The database works, so does the service; only the part that is down is 503."""
    assert httpx.get(f"{guarded.url}/health").status_code == 200
    down = httpx.get(f"{guarded.url}/health/gateway")
    assert down.status_code == 503
    assert down.json()["status"] == "error"
    assert int(down.headers["retry-after"]) >= 1
