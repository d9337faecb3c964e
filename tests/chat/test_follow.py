"""Following an answer: from any process, from any place, without gap or duplicate."""

import statistics

import pytest

from tests.chat.following import SLOW, Follower, begin, find, text_of, wait_until
from tests.service import Api, Event, parse_events, sign_up


@pytest.fixture(params=["here", "elsewhere"])
def follower_api(request: pytest.FixtureRequest, api: Api, elsewhere: Api) -> Api:
    """The process that is asked to follow: the one that generates, or another."""
    return api if request.param == "here" else elsewhere


def test_several_follow_one_answer(api: Api, follower_api: Api) -> None:
    """Each listener sees every event once, in order, whenever it came."""
    session = api.session()
    message = begin(api, session["id"])
    followers = [Follower(follower_api, message["id"]).start() for _ in range(3)]
    streams = [follower.join() for follower in followers]
    stored = find(api, session["id"], message["id"])
    assert stored["status"] == "complete"
    for events in streams:
        assert [event.name for event in events][0 :: len(events) - 1] == ["start", "done"]
        assert text_of(events) == stored["content"]
        ids = [int(event.id) for event in events]
        assert ids == sorted(set(ids))
        assert events[0].data["message"]["status"] == "streaming"
        assert events[0].data["user_message"]["content"] == SLOW
        assert events[-1].data["message"] == stored


def test_coming_again_without_gap_or_duplicate(api: Api, elsewhere: Api) -> None:
    """A client that is cut off again and again, at either process, misses and repeats nothing."""
    session = api.session()
    message = begin(api, session["id"])
    events: list[Event] = []
    last, turn = None, 0
    while not events or events[-1].name != "done":
        asked = (api, elsewhere)[turn % 2]
        turn += 1
        part = Follower(asked, message["id"], last, stop_after=4).start().join()
        assert last is None or all(event.name != "start" for event in part)
        events += part
        last = events[-1].id if events else None
        assert turn < 50
    assert turn > 2, "it was cut off at least once"
    assert text_of(events) == find(api, session["id"], message["id"])["content"]
    ids = [int(event.id) for event in events]
    assert ids == sorted(set(ids))


def test_any_place_of_a_finished_answer(api: Api, follower_api: Api) -> None:
    """What has ended is told again, from exactly where the client has it."""
    session = api.session()
    answer = api.chat(session["id"], "Grüße, 你好, \N{GRINNING FACE}!").json()["message"]
    text = answer["content"]
    for place in (1, 7, len(text) - 1, len(text)):
        events = Follower(follower_api, answer["id"], str(2 * place)).start().join()
        assert text_of(events) == text[place:]
        assert events[-1].name == "done"
    whole = Follower(follower_api, answer["id"]).start().join()
    assert Follower(follower_api, answer["id"], whole[-1].id).start().join() == []
    beyond = Follower(follower_api, answer["id"], str(2 * len(text) + 400)).start().join()
    assert [event.name for event in beyond] == ["done"], "it had more before a crash"
    assert [event.name for event in whole] == ["start", "delta", "done"]
    assert whole[-1].data["message"] == answer


@pytest.mark.parametrize(
    ("marker", "code", "status"),
    [("cut 2", "gateway_interrupted", "interrupted"), ("hang-up", "gateway_interrupted", "failed")],
)
def test_a_failure_is_told_to_followers(
    api: Api, follower_api: Api, marker: str, code: str, status: str
) -> None:
    """Those who come later hear of the failure as those who were there."""
    session = api.session()
    first = api.chat_events(session["id"], f"[[gateway:{marker}]]")
    again = Follower(follower_api, first[0].data["message"]["id"]).start().join()
    assert again[-1].name == "error"
    same = {"request_id": ""}
    assert {**again[-1].data, **same} == {**first[-1].data, **same}
    assert again[-1].data["code"] == code
    assert again[-1].data["message"]["status"] == status


def test_only_the_owner_follows(api: Api) -> None:
    """A stream is a message: somebody else's is absent (CVE-2026-31950)."""
    session = api.session()
    message = begin(api, session["id"])
    stranger = sign_up(api.service)
    for verb, path in (("GET", "stream"), ("POST", "stop")):
        refused = stranger.request(verb, f"/chat/{message['id']}/{path}")
        absent = stranger.request(verb, f"/chat/{2**61}/{path}")
        assert refused.status_code == absent.status_code == 404
        assert {**refused.json(), "request_id": ""} == {**absent.json(), "request_id": ""}
    wait_until(lambda: find(api, session["id"], message["id"])["status"] == "complete")


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30])
def test_a_place_that_is_none(api: Api, last: str) -> None:
    """An id that none of our events has is a clear error."""
    answer = api.chat(api.session()["id"], "Hello").json()["message"]
    path = f"/chat/{answer['id']}/stream"
    assert api.get(path, headers={"Last-Event-ID": last}).status_code == 422


def test_deleted_while_followed(api: Api, elsewhere: Api) -> None:
    """Followers elsewhere hear that the session is gone."""
    session = api.session()
    message = begin(api, session["id"], "[[gateway:answer tokens=100 delay=0.1]]")
    follower = Follower(elsewhere, message["id"]).start()
    wait_until(lambda: len(follower.events) > 2)
    assert api.delete(f"/sessions/{session['id']}").status_code == 204
    assert follower.join()[-1].name == "error"


def test_another_process_adds_little_latency(api: Api, elsewhere: Api) -> None:
    """The median delay between here and elsewhere is under 300 ms."""
    session = api.session()
    message = begin(api, session["id"], "[[gateway:answer tokens=40 delay=0.1]]")
    here = Follower(api, message["id"]).start()
    there = Follower(elsewhere, message["id"]).start()
    events_here, events_there = here.join(), there.join()
    came = {int(e.id): t for e, t in zip(events_there, there.times, strict=True)}
    delays = []
    for event, seen in zip(events_here, here.times, strict=True):
        if event.name == "delta":
            delays.append(min(t for place, t in came.items() if place >= int(event.id)) - seen)
    assert statistics.median(delays) < 0.3, delays


def test_an_answer_that_is_not_streamed_can_be_followed(api: Api, elsewhere: Api) -> None:
    """`stream=false` is a way to listen, too: others may follow."""
    session = api.session()
    answer = api.chat(session["id"], "Hello").json()
    text = api.get(f"/chat/{answer['message']['id']}/stream").text
    assert text_of(parse_events(text)) == answer["message"]["content"]
