"""What every refusal looks like."""

from http import HTTPStatus
from typing import Any

import httpx


def check_problem(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Hold an answer to the one shape of all failures (contract, section 3); its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == "about:blank"
    assert body["title"] == HTTPStatus(status).phrase
    assert body["status"] == status
    assert body["success"] is False
    assert body["error"] == body["detail"] != ""
    assert body["request_id"] == response.headers["x-request-id"]
    assert response.headers["x-content-type-options"] == "nosniff"
    if code is not None:
        assert body["code"] == code
    if status == 401:
        assert response.headers["www-authenticate"].startswith("Bearer")
    if status in (429, 503):
        assert int(response.headers["retry-after"]) >= 1
    if status == 422:
        assert body["errors"], "a refused value must be named"
        for error in body["errors"]:
            assert set(error) == {"loc", "msg", "type"}
    return body


def without_id(response: httpx.Response) -> dict[str, Any]:
    """A problem as the next request would get it: the id of the request left out."""
    body: dict[str, Any] = response.json()
    del body["request_id"]
    return body
