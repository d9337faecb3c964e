"""What a defect of the service looks like from outside."""

import json

from tests.edge.wire import Wire
from tests.images.samples import png_url
from tests.service import Api
from tests.sql import Sql

SENTINEL = "Sentinel\u4e00"


def test_a_defect_is_an_answer_like_others(api: Api, sql: Sql) -> None:
    """500 without a word of what is wrong; the log has it; the connection serves what comes next.

    uvicorn drops the connection after an exception, without saying so: the client's next request,
    which is none of it, fails as well.
    """
    answer = api.chat(api.session()["id"], "Look", images=[png_url()])
    image = answer.json()["user_message"]["images"][0]["id"]
    # No header can hold it, which nothing foresees.
    sql.update("images", image, media_type=f"image/{SENTINEL}")
    token = ("Authorization", f"Bearer {api.token}")
    with Wire(api.service) as wire:
        failed = wire.send("GET", f"/images/{image}", [token])
        assert wire.connected
        assert wire.send("GET", "/auth/me", [token]).status == 200
    problem = json.loads(failed.body)
    assert (failed.status, problem["code"]) == (500, "internal_error")
    assert failed.headers["content-type"] == "application/problem+json"
    assert failed.headers["x-request-id"] == problem["request_id"]
    assert failed.headers["x-content-type-options"] == "nosniff"
    assert b"Sentinel" not in failed.body
    lines = [
        line
        for line in api.service.log_lines()
        if line["request_id"] == problem["request_id"] and "traceback" in line
    ]
    assert ["UnicodeEncodeError" in line["traceback"] for line in lines] == [True]
