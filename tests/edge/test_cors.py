"""What a page of another origin may read of the answers."""

import anyio
import httpx

import app as application
from server.settings import Settings
from tests.edge.conftest import ORIGINS
from tests.edge.problems import check_problem
from tests.service import Service

FROM_A_PAGE = {"Origin": ORIGINS[0]}


def test_a_page_can_read_that_its_body_was_too_large(guarded: Service) -> None:
    """FastAPI writes its 413 outside all middleware: browsers called it a network error."""
    headers = FROM_A_PAGE | {"Content-Type": "application/json"}
    answer = httpx.post(guarded.url + "/auth/login", content=b" " * 70_000, headers=headers)
    check_problem(answer, 413)
    assert answer.headers["access-control-allow-origin"] == ORIGINS[0]
    assert answer.headers["vary"] == "Origin"


def test_a_preflight_has_what_every_answer_has(guarded: Service) -> None:
    """It is answered before any route, yet inside the edge."""
    asked = FROM_A_PAGE | {"Access-Control-Request-Method": "POST"}
    answer = httpx.options(guarded.url + "/chat", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_page_can_read_a_500() -> None:
    """The last resort's answer has the headers too, among them those that the page may read."""
    made = application.create_app(Settings(cors_origins=ORIGINS))

    @made.get("/broken")
    def broken() -> None:
        raise RuntimeError

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(made, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/broken", headers=FROM_A_PAGE)

    answer = anyio.run(ask)
    check_problem(answer, 500)
    assert answer.headers["access-control-allow-origin"] == ORIGINS[0]
    exposed = answer.headers["access-control-expose-headers"].lower()
    assert {"x-request-id", "retry-after", "idempotent-replayed"} <= set(exposed.split(", "))
