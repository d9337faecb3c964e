"""Stopping an answer: from any process, within a second, as often as one likes."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.chat.following import Follower, begin, find, text_of, wait_until
from tests.gateway import GatewayStub
from tests.service import Api

LONG = "[[gateway:answer tokens=300 delay=0.1]]"
SILENT = "[[gateway:silence 3]]"


@pytest.fixture(params=["here", "elsewhere"])
def stopper(request: pytest.FixtureRequest, api: Api, elsewhere: Api) -> Api:
    """The process that is asked to stop: the one that generates, or another."""
    return api if request.param == "here" else elsewhere


@pytest.mark.parametrize("message", [LONG, SILENT], ids=["talking", "silent"])
def test_stop(api: Api, stopper: Api, gateway: GatewayStub, message: str) -> None:
    """It ends within a second, keeps its text, tells its followers, and frees the gateway."""
    session = api.session()
    begun = begin(api, session["id"], message)
    followers = [Follower(api, begun["id"]).start(), Follower(stopper, begun["id"]).start()]
    wait_until(lambda: all(len(f.events) >= 2 for f in followers))
    started = time.monotonic()
    response = stopper.post(f"/chat/{begun['id']}/stop")
    assert time.monotonic() - started < 1
    assert response.status_code == 200
    stopped = response.json()
    assert stopped["status"] == "stopped"
    assert stopped["content"]
    assert stopped == find(api, session["id"], begun["id"])
    for follower in followers:
        events = follower.join()
        assert events[-1].name == "done"
        assert events[-1].data["message"] == stopped
        assert text_of(events) == stopped["content"]
    user = f"adapter-session-{session['session_key']}"
    gateway.wait_until(
        lambda: any(r.cancelled for r in gateway.chats if r.body.get("user") == user)
    )
    again = stopper.post(f"/chat/{begun['id']}/stop")
    assert (again.status_code, again.json()) == (200, stopped)
    assert api.chat(session["id"], "go on").status_code == 200, "the session is free again"


def test_stopping_what_has_ended(api: Api, stopper: Api) -> None:
    """A finished message is answered as it is."""
    answer = api.chat(api.session()["id"], "Hello").json()["message"]
    response = stopper.post(f"/chat/{answer['id']}/stop")
    assert (response.status_code, response.json()) == (200, answer)


def test_the_one_who_waits_hears_of_the_stop(api: Api, stopper: Api) -> None:
    """A client that asked without a stream gets the text so far as an answer."""
    session = api.session()
    follower = WholeAnswer(api, session["id"])
    wait_until(lambda: bool(api.messages(session["id"])))
    running = api.messages(session["id"])[-1]
    assert stopper.post(f"/chat/{running['id']}/stop").json()["status"] == "stopped"
    response = follower.join()
    assert response.status_code == 200
    assert response.json()["message"]["status"] == "stopped"


class WholeAnswer:
    """A turn that is not streamed, in a thread."""

    def __init__(self, api: Api, session_id: int) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._future = self._pool.submit(api.chat, session_id, "[[gateway:silence]]")

    def join(self) -> httpx.Response:
        """The response."""
        try:
            return self._future.result(20)
        finally:
            self._pool.shutdown()
