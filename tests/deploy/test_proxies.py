"""What deploy/ says to Caddy and nginx, and what then passes through them."""

import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.chat.following import wait_until
from tests.conftest import GATEWAY_TOKEN
from tests.deploy.proxies import Caddy, Nginx, Proxy, speaks_tls
from tests.gateway import GatewayStub, Silence
from tests.service import Api, Service, sign_up

BOTH = pytest.mark.parametrize("kind", [Caddy, Nginx], ids=["caddy", "nginx"], scope="module")
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def upstream(gateway: GatewayStub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, which believes a proxy on this machine."""
    folder = tmp_path_factory.mktemp("upstream")
    settings = {
        "USE_POSTGRES": "false",
        "DB_PATH": str(folder / "master.db"),
        "AUTH_RATE_LIMIT": "off",
        "TRUSTED_PROXIES": "127.0.0.1",
        "OPENCLAW_URL": gateway.url,
        "OPENCLAW_TOKEN": GATEWAY_TOKEN,
    }
    with Service(settings, folder) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(
    kind: type[Proxy], upstream: Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """A proxy before it, with the file of deploy/."""
    folder = tmp_path_factory.mktemp("proxy")
    with kind(folder, f"127.0.0.1:{upstream.port}") as running:
        yield running


@pytest.fixture
def outside(proxy: Proxy, upstream: Service) -> Iterator[httpx.Client]:
    """A user's client, who knows only the proxy."""
    user = sign_up(upstream)
    headers = {"Authorization": f"Bearer {user.token}"}
    with httpx.Client(base_url=proxy.url, headers=headers, verify=False, timeout=30) as client:
        yield client


def new_session(upstream: Service, client: httpx.Client) -> int:
    """A session of the client's user."""
    api = Api(upstream, client.headers["Authorization"].removeprefix("Bearer "))
    made: int = api.session()["id"]
    return made


@BOTH
def test_the_file_is_valid(kind: type[Proxy], tmp_path: Path) -> None:
    """The proxy's own check finds nothing, not even to warn of but for nginx's `http2`.

    That has a directive of its own since 1.25, which the nginx of Debian 12 doesn't know.
    """
    verb = ("validate",) if kind is Caddy else ("-t",)
    done = subprocess.run(
        kind(tmp_path, "127.0.0.1:8002").command(verb),
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "warn" in line.lower()]
    assert [line for line in said if '"listen ... http2" directive is deprecated' not in line] == []


@BOTH
def test_an_answer_comes_through_word_by_word(
    gateway: GatewayStub, upstream: Service, outside: httpx.Client
) -> None:
    """What the gateway has said is there while it still thinks: nothing waits for a full buffer."""
    session = new_session(upstream, outside)
    gateway.script(Silence(after=3))
    body = {"session_id": session, "message": "slowly", "stream": True}
    with outside.stream("POST", "/chat", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        seen: list[str] = []
        while not any("w2" in line for line in seen):
            seen.append(next(lines))
        message = gateway_message(seen)
        assert outside.post(f"/chat/{message}/stop").json()["status"] == "stopped"
        assert "event: done" in list(lines)


def gateway_message(lines: list[str]) -> int:
    """The id of the answer that a stream has begun with."""
    import json

    data = next(line for line in lines if line.startswith("data: "))
    found: int = json.loads(data.removeprefix("data: "))["message"]["id"]
    return found


@BOTH
@pytest.mark.parametrize(
    "path",
    ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/health", "/health/db", "/openapi.json"],
)
def test_what_is_for_this_machine_stays_inside(outside: httpx.Client, path: str) -> None:
    """Figures and versions are 404 from outside, however the path is spelt."""
    response = outside.get(path)
    assert response.status_code == 404
    assert "commit" not in response.text
    assert "clawd_" not in response.text


@BOTH
def test_a_client_cannot_choose_its_address(
    proxy: Proxy, upstream: Service, outside: httpx.Client
) -> None:
    """The limits on log-ins count by the address that the proxy saw, not one that was sent."""
    name = f"spoof-{type(proxy).__name__}"
    spoofed = {"X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6", "X-Request-ID": name}
    response = outside.get("/auth/me", headers=spoofed)
    assert response.status_code == 200
    # The log's line is written when the answer has gone out.
    wait_until(lambda: f'"{name}"' in upstream.log)
    (line,) = [line for line in upstream.log_lines() if line["request_id"] == name]
    assert line["ip"] == "127.0.0.1"


@BOTH
def test_https_is_told_to_the_service(outside: httpx.Client) -> None:
    """So that it tells browsers to stay with it."""
    response = outside.get("/auth/me")
    assert response.headers["strict-transport-security"] == "max-age=31536000"


@BOTH
def test_old_versions_of_tls_are_refused(proxy: Proxy) -> None:
    """1.2 and 1.3, nothing older."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        spoken = {name: speaks_tls(proxy.port, name) for name in ("TLSv1_1", "TLSv1_2", "TLSv1_3")}
    assert spoken == {"TLSv1_1": False, "TLSv1_2": True, "TLSv1_3": True}


@BOTH
def test_a_chat_with_eight_images_fits(outside: httpx.Client) -> None:
    """23 MiB reach the service, which says what is wrong with them; 25 MiB are refused."""
    fits = outside.post("/chat", content=b" " * (23 * MIB), headers={"Content-Type": "text/json"})
    assert fits.status_code in {415, 422}
    assert fits.headers["content-type"] == "application/problem+json"
    assert outside.post("/chat", content=b" " * (25 * MIB)).status_code == 413


@BOTH
def test_endless_headers_are_refused(outside: httpx.Client) -> None:
    """No more than the service itself would take."""
    response = outside.get("/auth/me", headers={"X-Long": "x" * 60_000})
    assert response.status_code in {400, 431, 494}


@BOTH
def test_a_restart_behind_the_proxy(
    kind: type[Proxy], upstream: Service, outside: httpx.Client
) -> None:
    """With Caddy a request waits until the service is there again; nginx says 502 at once.

    So nginx wants a service that hands its port over (PM2), and Caddy serves without a gap anyhow.
    """
    assert upstream.stop() == 0
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(outside.get("/auth/me").status_code))
    asking.start()
    if kind is Nginx:
        asking.join(10)
        assert answers == [502]
    else:
        time.sleep(0.5)
        assert answers == []
    upstream.start()
    upstream.wait_until_up()
    asking.join(30)
    assert answers == [200 if kind is Caddy else 502]
    assert outside.get("/auth/me").status_code == 200
