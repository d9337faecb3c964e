"""The service and a real OpenClaw gateway hold conversations."""

import base64
import struct
import zlib
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.openclaw.gateway import Gateway
from tests.openclaw.model_stub import ModelStub, ProviderRequest, media_types, user_turns
from tests.openclaw.service import Answer, Service, Session, Transcript, running_service

# Whichever test comes first also waits for the gateway to start, and one starts it again.
pytestmark = [pytest.mark.openclaw, pytest.mark.timeout(400)]

AGENT = "agent:main"


def test_a_conversation_is_remembered_across_all_ways_of_asking(
    service: Service, model: ModelStub
) -> None:
    """Plain, streamed, with a picture, streamed: one conversation; turn four knows turn one."""
    session = service.session()

    noted = session.ask("Good morning. My name is Ada and I count things.")
    assert noted.text == "Noted, that was turn 1."
    streamed = session.ask("Please remember the word heron.", stream=True)
    assert_streamed(streamed, "Noted, that was turn 2.")
    seen = session.ask("What is in this picture?", png())
    assert seen.text == "I see 1 image: image/png."
    recalled = session.ask("What is my name, and which word was it?", stream=True)
    assert_streamed(recalled, "Your name is Ada. The word is heron.")

    assert_kept(session, turns=4)
    assert_told_once(model.requests[-1], session)


def assert_streamed(answer: Answer, text: str) -> None:
    """The stream has its three kinds of events in order, and its pieces make up the stored text."""
    assert (answer.status, answer.media_type) == (200, "text/event-stream")
    names = [name for name, _ in answer.events]
    assert names == ["start", *["delta"] * len(answer.deltas), "done"]
    assert len(answer.deltas) > 1
    assert "".join(answer.deltas) == answer.text == text


def assert_kept(session: Session, turns: int) -> None:
    """The service keeps every turn, whole, and the picture with the message it came with."""
    messages = session.messages()
    assert [message["role"] for message in messages] == ["user", "assistant"] * turns
    assert {message["status"] for message in messages} == {"complete"}
    assert [image["media_type"] for image in messages[4]["images"]] == ["image/png"]


def assert_told_once(request: ProviderRequest, session: Session) -> None:
    """The model gets every turn once: history from the gateway, only the newest turn from us."""
    assert request.session == f"agent:main:openai-user:adapter-session-{session.key}"
    assert len(request.user_texts) == 4
    history = "\n".join(request.user_texts)
    for said in ("My name is Ada", "the word heron", "in this picture", "which word was it"):
        assert history.count(said) == 1
    pictures = [media_types(turn) for turn in user_turns(request.messages)]
    assert pictures == [[], [], ["image/png"], []]


@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_each_way_of_asking_reaches_the_session(
    service: Service, stream: bool, images: int
) -> None:
    """Streamed or not, with pictures or without: a question arrives in its session."""
    session = service.session()
    session.ask("Please remember the word heron.")

    pictures = [png(side) for side in range(8, 8 + images)]
    answer = session.ask("Which word was it?", *pictures, stream=stream)

    seen = ["", " I see 1 image: image/png.", " I see 2 images: image/png, image/png."]
    expected = f"The word is heron.{seen[images]}"
    if stream:
        assert_streamed(answer, expected)
    else:
        assert answer.text == expected


def test_sessions_share_no_memory(service: Service) -> None:
    """What is said in one session is unknown in another, also of the same user and project."""
    one, other = service.session(), service.session()
    one.ask("My name is Ada.")
    other.ask("My name is Grace.")
    third = service.session()

    assert one.ask("What is my name?").text == "Your name is Ada."
    assert other.ask("What is my name?").text == "Your name is Grace."
    assert third.ask("What is my name?").text == "I was never told."


def test_a_wrong_token_is_our_failure_not_the_users(
    gateway: Gateway, transcript: Transcript, tmp_path: Path
) -> None:
    """The gateway's 401 becomes 502: a 401 would log the user out. The token shows up nowhere."""
    token = f"wrong-{uuid4().hex}"
    with running_service(tmp_path, gateway.url, token, transcript) as service:
        session = service.session()
        assert_failed(session, session.ask("Hello?"))
        assert_failed(session, session.ask("Hello again?", stream=True))
        assert token not in (tmp_path / "service.log").read_text()


def assert_failed(session: Session, answer: Answer) -> None:
    """A 502 that gives nothing away, with the user's message kept and the answer's row marked."""
    if answer.media_type == "text/event-stream":
        assert [name for name, _ in answer.events] == ["start", "error"]
    else:
        assert (answer.status, answer.media_type) == (502, "application/problem+json")
    assert answer.body["status"] == 502
    assert "127.0.0.1" not in answer.raw
    assert "Unauthorized" not in answer.raw
    asked, failed = session.messages()[-2:]
    assert (asked["role"], asked["status"]) == ("user", "complete")
    assert (failed["role"], failed["status"]) == ("assistant", "failed")


def test_a_restart_of_the_gateway_costs_one_answer_and_no_memory(
    service: Service, gateway: Gateway
) -> None:
    """A stopped gateway is 502; when it is back, the same session goes on and knows its past."""
    session = service.session()
    session.ask("My name is Ada.")

    gateway.stop()
    try:
        assert_failed(session, session.ask("What is my name?"))
        assert_failed(session, session.ask("What is my name?", stream=True))
    finally:
        gateway.start()

    assert session.ask("What is my name?").text == "Your name is Ada."


def test_user_selects_the_session(gateway: Gateway, model: ModelStub) -> None:
    """This gateway still keeps one conversation per `user` (openclaw #126616 would end that)."""
    user = f"adapter-session-{uuid4()}"
    ask_gateway(gateway, "My name is Ada.", user=user)

    assert ask_gateway(gateway, "What is my name?", user=user) == "Your name is Ada."
    assert model.requests[-1].session == f"agent:main:openai-user:{user}"
    assert ask_gateway(gateway, "What is my name?") == "I was never told."


def test_the_session_header_selects_the_session_too(gateway: Gateway, model: ModelStub) -> None:
    """`x-openclaw-session-key` names the session, wins over `user`, and reaches the user's one.

    So there is a way on when `user` is ignored one day, and with the full key no memory is lost.
    """
    name, user = f"adapter-session-{uuid4()}", f"adapter-session-{uuid4()}"
    ask_gateway(gateway, "My name is Ada.", header=name)
    ask_gateway(gateway, "My name is Grace.", user=user)

    assert ask_gateway(gateway, "What is my name?", header=name) == "Your name is Ada."
    assert model.requests[-1].session == f"agent:main:{name}"
    assert ask_gateway(gateway, "What is my name?", header=name, user=user) == "Your name is Ada."
    full_key = f"agent:main:openai-user:{user}"
    assert ask_gateway(gateway, "What is my name?", header=full_key) == "Your name is Grace."


def test_the_recommended_configuration_offers_the_model_no_tools(
    gateway: Gateway, model: ModelStub
) -> None:
    """As docs/openclaw.md configures it, a chat can start nothing on the gateway's machine."""
    ask_gateway(gateway, "Hello.")

    assert not model.requests[-1].body.get("tools")


def ask_gateway(gateway: Gateway, text: str, user: str = "", header: str = "") -> str:
    """Asks the gateway itself, past the service."""
    body = {"model": AGENT, "messages": [{"role": "user", "content": text}]}
    headers = {"Authorization": f"Bearer {gateway.token}"}
    response = httpx.post(
        f"{gateway.url}/v1/chat/completions",
        json={**body, "user": user} if user else body,
        headers={**headers, "x-openclaw-session-key": header} if header else headers,
        timeout=60,
    )
    answer: str = response.raise_for_status().json()["choices"][0]["message"]["content"]
    return answer


def png(side: int = 16) -> str:
    """A real picture, a square of one colour, as a data URL."""
    row = b"\x00" + b"\x20\x60\xa0" * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(row * side)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_png_part(kind, body) for kind, body in parts)
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _png_part(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
