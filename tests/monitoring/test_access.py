"""Who may read the metrics: whoever asks on this machine, with nobody between, or has the token."""

from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from server.monitoring.access import may_read
from server.settings import Settings
from tests.monitoring.conftest import TOKEN
from tests.monitoring.scraping import ask
from tests.service import Api, Json, Service

HERE = {"host": "127.0.0.1:8002"}
BEARER = {"authorization": f"Bearer {TOKEN}"}
PROXIED = ("X_Forwarded_For", "X_Forwarded_Proto", "Forwarded", "X_Real_IP", "Via")


@pytest.mark.parametrize(
    ("client", "version", "headers", "allowed"),
    [
        ("127.0.0.1", "1.1", HERE, True),
        ("127.8.9.10", "1.1", HERE, True),
        ("::1", "1.1", {"host": "[::1]:8002"}, True),
        ("::ffff:127.0.0.1", "1.1", {"host": "localhost"}, True),
        ("203.0.113.9", "1.1", HERE, False),
        ("fd00::1", "1.1", {"host": "localhost"}, False),
        ("", "1.1", HERE, False),
        (None, "1.1", HERE, False),
        ("localhost", "1.1", HERE, False),
        # nginx, which adds no header by itself.
        ("127.0.0.1", "1.0", HERE, False),
        # A page whose name was made to lead here.
        ("127.0.0.1", "1.1", {"host": "rebound.example.com"}, False),
        ("127.0.0.1", "1.1", {"host": "127.0.0.1.example.com"}, False),
        ("127.0.0.1", "1.1", {}, False),
        ("203.0.113.9", "1.0", BEARER, True),
        ("203.0.113.9", "1.1", {"authorization": f"bearer  {TOKEN}"}, True),
        ("203.0.113.9", "1.1", {"authorization": f"Basic {TOKEN}"}, False),
        ("203.0.113.9", "1.1", {"authorization": f"Bearer {TOKEN}x"}, False),
        ("203.0.113.9", "1.1", {"authorization": f"Bearer {TOKEN[:-1]}"}, False),
        ("203.0.113.9", "1.1", {"authorization": "Bearer "}, False),
        ("203.0.113.9", "1.1", {"authorization": "Bearer \xe4\xf6"}, False),
    ],
)
def test_the_rule(
    client: str | None, version: str, headers: dict[str, str], *, allowed: bool
) -> None:
    """An address of this machine's own and its name, or the token."""
    settings = Settings(metrics_token=SecretStr(TOKEN))
    assert may_read(settings, client, version, headers) is allowed


def test_without_a_token_there_is_none() -> None:
    """An empty one in the header is not the one that isn't set."""
    for given in ("Bearer ", "Bearer", "Bearer None", ""):
        assert not may_read(Settings(), "203.0.113.9", "1.1", {"authorization": given})


def said(response: httpx.Response) -> Json:
    """The body of a refusal, but for the request's id."""
    body: Json = response.json()
    return {name: value for name, value in body.items() if name != "request_id"}


def test_a_proxy_on_this_machine_does_not_open_it(monitored: Service) -> None:
    """Everybody on the internet comes from loopback then; to them it is no path at all."""
    nowhere = said(ask(monitored, "/metricz"))
    for header in PROXIED:
        refused = ask(monitored, "/metrics", **{header: "127.0.0.1"})
        assert (refused.status_code, said(refused)) == (404, nowhere)
    headers = {"X_Forwarded_For": "203.0.113.9", "Authorization": f"Bearer {TOKEN}"}
    assert ask(monitored, "/metrics", **headers).status_code == 200


def test_a_trusted_proxy_does_not_open_it(tmp_path: Path) -> None:
    """Then uvicorn says what the proxy says: that it comes from loopback, where somebody lies."""
    settings = {
        "USE_POSTGRES": "false",
        "DB_PATH": str(tmp_path / "m.db"),
        "TRUSTED_PROXIES": "127.0.0.1",
    }
    with Service(settings, tmp_path) as service:
        for address in ("127.0.0.1", "203.0.113.9, 127.0.0.1", "::1"):
            assert ask(service, "/metrics", X_Forwarded_For=address).status_code == 404
        assert ask(service, "/metrics").status_code == 200


def test_it_is_no_route(monitored: Service, user: Api) -> None:
    """A user's token opens nothing, other methods don't show that it is there, nor does OpenAPI."""
    headers = {"X-Forwarded-For": "203.0.113.9"}
    assert user.http.get("/metrics", headers=headers).status_code == 404
    for method in ("POST", "DELETE", "OPTIONS"):
        answer = ask(monitored, "/metrics", method)
        assert answer.status_code == ask(monitored, "/metricz", method).status_code
        assert "allow" not in answer.headers
    assert "/metrics" not in monitored.openapi()["paths"]
    head = ask(monitored, "/metrics", "HEAD")
    assert (head.status_code, head.content) == (200, b"")


def test_the_token_is_in_no_log(monitored: Service) -> None:
    """Nor is it in an answer."""
    answer = ask(monitored, "/metrics", Authorization=f"Bearer {TOKEN}")
    assert TOKEN not in answer.text
    assert TOKEN not in monitored.log
