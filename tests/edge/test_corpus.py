"""Hostile bytes against every route that takes a body, over a plain socket."""

import json

from tests.edge.wire import Wire, chunked
from tests.service import Api, Service, new_name
from tests.sql import Sql

MARK = b"Sentinel7f3a"
JSON = ("Content-Type", "application/json")


def routes(api: Api) -> list[tuple[str, str, dict[str, object]]]:
    """Every route with a body, as the service describes itself, with a body that it takes."""
    session = api.session()
    ids = {"project_id": session["project_id"], "session_id": session["id"]}
    good: dict[str, dict[str, object]] = {
        "/auth/signup": {"email": "a@example.com", "password": "x" * 8, "name": "x"},
        "/auth/login": {"email": "a@example.com", "password": "x" * 8},
        "/auth/me": {"name": "x"},
        "/projects": {"name": "postgres", "description": "x"},
        "/projects/{project_id}": {"description": "x"},
        "/projects/{project_id}/sessions": {"title": "x"},
        "/sessions/{session_id}": {"title": "x"},
        "/chat": {"session_id": 2**62, "message": "x", "images": []},
    }
    found = [
        (method.upper(), path)
        for path, operations in api.service.openapi()["paths"].items()
        for method, operation in operations.items()
        if "requestBody" in operation
    ]
    assert {path for _, path in found} == set(good), "a new route belongs into this test"
    return [(method, path.format(**ids, message_id=1), good[path]) for method, path in found]


def bodies(good: dict[str, object]) -> dict[str, bytes]:
    """What to send where `good` would be taken."""
    name = next(key for key in good if key != "session_id")
    others = {key: value for key, value in good.items() if key != name}
    lead = json.dumps(others)[:-1].encode() + (b", " if others else b"")

    def value(raw: bytes) -> bytes:
        return lead + b'"%s": %s}' % (name.encode(), raw)

    return {
        "nothing": b"",
        "null": b"null",
        "a string": b'"%s"' % MARK,
        "a list": b'["%s"]' % MARK,
        "NaN": value(b"NaN"),
        "infinity": value(b"-Infinity"),
        "1e999": value(b"1e999"),
        "5,000 digits": value(b"9" * 5000),
        "10,000 digits behind a point": value(b"0." + b"9" * 10_000),
        "beyond 64 bits": value(b"9223372036854775808"),
        "NUL": value(b'"%s\\u0000"' % MARK),
        "a raw NUL": value(b'"%s\0"' % MARK),
        "a lone surrogate": value(b'"%s\\ud800"' % MARK),
        "surrogates in the wrong order": value(b'"%s\\udc00\\ud800"' % MARK),
        "a surrogate in UTF-8": value(b'"%s\xed\xa0\x80"' % MARK),
        "bad UTF-8": value(b'"%s\xff\xfe"' % MARK),
        "overlong UTF-8": value(b'"%s\xc0\x80"' % MARK),
        "UTF-16": ("\ufeff" + value(b"5").decode()).encode("utf-16-le"),
        "a byte order mark": b"\xef\xbb\xbf" + value(b"5"),
        "nested lists": value(b"[" * 20_000 + b"]" * 20_000),
        "nested objects": value(b'{"%s":' % MARK * 2000 + b"1" + b"}" * 2000),
        "nesting without end": b"[" * 60_000,
        "an object": value(b'{"%s": 1}' % MARK),
        "a broken end": value(b'"%s"' % MARK)[:-2],
        "two values": value(b"5") + b"{}",
        "a key with NUL": value(b"5")[:-1] + b', "\\u0000%s": 1}' % MARK,
        "a key with a surrogate": value(b"5")[:-1] + b', "\\ud800": 1}',
        "a prototype": value(b"5")[:-1] + b', "__proto__": {"admin": true}, "__class__": 1}',
        "form data": b"username=%s&password=%%00%%ff%%ed%%a0%%80" % MARK,
        "binary": bytes(range(256)) * 16,
    }


def test_no_body_breaks_anything(api: Api, sql: Sql) -> None:
    """Never 500, never the value again, and the connection serves the next request.

    Python's `json` reads NaN, lone surrogates and 1e999, and FastAPI's own answer repeats what
    was sent, which JSON then can't write: a 500 in plain text, on a connection that is closed.
    """
    targets, answered = routes(api), set()
    before = {table: sql.count(table) for table in ("users", "projects", "messages")}
    with Wire(api.service) as wire:
        token = ("Authorization", f"Bearer {api.token}")
        for method, path, good in targets:
            for name, body in bodies(good).items():
                where = f"{method} {path}: {name}"
                answer = wire.send(method, path, [token, JSON], body)
                assert answer.status < 500, where
                assert MARK not in answer.body or answer.status < 300, where
                answered.add(answer.status)
                if answer.status >= 400:
                    assert answer.headers["content-type"] == "application/problem+json", where
                    problem = json.loads(answer.body)
                    assert problem["request_id"] == answer.headers["x-request-id"], where
                assert answer.headers["x-content-type-options"] == "nosniff", where
                assert wire.connected, where
                assert wire.send("GET", "/health/live").status == 200, where
    assert {400, 422} <= answered
    after = {table: sql.count(table) for table in before}
    assert after == before


def test_other_media_types_are_refused(api: Api) -> None:
    """A form of another site's page (a "simple request") must not be read as JSON."""
    with Wire(api.service) as wire:
        token = ("Authorization", f"Bearer {api.token}")
        for method, path, good in routes(api):
            body = json.dumps(good).encode()
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
                if (path, kind) == ("/auth/login", "application/x-www-form-urlencoded"):
                    continue
                answer = wire.send(method, path, [token, ("Content-Type", kind)], body)
                assert answer.status in (415, 422), f"{method} {path} {kind}: {answer.status}"
                assert json.loads(answer.body)["success"] is False


def test_the_last_of_two_keys_counts(api: Api) -> None:
    """As Python's, JavaScript's and PostgreSQL's JSON have it; nothing is guessed."""
    name = new_name()
    body = b'{"name": "postgres", "name": "%s"}' % name.encode()
    answer = api.request("POST", "/projects", content=body, headers=dict([JSON]))
    assert answer.status_code == 201
    assert answer.json()["name"] == name


def test_a_body_that_is_too_large_is_413(api: Api) -> None:
    """64 KiB, whether its length is announced or it comes in chunks without an end."""
    with Wire(api.service) as wire:
        token = ("Authorization", f"Bearer {api.token}")
        for method, path, _ in routes(api):
            if path == "/chat":
                continue
            body = b'{"name": "%s"}' % (b"x" * 66_000)
            announced = wire.send(method, path, [token, JSON], body)
            wire.close()
            unannounced = wire.send(
                method, path, [token, JSON, ("Transfer-Encoding", "chunked")], chunked(body)
            )
            wire.close()
            for answer in (announced, unannounced):
                assert answer.status == 413, f"{method} {path}"
                assert answer.headers["content-type"] == "application/problem+json"
                problem = json.loads(answer.body)
                assert (problem["code"], problem["success"]) == ("too_large", False)
                assert answer.headers["x-request-id"] == problem["request_id"]
                assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_body_of_just_64_kib_is_read(api: Api) -> None:
    """The limit is on the whole body, in bytes."""
    body = b'{"description": "x"}'
    session = api.session()
    path = f"/projects/{session['project_id']}"
    for size, status in ((64 * 1024, 200), (64 * 1024 + 1, 413)):
        content = body.ljust(size)
        answer = api.request("PATCH", path, content=content, headers=dict([JSON]))
        assert answer.status_code == status


def test_headers_and_queries_break_nothing(api: Api) -> None:
    """Endless, empty, binary or repeated: a refusal at most, and the service goes on."""
    token = ("Authorization", f"Bearer {api.token}")
    headers = [
        ("Authorization", "Bearer " + "x" * 50_000),
        ("Authorization", "Bearer \xff\xfe"),
        ("Authorization", "Bearer " + "=" * 300),
        ("X-Filler", "x" * 60_000),
        ("Cookie", "a=" + "\xe9" * 5000),
        ("Content-Type", "\xff"),
        ("Content-Type", "application/json; charset=" + "x" * 1000),
        ("Origin", "null\xff"),
        ("X-Request-ID", "\xe9"),
        ("Accept", "application/xml;q=broken"),
        ("X-Forwarded-For", "abc\tdef"),
        ("Range", "bytes=0-0,5-"),
        ("Expect", "nonsense"),
    ]
    paths = [
        "/projects?limit=%00",
        "/projects?cursor=%ff%fe",
        "/projects?cursor=%ed%a0%80",
        "/projects?limit=1&limit=x",
        "/projects?" + "a=b&" * 5000,
        "/projects/%00",
        "/projects/%ff",
        "/projects/1%2f..%2f..",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//projects",
        "/projects/",
        "/" + "x" * 20_000,
        "/images/1?%s%s%n",
    ]
    with Wire(api.service) as wire:
        for header in headers:
            answer = wire.send("GET", "/auth/me", [header])
            assert 400 <= answer.status < 500, header[0]
        for path in paths:
            answer = wire.send("GET", path, [token])
            assert answer.status < 500, path[:40]
            if answer.status >= 400:
                assert json.loads(answer.body)["status"] == answer.status
        assert wire.send("GET", "/auth/me", [token]).status == 200


def test_a_client_that_hangs_up_leaves_no_trace(api: Api, sql: Sql) -> None:
    """Half a request, or a body that is shorter than announced: nothing is done, all goes on."""
    service: Service = api.service
    before = sql.count("projects")
    head = (
        f"POST /projects HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    ).encode()
    for part in (head[:40], head, head + b'{"name": "%s"}' % new_name().encode()):
        with Wire(service) as wire:
            wire.send("GET", "/health/live")
            assert wire._socket is not None
            wire._socket.sendall(part)
    assert api.get("/auth/me").status_code == 200
    assert sql.count("projects") == before
    assert not [line for line in service.log_lines() if line["event"] == "unhandled exception"]
