"""The whole path once, as a newcomer walks it."""

from tests.gateway import GatewayStub
from tests.service import Api


def test_a_conversation_is_remembered(api: Api, gateway: GatewayStub) -> None:
    """Two turns, one streamed, reach the gateway under one `user` and are stored in order."""
    session = api.session(title="first")
    answer = api.chat(session["id"], "Hello there").json()
    events = api.chat_events(session["id"], "And again")
    assert answer["message"]["status"] == "complete"
    assert events[0].name == "start"
    assert events[-1].name == "done"
    stored = api.messages(session["id"])
    assert [message["role"] for message in stored] == ["user", "assistant"] * 2
    text = "".join(event.data["content"] for event in events if event.name == "delta")
    assert stored[-1]["content"] == text
    users = {request.body.get("user") for request in gateway.requests}
    assert f"adapter-session-{session['session_key']}" in users
