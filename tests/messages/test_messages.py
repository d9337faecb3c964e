"""Messages over HTTP."""

import re

from tests.edge.problems import check_problem
from tests.images.samples import png_url
from tests.service import Api, Json
from tests.sql import Sql

FIELDS = {
    "id",
    "session_id",
    "role",
    "content",
    "status",
    "error",
    "images",
    "model",
    "usage",
    "created_at",
}


def insert(sql: Sql, session: Json, **columns: object) -> int:
    """A message's row."""
    user = sql.value("SELECT user_id FROM sessions WHERE id = %s", session["id"])
    row = {"role": "user", "content": "x", **columns}
    return sql.insert("messages", user_id=user, session_id=session["id"], **row)


def test_every_field_of_a_message(api: Api) -> None:
    """The contract's shape for both sides of a turn, the same in the answer and in the list."""
    session = api.session()
    text = "Grüße\n\u2028🦊 \u202e<b>"
    answer = api.chat(session["id"], text).json()
    assert set(answer) == {"session_id", "user_message", "message"}
    user, assistant = answer["user_message"], answer["message"]
    assert api.messages(session["id"]) == [user, assistant]
    for message in (user, assistant):
        assert set(message) == FIELDS
        assert message["session_id"] == session["id"]
        assert (message["status"], message["error"]) == ("complete", None)
        assert message["images"] == []
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", message["created_at"])
    assert (user["role"], user["content"]) == ("user", text)
    assert (user["model"], user["usage"]) == (None, None)
    assert assistant["role"] == "assistant"
    assert assistant["content"]
    assert assistant["model"] == "agent:main"
    usage = assistant["usage"]
    assert set(usage) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_the_newest_page_comes_first_oldest_first_inside(api: Api, sql: Sql) -> None:
    """A chat window opens at its end and scrolls back; what is said meanwhile shifts nothing."""
    session = api.session()
    made = [insert(sql, session, content=str(number)) for number in range(7)]
    path, params = f"/sessions/{session['id']}/messages", {"limit": "3"}
    pages: list[list[int]] = []
    while len(pages) < 5:
        body = api.get(path, params=params).json()
        pages.append([message["id"] for message in body["items"]])
        insert(sql, session, content="meanwhile")
        if body["next_cursor"] is None:
            break
        params["cursor"] = body["next_cursor"]
    assert pages == [made[4:7], made[1:4], made[0:1]]


def test_images_take_no_places_on_a_page(api: Api, sql: Sql) -> None:
    """The join gives a row an image: a limit on rows would cut messages off."""
    session = api.session()
    images = [png_url(side, side) for side in (1, 2, 3)]
    for _ in range(2):
        assert api.chat(session["id"], "Look", images=images).status_code == 200
    newest = api.messages(session["id"], limit=3)
    assert [len(message["images"]) for message in newest] == [0, 3, 0]
    shown = newest[1]["images"]
    assert [image["id"] for image in shown] == sorted(image["id"] for image in shown)
    assert all(set(image) == {"id", "media_type", "bytes"} for image in shown)


def test_image_bytes_are_never_in_lists(api: Api) -> None:
    """A history of pictures stays small: their bytes are fetched one by one."""
    session, image = api.session(), png_url(40, 40)
    answer = api.chat(session["id"], "Look", images=[image])
    data = image.partition(",")[2]
    listed = api.get(f"/sessions/{session['id']}/messages")
    for response in (answer, listed):
        assert response.status_code == 200
        assert data[:40] not in response.text
        assert "base64" not in response.text


def test_every_status_is_shown_as_it_is(api: Api, sql: Sql) -> None:
    """Also of messages whose answer failed or was broken off, with the reason."""
    session = api.session()
    for status in ("complete", "interrupted", "stopped", "failed"):
        insert(sql, session, role="assistant", status=status, error=f"why {status}", model="m")
    shown = [(one["status"], one["error"]) for one in api.messages(session["id"])]
    assert shown == [
        (one, f"why {one}") for one in ("complete", "interrupted", "stopped", "failed")
    ]


def test_usage_is_null_or_whole(api: Api, sql: Sql) -> None:
    """A gateway may count one side only."""
    session = api.session()
    insert(sql, session, role="assistant", prompt_tokens=3, completion_tokens=4)
    insert(sql, session, role="assistant", completion_tokens=4)
    insert(sql, session, role="assistant")
    assert [message["usage"] for message in api.messages(session["id"])] == [
        {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        {"prompt_tokens": 0, "completion_tokens": 4, "total_tokens": 4},
        None,
    ]


def test_an_empty_session_and_a_missing_one(api: Api) -> None:
    """An empty page, and 404."""
    session = api.session()
    path = f"/sessions/{session['id']}/messages"
    assert api.get(path).json() == {"items": [], "next_cursor": None}
    check_problem(api.get(f"/sessions/{2**40}/messages"), 404, "not_found")
    for limit in ("0", "201", "x"):
        check_problem(api.get(path, params={"limit": limit}), 422)


def test_messages_that_are_refused_are_not_stored(api: Api, sql: Sql) -> None:
    """422 before anything is written: no text, too much of it, what no database can store."""
    session = api.session()
    for message in ("", "  \n", "x" * 100_001, "a\0b", 5, None, ["x"]):
        body = {"session_id": session["id"], "message": message}
        check_problem(api.post("/chat", body), 422)
    for raw in (b'"\\ud800"', b"NaN", b'"\\udc00x"'):
        content = b'{"session_id": %d, "message": %s}' % (session["id"], raw)
        answer = api.request(
            "POST", "/chat", content=content, headers={"Content-Type": "application/json"}
        )
        check_problem(answer, 422)
    assert sql.count("messages", session_id=session["id"]) == 0
    longest = api.chat(session["id"], "x" * 100_000)
    assert longest.status_code == 200
    assert len(api.messages(session["id"])[0]["content"]) == 100_000
