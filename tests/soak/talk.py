"""What users do with the agent: chats whole and streamed, cut, followed, stopped and troubled."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx

from tests.images.samples import KINDS, png, url
from tests.service import Event, Json, parse_events
from tests.soak.user import User

# The gateway's behaviours, and what comes of them where the answer isn't streamed.
TROUBLES = (
    "refuse internal",
    "refuse provider-overloaded",
    "refuse provider-key",
    "refuse rate-limited retry_after=1",
    "cut",
    "cut 5 half=true",
    "cut 2 reset=true",
    "hang-up",
    "end-early",
    "error",
    "error breaker 3",
    "redirect",
    "html",
    "bad-json",
    "wrong-shape",
    "silence",
    "silence 4",
    "drip",
    "drip 0.1 3",
    "empty",
    "big-line 100000",
    "lone-surrogate",
)
ODDITIES = ("tool", "reasoning", "nul", "separators", "half-emoji", "wire crlf", "wire lf true")


async def read_events(response: httpx.Response) -> AsyncGenerator[Event]:
    """The events as they come."""
    rest = ""
    async for text in response.aiter_text():
        *blocks, rest = (rest + text).split("\n\n")
        for event in parse_events("\n\n".join(blocks)):
            yield event


class Heard:
    """What a user has heard of one answer, over as many connections as it took."""

    def __init__(self, user: User, text: str = "") -> None:
        self.user = user
        self.asked = text
        self.message_id = 0
        self.text = ""
        self.place: str | None = None
        self.end: Json | None = None

    async def listen(self, response: httpx.Response, most: int | None = None) -> None:
        """Take in the events, all or so many."""
        left = most
        async with aclosing(read_events(response)) as events:
            async for event in events:
                self._take(event)
                left = left and left - 1
                if left == 0 or self.end is not None:
                    return
        if self.end is None:
            self.user.wrong(f"the stream of {self.message_id} ended without an end")

    def _take(self, event: Event) -> None:
        self.place = event.id
        match event.name:
            case "start":
                self.message_id = event.data["message"]["id"]
                asked = event.data["user_message"]
                if self.asked:
                    ledger = self.user.place.ledger
                    ledger.acknowledge(self.asked, asked["id"], asked["session_id"])
            case "delta":
                self.text += event.data["content"]
            case _:
                self.end = event.data
                self._compare()

    def _compare(self) -> None:
        """The pieces, over all connections, are the answer without gap or duplicate."""
        answer = (self.end or {}).get("message")
        if answer is None:
            self.user.wrong(f"an end without its message: {self.end}")
        self.user.place.ledger.tell(answer)
        if answer["content"] != self.text:
            told, stored = self.text, answer["content"]
            self.user.wrong(f"answer {self.message_id}: heard {told[-80:]!r}, not {stored[-80:]!r}")

    async def follow(self) -> None:
        """Listen to the rest, with pauses and more cuts."""
        user = self.user
        while self.end is None:
            path = f"/chat/{self.message_id}/stream"
            headers = {"Last-Event-ID": self.place} if self.place else {}
            async with user.stream("GET", path, 200, headers=headers) as response:
                await self.listen(response, user.random.choice((2, 5, 20, None)))
            user.count("followed")


async def free_session(user: User) -> int | None:
    """A session in which the agent is not known to speak."""
    session = user.session()
    if session is None or session not in user.unread:
        return session
    message_id = user.unread.pop(session)
    if user.random.random() < 0.5:
        await user.ask("POST", f"/chat/{message_id}/stop", 200)
        user.count("stopped")
    else:
        heard = Heard(user)
        heard.message_id = message_id
        await heard.follow()
    return session


def turn(user: User, session: int, marker: str = "", **fields: Any) -> Json:
    """A body for /chat with a new text."""
    text = user.text() + (f" [[gateway:{marker}]]" if marker else "")
    return {"session_id": session, "message": text, **fields}


def slow(user: User) -> str:
    """A marker for an answer that takes a while."""
    tokens = user.random.randrange(5, 60)
    return f"answer tokens={tokens} delay={user.random.choice((0.01, 0.03, 0.06))}"


def images(user: User) -> list[str]:
    """A few images, seldom a large one."""
    make = user.random.choice([make for makes in KINDS.values() for make in makes])
    some = [url(make(8, 8)) for _ in range(user.random.randrange(1, 4))]
    if user.random.random() < 0.1:
        # What follows the last chunk of a PNG belongs to nobody, and makes it as large as wanted.
        some.append(url(png(9, 9) + user.random.randbytes(user.random.randrange(1_000_000))))
    return some


async def say(user: User, body: Json, *allowed: int, **options: Any) -> Json:
    """Say it, hear the whole answer; what was answered."""
    answer = (await user.ask("POST", "/chat", *allowed, json=body, **options)).json()
    asked = answer.get("user_message_id") or answer["user_message"]["id"]
    user.place.ledger.acknowledge(body["message"], asked, body["session_id"])
    if "message" in answer:
        user.place.ledger.tell(answer["message"])
    whole: Json = answer
    return whole


async def chat(user: User) -> None:
    """One turn, not streamed, sometimes with images or an odd answer."""
    if session := await free_session(user):
        marker = user.random.choice(ODDITIES) if user.random.random() < 0.1 else ""
        await say(user, turn(user, session, marker), 200)


async def show(user: User) -> None:
    """One turn with images, which can be had again."""
    if session := await free_session(user):
        answer = await say(user, turn(user, session, images=images(user)), 200)
        for image in answer["user_message"]["images"][:2]:
            got = await user.ask("GET", f"/images/{image['id']}", 200)
            if len(got.content) != image["bytes"]:
                user.wrong(f"image {image['id']}: {len(got.content)} bytes")


async def be_troubled(user: User) -> None:
    """One turn that the gateway doesn't answer as it should, streamed or not."""
    if session := await free_session(user):
        body = turn(user, session, user.random.choice(TROUBLES))
        user.count("troubled")
        if user.random.random() < 0.5:
            await say(user, body, 200, 502, 503, 504)
        else:
            await hear(user, body)


async def hear(user: User, body: Json) -> Heard:
    """One streamed turn to its end."""
    heard = Heard(user, body["message"])
    async with user.stream("POST", "/chat", 200, json={**body, "stream": True}) as response:
        await heard.listen(response)
    user.count("streamed")
    return heard


async def stream(user: User) -> None:
    """One streamed turn, sometimes with images."""
    if session := await free_session(user):
        some = images(user) if user.random.random() < 0.2 else []
        await hear(user, turn(user, session, slow(user), images=some))


async def cut(user: User) -> None:
    """A stream that the client cuts at random; it follows later, or leaves it at that."""
    if session := await free_session(user):
        heard = await hear_some(user, turn(user, session, slow(user)))
        if heard.end is None:
            if user.random.random() < 0.3:
                user.unread[session] = heard.message_id
            else:
                await heard.follow()


async def hear_some(user: User, body: Json) -> Heard:
    """The first events of a streamed turn; then the connection is closed."""
    heard = Heard(user, body["message"])
    async with user.stream("POST", "/chat", 200, json={**body, "stream": True}) as response:
        await heard.listen(response, user.random.randrange(1, 40))
    user.count("streamed" if heard.end else "cut")
    return heard


async def stop(user: User) -> None:
    """A stream that is stopped while it is heard: its follower gets the end."""
    if session := await free_session(user):
        body = {**turn(user, session, slow(user)), "stream": True}
        heard = Heard(user, body["message"])
        async with user.stream("POST", "/chat", 200, json=body) as response:
            await heard.listen(response, user.random.randrange(1, 10))
            answer = (await user.ask("POST", f"/chat/{heard.message_id}/stop", 200)).json()
        user.count("stopped")
        await heard.follow()
        if heard.end and heard.end["message"] != answer:
            user.wrong(f"answer {heard.message_id}: stopped as {answer}, ended as {heard.end}")


async def interrupt(user: User) -> None:
    """Say something while the agent speaks: refused, with the answer that can be followed."""
    if session := await free_session(user):
        heard = await hear_some(user, turn(user, session, "answer tokens=40 delay=0.03"))
        refused = await user.ask("POST", "/chat", 200, 409, json=turn(user, session))
        if refused.status_code == 409 and refused.json()["message_id"] != heard.message_id:
            user.wrong(f"busy with another answer than {heard.message_id}", refused.text)
        await heard.follow()


async def repeat(user: User) -> None:
    """The same key twice: the same messages."""
    if session := await free_session(user):
        body, key = turn(user, session), {"Idempotency-Key": secrets.token_hex(8)}
        first = await say(user, body, 200, headers=key)
        again = await say(user, body, 200, headers=key)
        if first != again:
            user.wrong(f"sent twice, answered {first} and {again}")


async def branch(user: User) -> None:
    """Another answer, then the first message anew."""
    if session := await free_session(user):
        answer = await say(user, turn(user, session), 200)
        body = {"session_id": session, "regenerate_of": answer["message"]["id"]}
        await user.ask("POST", "/chat", 200, json=body)
        await say(user, turn(user, session, parent_id=None), 200)
        leaves = (await user.ask("GET", f"/sessions/{session}/branches", 200)).json()["leaves"]
        params = {"leaf": user.random.choice(leaves)}
        await user.ask("GET", f"/sessions/{session}/messages", 200, params=params)
