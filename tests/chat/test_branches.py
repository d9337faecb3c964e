"""Editing an earlier message, asking again: new branches, while the old ones stay."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.messages.branches import _walk
from tests.chat.test_paths import last_chat, png
from tests.conftest import GATEWAY_TOKEN
from tests.gateway import GatewayStub
from tests.service import Api, Json, Service, sign_up


def branch(api: Api, session: Json, leaf: int | None = None) -> list[str]:
    """The texts of a branch; the stub's answers shortened to their turn."""
    params = {} if leaf is None else {"leaf": leaf}
    return [m["content"].partition(":")[0] for m in api.messages(session["id"], **params)]


def ids(api: Api, session: Json, leaf: int | None = None) -> list[int]:
    """The ids of a branch."""
    params = {} if leaf is None else {"leaf": leaf}
    return [m["id"] for m in api.messages(session["id"], **params)]


def test_edit_an_earlier_message(api: Api) -> None:
    """The edited message begins a branch; the first one can still be read."""
    session = api.session()
    for text in ("one", "two", "three"):
        api.chat(session["id"], text)
    first = ids(api, session)
    edited = api.chat(session["id"], "TWO", parent_id=first[1]).json()
    assert branch(api, session) == ["one", "Turn 1", "TWO", "Turn 4"]
    assert ids(api, session)[:2] == first[:2]
    assert ids(api, session, first[-1]) == first, "the earlier branch is as it was"
    assert ids(api, session, first[2]) == first[:3], "and any message of it can end a branch"
    api.chat(session["id"], "four")
    assert branch(api, session) == ["one", "Turn 1", "TWO", "Turn 4", "four", "Turn 5"]
    assert edited["user_message"]["content"] == "TWO"
    leaves = api.get(f"/sessions/{session['id']}/branches").json()["leaves"]
    assert leaves == [ids(api, session)[-1], first[-1]]


def test_edit_the_first_message(api: Api) -> None:
    """`parent_id` null: the conversation begins anew."""
    session = api.session()
    api.chat(session["id"], "one")
    first = ids(api, session)
    api.chat(session["id"], "ONE", parent_id=None)
    assert branch(api, session) == ["ONE", "Turn 2"]
    assert ids(api, session, first[-1]) == first


def test_ask_again(api: Api, gateway: GatewayStub) -> None:
    """Another answer to the same message: nothing is overwritten, nothing is said twice."""
    session = api.session()
    api.chat(session["id"], "one")
    first = api.chat(session["id"], "Look", images=[png()]).json()
    again = api.post(
        "/chat", {"session_id": session["id"], "regenerate_of": first["message"]["id"]}
    )
    assert again.status_code == 200, again.text
    assert again.json()["user_message"] == first["user_message"]
    assert again.json()["message"]["id"] != first["message"]["id"]
    assert ids(api, session) == [
        *ids(api, session, first["message"]["id"])[:3],
        again.json()["message"]["id"],
    ]
    body: Any = last_chat(gateway, session).body
    assert [part["type"] for part in body["messages"][-1]["content"]] == ["text", "image_url"]
    third = api.chat_events(session["id"], "", regenerate_of=again.json()["message"]["id"])
    assert third[0].data["user_message"] == first["user_message"]
    assert len(api.get(f"/sessions/{session['id']}/branches").json()["leaves"]) == 3


def test_going_on_from_an_older_branch(api: Api) -> None:
    """A message after an older leaf makes that branch the present one again."""
    session = api.session()
    api.chat(session["id"], "one")
    old = ids(api, session)
    api.chat(session["id"], "ONE", parent_id=None)
    api.chat(session["id"], "two", parent_id=old[-1])
    assert branch(api, session) == ["one", "Turn 1", "two", "Turn 3"]


def test_naming_the_end_is_no_fork(api: Api) -> None:
    """Clients that always send the parent get a plain conversation."""
    session = api.session()
    parent = None
    for text in ("one", "two", "three"):
        parent = api.chat(session["id"], text, parent_id=parent).json()["message"]["id"]
    assert len(ids(api, session)) == 6
    assert api.get(f"/sessions/{session['id']}/branches").json()["leaves"] == [parent]


def test_pages_of_a_branch(api: Api) -> None:
    """Pages follow the branch across its forks."""
    session = api.session()
    for text in ("one", "two", "three"):
        api.chat(session["id"], text)
    first = ids(api, session)
    api.chat(session["id"], "TWO", parent_id=first[1])
    api.chat(session["id"], "THREE")
    whole = ids(api, session)
    seen: list[int] = []
    cursor = None
    while True:
        params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = api.get(f"/sessions/{session['id']}/messages", params=params).json()
        seen = [m["id"] for m in page["items"]] + seen
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == whole


@pytest.mark.parametrize(
    "fields",
    [
        {"message": "x", "parent_id": 2**60},
        {"message": "x", "parent_id": 0},
        {"message": "x", "parent_id": "1"},
        {"regenerate_of": 2**60},
        {"regenerate_of": -1},
        {"message": "x", "regenerate_of": 1},
        {"regenerate_of": 1, "parent_id": 1},
    ],
)
def test_places_that_are_none(api: Api, fields: Json) -> None:
    """Messages of other sessions, and wishes that contradict themselves, change nothing."""
    session = api.session()
    assert api.post("/chat", {"session_id": session["id"], **fields}).status_code == 422
    assert api.messages(session["id"]) == []


def test_messages_of_other_sessions(api: Api) -> None:
    """A parent in another session, even one's own, is no parent; nor is a question an answer."""
    there = api.chat(api.session()["id"], "Hello").json()
    session = api.session()
    here = api.chat(session["id"], "Hello").json()
    assert api.chat(session["id"], "x", parent_id=there["message"]["id"]).status_code == 422
    for wrong in (there["message"]["id"], here["user_message"]["id"]):
        body = {"session_id": session["id"], "regenerate_of": wrong}
        assert api.post("/chat", body).status_code == 422
    stranger = sign_up(api.service)
    path = f"/sessions/{session['id']}"
    assert stranger.get(f"{path}/branches").status_code == 404
    assert api.get(f"{path}/messages", params={"leaf": there["message"]["id"]}).status_code == 404
    assert api.get(f"{path}/messages", params={"leaf": "x"}).status_code == 422


@pytest.fixture(scope="module")
def stateless(
    master_settings: dict[str, str],
    gateway: GatewayStub,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """A service that sends the whole conversation, for gateways that don't remember."""
    folder: Path = tmp_path_factory.mktemp("stateless")
    settings = {
        **master_settings,
        "AUTH_RATE_LIMIT": "off",
        "OPENCLAW_URL": gateway.url,
        "OPENCLAW_TOKEN": GATEWAY_TOKEN,
        "GATEWAY_HISTORY": "full",
    }
    with Service(settings, folder) as running:
        yield running


def test_the_whole_history_is_that_of_the_branch(stateless: Service, gateway: GatewayStub) -> None:
    """A stateless gateway hears what was said on this branch, with its images, nothing else."""
    api = sign_up(stateless)
    session = api.session()
    api.chat(session["id"], "one", images=[png()])
    first = api.messages(session["id"])
    api.chat(session["id"], "two")
    api.chat(session["id"], "TWO", parent_id=first[-1]["id"])
    body: Any = last_chat(gateway, session).body
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert body["messages"][0]["content"][0] == {"type": "text", "text": "one"}
    assert body["messages"][0]["content"][1]["image_url"]["url"] == png()
    assert body["messages"][-1]["content"] == "TWO"
    again = api.messages(session["id"])[-1]["id"]
    api.post("/chat", {"session_id": session["id"], "regenerate_of": again})
    repeated: Any = last_chat(gateway, session).body
    assert repeated["messages"] == body["messages"]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30))
def test_spans_are_the_way_to_the_root(parents: list[int]) -> None:
    """The spans of ids give the same way as walking from parent to parent."""
    forks: list[Json] = []
    parent_of: dict[int, int | None] = {}
    for message_id, wish in enumerate(parents, start=1):
        parent = min(wish, message_id - 1) or None
        before = message_id - 1 or None
        parent_of[message_id] = parent
        if parent != before:
            forks.append({"id": message_id, "parent_id": parent})
    for leaf in parent_of:
        way: list[int] = []
        at: int | None = leaf
        while at is not None:
            way.append(at)
            at = parent_of[at]
        spans = _walk(forks, leaf)
        assert way == [i for i in reversed(range(1, 31)) if any(a <= i <= b for a, b in spans)]
