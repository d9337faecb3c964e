"""Images over HTTP: sent with a message, stored once, served to their owner."""

import base64
from typing import Any

import httpx
import pytest

from tests.edge.problems import check_problem
from tests.images import samples
from tests.service import Api, sign_up
from tests.sql import Sql

MIB = 1024 * 1024
CASES = [(kind, make, make.__name__) for kind, makers in samples.KINDS.items() for make in makers]


def send(api: Api, session_id: int, *images: Any) -> httpx.Response:
    """A message with images."""
    return api.chat(session_id, "Look", images=list(images))


def test_every_kind_is_stored_as_sent_and_served_to_its_owner(api: Api, sql: Sql) -> None:
    """The very bytes, the type that they have, nosniff, and nothing a shared cache may keep."""
    session, stranger = api.session(), sign_up(api.service)
    for kind, make, name in CASES:
        data = make(3, 2)
        for image in (
            samples.url(data, kind),
            {"media_type": kind, "data": base64.b64encode(data).decode()},
            base64.b64encode(data).decode(),
        ):
            answer = send(api, session["id"], image)
            assert answer.status_code == 200, f"{name}: {answer.text}"
            shown = answer.json()["user_message"]["images"]
            assert len(shown) == 1
            assert (shown[0]["media_type"], shown[0]["bytes"]) == (kind, len(data))
        path = f"/images/{shown[0]['id']}"
        served = api.get(path)
        assert served.status_code == 200
        assert served.content == data
        assert served.headers["content-type"] == kind
        assert served.headers["x-content-type-options"] == "nosniff"
        assert "public" not in served.headers["cache-control"]
        check_problem(stranger.get(path), 404, "not_found")
        check_problem(Api(api.service).get(path), 401)
    assert sql.count("images", user_id=api.user["id"]) == 3 * len(CASES)


@pytest.mark.parametrize("claim", ["image/png", "image/svg+xml", "IMAGE/JPEG", "image/x-any"])
def test_the_type_is_in_the_bytes_not_in_the_claim(api: Api, claim: str) -> None:
    """A GIF that calls itself something else is a GIF; what is served never repeats the claim."""
    session = api.session()
    answer = send(api, session["id"], samples.url(samples.gif(), claim))
    assert answer.status_code == 200, answer.text
    image = answer.json()["user_message"]["images"][0]
    assert image["media_type"] == "image/gif"
    assert api.get(f"/images/{image['id']}").headers["content-type"] == "image/gif"


def test_an_image_needs_no_text(api: Api) -> None:
    """A picture says enough."""
    session = api.session()
    answer = api.post(
        "/chat", {"session_id": session["id"], "message": "", "images": [samples.png_url()]}
    )
    assert answer.status_code == 200, answer.text


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
REFUSED: list[tuple[str, list[Any], int]] = [
    ("nine", [samples.png_url()] * 9, 413),
    ("over 10 MB", [samples.url(samples.png() + b"\0" * 10 * MIB)], 413),
    ("over 15 MB together", [samples.url(samples.png() + b"\0" * (8 * MIB))] * 2, 413),
    ("SVG", [samples.url(SVG, "image/svg+xml")], 415),
    ("SVG that claims PNG", [samples.url(SVG)], 415),
    ("PDF", [samples.url(b"%PDF-1.7\n%%EOF")], 415),
    ("HTML", [samples.url(b"<html><script>alert(1)</script>")], 415),
    ("BMP", [samples.url(b"BM" + b"\0" * 60, "image/bmp")], 415),
    ("empty", ["data:image/png;base64,"], 415),
    ("8,001 wide", [samples.png_url(8001, 1)], 422),
    ("65,000 high", [samples.url(samples.jpeg(1, 65_000))], 422),
    ("16,000,000 wide WebP", [samples.url(samples.webp_extended(16_000_000, 1))], 422),
    ("PNG bomb", [samples.png_url(2**31 - 1, 2**31 - 1)], 422),
    ("no width", [samples.url(samples.gif(0, 1))], 422),
    ("signature only", [samples.url(samples.png()[:8])], 422),
    ("half a header", [samples.url(samples.png()[:20])], 422),
    ("half a JPEG", [samples.url(samples.jpeg()[:30])], 422),
    ("bad base64", ["data:image/png;base64,!!!!"], 422),
    ("base64 with blanks", [samples.png_url().replace("A", "A ")], 422),
    ("unpadded base64", ["data:image/png;base64,iVBORw0KGgoAA"], 422),
    ("not ASCII", ["data:image/png;base64,\u00e9\u00e9\u00e9\u00e9"], 422),
    ("another type of data", ["data:text/html;base64,PHNjcmlwdD4="], 422),
    ("data without base64", ["data:image/png,abc"], 422),
    ("remote", ["https://example.com/a.png"], 422),
    ("remote in capitals", ["HTTP://169.254.169.254/latest/meta-data"], 422),
    ("a file", ["file:///etc/passwd"], 422),
    ("behind a blank", [" https://example.com/a.png"], 422),
    ("a good one, then a remote one", [samples.png_url(), "http://127.0.0.1:1/"], 422),
    ("remote in an object", [{"data": "http://127.0.0.1:1/"}], 422),
    ("an object of OpenAI's", [{"type": "image_url", "image_url": {"url": "http://x"}}], 422),
    ("a number", [5], 422),
    ("null", [None], 422),
    ("NUL", [samples.png_url() + "\0"], 422),
]


def test_what_is_refused_is_refused_before_anything_is_stored(api: Api, sql: Sql) -> None:
    """By its bytes and its header, without decoding; the service fetches nothing a user names.

    A 77 KiB PNG of 9,000 pixels a side takes 77 MiB once decoded; a remote URL makes whoever
    fetches it a way into the network it stands in (CVE-2026-45401 and others).
    """
    session = api.session()
    for name, images, status in REFUSED:
        answer = send(api, session["id"], *images)
        assert answer.status_code == status, f"{name}: {answer.text[:300]}"
        check_problem(answer, status)
        for piece in ("169.254", "etc/passwd", "alert(1)", "127.0.0.1"):
            assert piece not in answer.text
    assert sql.count("messages", session_id=session["id"]) == 0
    assert sql.count("images", user_id=api.user["id"]) == 0
    assert api.get(f"/sessions/{session['id']}").json() == session, "not even touched"


def test_the_largest_that_is_taken(api: Api) -> None:
    """8,000 pixels a side and 10 MB are inside the limits."""
    data = samples.png(8000, 8000)
    data += b"\0" * (10 * MIB - len(data))
    answer = send(api, api.session()["id"], samples.url(data))
    assert answer.status_code == 200, answer.text[:300]
    image = answer.json()["user_message"]["images"][0]
    assert image["bytes"] == 10 * MIB
    assert api.get(f"/images/{image['id']}").content == data


def test_eight_are_taken(api: Api) -> None:
    """In the order in which they were sent."""
    session = api.session()
    images = [samples.png_url(side, 1) for side in range(1, 9)]
    answer = send(api, session["id"], *images)
    assert answer.status_code == 200, answer.text
    shown = answer.json()["user_message"]["images"]
    served = [api.get(f"/images/{image['id']}").content for image in shown]
    assert served == [samples.png(side, 1) for side in range(1, 9)]


def test_a_body_over_24_mib_is_413(api: Api) -> None:
    """Counted while it is read."""
    session = api.session()
    answer = api.http.post(
        "/chat", json={"session_id": session["id"], "message": "x", "images": ["A" * (25 * MIB)]}
    )
    check_problem(answer, 413)
