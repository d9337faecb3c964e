"""The service against bytes, slowness and crowds that no honest client sends."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from tests.chat.following import SLOW, wait_until
from tests.edge.problems import check_problem
from tests.edge.test_answers import access_line
from tests.edge.wire import Wire, chunked
from tests.security.conftest import Start
from tests.security.sockets import Peer, ask, check_headers, get
from tests.service import PASSWORD, Service, sign_up
from tests.sql import Sql

HEAD_SECONDS, BODY_SECONDS = 1.0, 1.5
POST = "POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def quick(start: Start) -> Service:
    """A service that soon loses patience; uvicorn's own variable says to believe everybody."""
    return start(
        HEADER_TIMEOUT=str(HEAD_SECONDS), BODY_TIMEOUT=str(BODY_SECONDS), FORWARDED_ALLOW_IPS="*"
    )


def login(framing: str, body: str) -> bytes:
    """A log-in with these lines about its body."""
    return f"{POST}{framing}\r\n\r\n{body}".encode("latin-1")


TOO_LARGE = {
    "one header": get("/health/live", f"X-Filler: {'x' * 33_000}"),
    "a megabyte": get("/health/live", f"X-Filler: {'x' * 1_000_000}"),
    "20,000 headers": get("/health/live", *[f"a{number}: b" for number in range(20_000)]),
    "a path": get("/" + "x" * 33_000),
    "a name": get("/health/live", "x" * 33_000 + ": y"),
    "a trailer": login("Transfer-Encoding: chunked", f"0\r\nX: {'x' * 2_000_000}\r\n\r\n"),
    "a chunk's extension": login("Transfer-Encoding: chunked", f"2;{'x' * 2_000_000}\r\n{{}}\r\n"),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_headers_have_a_limit(quick: Service, name: str) -> None:
    """431 and the end; httptools took 60 MB of header, with 165 MB of memory, and answered 200."""
    with Peer(quick) as peer:
        (reply,), seconds = peer.send(TOO_LARGE[name]).read_to_end()
    assert (reply.status, reply.headers["connection"]) == (431, "close")
    assert reply.problem()["code"] == "headers_too_large"
    assert seconds < 3


def test_headers_of_less_than_32_kib_are_read(quick: Service) -> None:
    """Also when they come in pieces, behind another request, and with cookies of a whole site."""
    large = get("/health/live", f"Cookie: {'x' * 32_000}", "Connection: close")
    with Peer(quick) as peer:
        for at in range(0, len(large), 5000):
            peer.send(large[at : at + 5000])
            time.sleep(0.01)
        assert [reply.status for reply in peer.read_to_end()[0]] == [200]
    with Peer(quick) as peer:
        assert [reply.status for reply in peer.send(get() + large).read_to_end()[0]] == [200, 200]


SLOW_CLIENTS = {
    "silence": (b"", 0, HEAD_SECONDS),
    "half a request line": (b"GET /health/l", 408, HEAD_SECONDS),
    "half a header": (b"GET / HTTP/1.1\r\nHost: x\r\nX-A", 408, HEAD_SECONDS),
    "empty lines": (b"\r\n", 408, HEAD_SECONDS),
    "half a body": (login("Content-Length: 100", '{"email":'), 408, BODY_SECONDS),
    "half a chunk": (login("Transfer-Encoding: chunked", "9\r\n{"), 408, BODY_SECONDS),
    "chunks without end": (login("Transfer-Encoding: chunked", "1\r\n{\r\n"), 408, BODY_SECONDS),
    "no body at all": (login("Content-Length: 5", ""), 408, BODY_SECONDS),
    "a body that nobody reads": (get("/health/live", "Content-Length: 5"), 200, BODY_SECONDS),
}


@pytest.mark.parametrize("name", SLOW_CLIENTS)
def test_slow_clients_are_closed(quick: Service, name: str) -> None:
    """uvicorn alone waits for ever: a few thousand such connections and nobody else gets one."""
    data, status, patience = SLOW_CLIENTS[name]
    with Peer(quick) as peer:
        replies, seconds = peer.send(data).read_to_end()
    assert [reply.status for reply in replies] == ([status] if status else [])
    assert patience - 0.2 < seconds < patience + 2
    if status == 408:
        assert replies[0].problem()["code"] == "request_timeout"


@pytest.mark.parametrize(
    ("lead", "drop"),
    [(b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n"), (b"", b"\r\n")],
    ids=["headers", "empty lines"],
)
def test_a_drip_is_no_progress(quick: Service, lead: bytes, drop: bytes) -> None:
    """A header each moment keeps other servers waiting for ever (slowloris)."""
    started = time.monotonic()
    with Peer(quick) as peer:
        peer.send(lead)
        while peer.send(drop).is_open(0.1):
            assert time.monotonic() - started < HEAD_SECONDS + 2
    assert time.monotonic() - started > HEAD_SECONDS - 0.2


def test_a_kept_connection_has_its_clock_too(quick: Service) -> None:
    """Each request anew: neither is the second one free of limits, nor does the first's run on."""
    with Peer(quick) as peer:
        for _ in range(4):
            peer.send(get()).read_one()
            time.sleep(0.4)
        replies, seconds = peer.send(b"GET / HT").read_to_end()
    assert [reply.status for reply in replies] == [408]
    assert HEAD_SECONDS - 0.2 < seconds < HEAD_SECONDS + 2


def test_a_large_body_may_take_longer(quick: Service) -> None:
    """Photos over a slow line: what comes at 32 KiB a second isn't cut at BODY_TIMEOUT."""
    api = sign_up(quick)
    size = 400_000
    head = (
        f"POST /chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\nConnection: close"
        f"\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    )
    started = time.monotonic()
    with Peer(quick) as peer:
        peer.send(head.encode())
        for _ in range(8):
            peer.send(b" " * (size // 8))
            time.sleep(0.35)
        (reply,), _ = peer.read_to_end()
    assert time.monotonic() - started > BODY_SECONDS + 1
    assert reply.status == 422, "it was read to its end, and is no JSON"


AMBIGUOUS = {
    "two framings": login("Content-Length: 6\r\nTransfer-Encoding: chunked", "0\r\n\r\nX"),
    "two framings, other order": login("Transfer-Encoding: chunked\r\nContent-Length: 6", "0\r\n"),
    "two lengths": login("Content-Length: 6\r\nContent-Length: 2", "{}"),
    "the same length twice": login("Content-Length: 2\r\nContent-Length: 2", "{}"),
    "a list of lengths": login("Content-Length: 2, 2", "{}"),
    "a length with a sign": login("Content-Length: +2", "{}"),
    "a negative length": login("Content-Length: -2", "{}"),
    "a length in hexadecimal": login("Content-Length: 0x2", "{}"),
    "a length beyond 64 bits": login(f"Content-Length: {10**23}", "{}"),
    "a blank before the colon": login("Content-Length : 2", "{}"),
    "Host :": b"GET /health/live HTTP/1.1\r\nHost : x\r\n\r\n",
    "no Host": b"GET /health/live HTTP/1.1\r\nX: y\r\n\r\n",
    "two Hosts": get("/health/live", "Host: y"),
    "xchunked": login("Transfer-Encoding: xchunked", "0\r\n\r\n"),
    "chunked, identity": login("Transfer-Encoding: chunked, identity", "0\r\n\r\n"),
    "two codings": login("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n"),
    "a coding we don't know": login("Transfer-Encoding: gzip", "0\r\n\r\n"),
    "a folded line": get("/health/live", "X: y\r\n Content-Length: 5"),
    "NUL in a value": get("/health/live", "X: y\0z"),
    "NUL in a name": get("/health/live", "X\0: y"),
    "NUL in the path": get("/health\0/live"),
    "CR in a value": get("/health/live", "X: y\rContent-Length: 5"),
    "lines that end in LF": b"GET /health/live HTTP/1.1\nHost: x\n\n",
    "no chunk's size": login("Transfer-Encoding: chunked", "zz\r\n{}\r\n0\r\n\r\n"),
    "a negative chunk": login("Transfer-Encoding: chunked", "-2\r\n{}\r\n0\r\n\r\n"),
    "a chunk beyond 64 bits": login("Transfer-Encoding: chunked", f"{'f' * 17}\r\n{{}}\r\n"),
    "a chunk that is longer": login("Transfer-Encoding: chunked", "1\r\n{}\r\n0\r\n\r\n"),
    "chunks that end in LF": login("Transfer-Encoding: chunked", "2\n{}\n0\n\n"),
    "bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path without a slash": get("health"),
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/9.9": get(version="HTTP/9.9"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "a method in small letters": b"get /health/live HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_400_and_the_end(quick: Service, name: str) -> None:
    """A request hidden behind it is never answered: a proxy may have seen another one (smuggling).

    Refused at once, not when the clock runs out; the answer has the shape and headers of all.
    """
    with Peer(quick) as peer:
        replies, seconds = peer.send(AMBIGUOUS[name] + get("/health/live")).read_to_end()
    assert [reply.status for reply in replies] == [400]
    assert replies[0].problem()["code"] == "bad_request"
    assert replies[0].headers["connection"] == "close"
    assert seconds < HEAD_SECONDS - 0.2


def test_nonsense_behind_a_request_does_not_spoil_its_answer(quick: Service) -> None:
    """The first was whole and is answered; one 400 in the middle of it would be read as its own."""
    data = get("/health/ready") + AMBIGUOUS["two framings"] + get()
    with Peer(quick) as peer:
        (reply,), _ = peer.send(data).read_to_end()
    assert (reply.status, json.loads(reply.body)["status"]) == (200, "ok")
    assert reply.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (get("http://evil.example/health/live"), 200),
        (get("/health/live", version="HTTP/1.0"), 200),
        (b"GET /health/live HTTP/1.0\r\n\r\n", 200),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (get("/health/live", "Connection: Upgrade", "Upgrade: h2c"), 200),
        (get("/nothing", "Connection: Upgrade", "Upgrade: websocket"), 404),
        (login("Transfer-Encoding: chunked", "2;a=b\r\n{}\r\n0\r\n\r\n"), 422),
        (login("Content-Length: 2", "{}"), 422),
    ],
    ids=["absolute", "HTTP/1.0", "1.0 without Host", "*", "h2c", "websocket", "chunks", "length"],
)
def test_what_is_odd_but_clear_is_served(quick: Service, data: bytes, status: int) -> None:
    """RFC 9112 wants the absolute form taken; nobody upgrades a connection here."""
    assert ask(quick, data).status == status


def test_a_trailer_is_no_header(quick: Service) -> None:
    """uvicorn adds trailers to the headers: a token, or an address, that no proxy has checked."""
    api = sign_up(quick)
    body = f"0\r\nAuthorization: Bearer {api.token}\r\n\r\n"
    trailed = "GET /auth/me HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    assert ask(quick, trailed.encode()).status == 401
    led = get("/auth/me", f"Authorization: Bearer {api.token}")
    assert ask(quick, led).status == 200


def test_refused_requests_are_logged_with_their_address(quick: Service) -> None:
    """Under the id that the answer names; nothing of what was sent gets into the log."""
    reply = ask(quick, b"GET /\0Sentinel HTTP/1.1\r\n\r\n")
    (line,) = [
        line for line in quick.log_lines() if line["request_id"] == reply.problem()["request_id"]
    ]
    assert (line["event"], line["status"], line["ip"]) == ("request refused", 400, "127.0.0.1")
    assert "Sentinel" not in quick.log


def test_a_client_that_goes_away_is_no_failure_of_ours(quick: Service) -> None:
    """Hanging up in the middle of a log-in was logged as a 500 with a page of traceback."""
    kept = len(quick.log_lines())
    for data in (login("Content-Length: 100", "{"), login("Transfer-Encoding: chunked", "5\r\n{")):
        with Peer(quick) as peer:
            peer.send(data).is_open(0.05)
    ended = [{"status": 499, "path": "/auth/login"}] * 2

    def seen() -> list[dict[str, object]]:
        lines = [line for line in quick.log_lines()[kept:] if line["event"] == "request"]
        return [{name: line[name] for name in ("status", "path")} for line in lines]

    wait_until(lambda: seen() == ended, what="a line for each")
    assert "traceback" not in quick.log


def test_every_answer_has_the_security_headers(quick: Service) -> None:
    """Also those that FastAPI writes itself, its 413 above all, and the last resort's."""
    large = b'{"name": "%s"}' % (b"x" * 70_000)
    kind = ("Content-Type", "application/json")
    with Wire(quick) as wire:
        for method, path, headers, body, status in (
            ("GET", "/health/live", [], b"", 200),
            ("GET", "/nothing", [], b"", 404),
            ("PUT", "/projects", [], b"", 405),
            ("GET", "/projects", [], b"", 401),
            ("POST", "/auth/login", [kind], b"{}", 422),
            ("POST", "/auth/login", [("Content-Type", "text/plain")], b"{}", 415),
            ("POST", "/auth/signup", [kind], large, 413),
            ("POST", "/auth/signup", [kind, ("Transfer-Encoding", "chunked")], chunked(large), 413),
        ):
            answer = wire.send(method, path, headers, body)
            assert answer.status == status, path
            check_headers(answer.headers)
            assert "strict-transport-security" not in answer.headers
            if status == 413:
                assert json.loads(answer.body)["code"] == "too_large"
            wire.close()


SPOOFS = [
    {"X-Forwarded-For": "198.51.100.7"},
    {"X-Forwarded-For": "198.51.100.7, 127.0.0.1"},
    {"Forwarded": "for=198.51.100.7;proto=https"},
    {"X-Real-IP": "198.51.100.7", "Client-IP": "198.51.100.7", "True-Client-IP": "198.51.100.7"},
]


def logged_ip(service: Service, headers: dict[str, str]) -> str:
    """The address that the log names for a request with these headers."""
    answer = httpx.get(service.url + "/auth/me", headers=headers)
    ip: str = access_line(service, answer.headers["x-request-id"])["ip"]
    return ip


def failures(service: Service, addresses: list[str]) -> list[int]:
    """Log-ins with a wrong password, each said to come from one of these addresses."""
    body = {"email": "nobody@example.com", "password": "wrong password"}
    with httpx.Client(base_url=service.url) as client:
        return [
            client.post("/auth/login", json=body, headers={"X-Forwarded-For": address}).status_code
            for address in addresses
        ]


def test_forwarded_addresses_are_not_believed_by_default(quick: Service) -> None:
    """uvicorn believes loopback: anybody there, or behind a careless proxy, chose their address.

    Neither the log nor the limits on log-ins may fall for it.
    """
    for headers in SPOOFS:
        assert logged_ip(quick, {**headers, "X-Forwarded-Proto": "https"}) == "127.0.0.1", headers
    answer = httpx.get(quick.url + "/health/live", headers={"X-Forwarded-Proto": "https"})
    assert "strict-transport-security" not in answer.headers
    statuses = failures(quick, [f"198.51.100.{number}" for number in range(12)])
    assert statuses == [401] * 10 + [429] * 2


def test_a_trusted_proxy_is_believed_as_far_as_it_can_see(start: Start) -> None:
    """The last address that is none of our proxies is the client's; those before it are hearsay."""
    behind = start(TRUSTED_PROXIES="127.0.0.1, 10.1.0.0/16")
    for forwarded, ip in {
        "203.0.113.5": "203.0.113.5",
        "198.51.100.7, 203.0.113.5": "203.0.113.5",
        "198.51.100.7, 203.0.113.5, 10.1.2.3": "203.0.113.5",
        "127.0.0.1, 203.0.113.5, 127.0.0.1": "203.0.113.5",
        "2001:db8::5": "2001:db8::5",
    }.items():
        assert logged_ip(behind, {"X-Forwarded-For": forwarded}) == ip, forwarded
    statuses = failures(behind, [f"198.51.100.{number}, 203.0.113.5" for number in range(12)])
    assert statuses == [401] * 10 + [429] * 2, "the spoofed part changes nothing"
    assert failures(behind, ["203.0.113.6"]) == [401], "another client has tries of its own"
    for proto, sent in (("https", True), ("http", False), ("HTTPS, http", False)):
        answer = httpx.get(behind.url + "/health/live", headers={"X-Forwarded-Proto": proto})
        assert ("strict-transport-security" in answer.headers) is sent, proto


@pytest.mark.parametrize("value", ["*", "127.0.0.1, proxy", "10.0.0.1/8", "127.0.0.1:80"])
def test_proxies_are_addresses(value: str, start: Start) -> None:
    """`*` takes the first address of the list, which anybody writes; a misspelt one is nobody's."""
    with pytest.raises(RuntimeError, match="TRUSTED_PROXIES") as failed:
        start(TRUSTED_PROXIES=value)
    assert "Traceback" not in str(failed.value)


def unfinished(service: Service, path: str) -> Peer:
    """A request that is at work, since its body is still on its way."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return Peer(service).send(f"{head}Content-Length: 9\r\n\r\n{{".encode())


@pytest.fixture(scope="module")
def small(start: Start) -> Service:
    """A service with little room."""
    return start(MAX_REQUESTS="4", MAX_STREAMS="6", AUTH_RATE_LIMIT="off")


@pytest.mark.parametrize("path", ["/auth/login", "/chat"])
def test_too_many_requests_at_once_are_503(small: Service, path: str) -> None:
    """At once, in the one shape, before anything is done; health is answered all the same.

    A chat counts, too, while its body is read: 24 MiB each would otherwise fill the memory.
    """
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(unfinished(small, path))
        wait_until(lambda: httpx.get(small.url + "/auth/me").status_code == 503, what="fullness")
        started = time.monotonic()
        body = {"email": "a@example.com", "password": PASSWORD}
        for answer in (
            httpx.post(small.url + "/auth/signup", json=body),
            httpx.post(small.url + "/chat", json={}),
            httpx.get(small.url + "/nothing"),
        ):
            check_problem(answer, 503, "overloaded")
            check_headers(dict(answer.headers))
        for part in ("", "/live", "/ready", "/db", "/queue"):
            assert httpx.get(f"{small.url}/health{part}").status_code == 200, part
        assert time.monotonic() - started < 3
    assert Sql(small.settings).count("users", email="a@example.com") == 0
    wait_until(lambda: httpx.get(small.url + "/auth/me").status_code == 401, what="room again")


def test_streams_have_room_of_their_own(small: Service) -> None:
    """Six answers fill neither the four places of other requests, nor is a seventh stored."""
    api = sign_up(small)
    sessions = [api.session()["id"] for _ in range(7)]
    with ExitStack() as streams:
        for session in sessions[:6]:
            answer = streams.enter_context(api.stream(session, SLOW))
            assert answer.status_code == 200
        refused = api.chat(sessions[6], "Hello")
        check_problem(refused, 503, "overloaded")
        assert api.messages(sessions[6]) == []
        running = api.messages(sessions[0])[-1]
        check_problem(api.get(f"/chat/{running['id']}/stream"), 503, "overloaded")
        with ThreadPoolExecutor(3) as threads:
            listed = threads.map(lambda _: api.get("/projects").status_code, range(30))
            assert set(listed) == {200}
        stopped = api.post(f"/chat/{running['id']}/stop")
        assert stopped.json()["status"] == "stopped", "what makes room is never refused"
    wait_until(lambda: api.chat(sessions[6], "Hello").status_code == 200, what="room again")


def test_places_are_given_back(small: Service) -> None:
    """However a request ends, hung up on or refused: a hundred bad ones leave four places free."""
    for _ in range(50):
        unfinished(small, "/auth/login").socket.close()
        ask(small, AMBIGUOUS["no chunk's size"])
    wait_until(lambda: httpx.get(small.url + "/auth/me").status_code == 401, what="room again")
    with ThreadPoolExecutor(4) as threads:
        answers = threads.map(lambda _: httpx.get(small.url + "/auth/me").status_code, range(40))
        assert set(answers) <= {401, 503}
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(unfinished(small, "/auth/login"))
        time.sleep(0.2)
        assert httpx.get(small.url + "/auth/me").status_code == 401, "the fourth place"
