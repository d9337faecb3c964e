"""Reading event streams piece by piece, from threads."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from tests.service import Api, Event, Json, parse_events

SLOW = "[[gateway:answer tokens=20 delay=0.1]]"


@dataclass
class Follower:
    """One listener in a thread of its own, with the time at which each event came."""

    api: Api
    message_id: int
    last_event_id: str | None = None
    stop_after: int | None = None
    events: list[Event] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    broken: bool = False
    thread: threading.Thread | None = None

    def start(self) -> "Follower":
        """Begin to read."""
        self.thread = threading.Thread(target=self._listen)
        self.thread.start()
        return self

    def join(self, seconds: float = 30) -> list[Event]:
        """Wait for the end; the events."""
        assert self.thread is not None
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the stream did not end"
        return self.events

    def _listen(self) -> None:
        try:
            self._read()
        except httpx.TransportError:
            self.broken = True  # its process died

    def _read(self) -> None:
        headers = {"Last-Event-ID": self.last_event_id} if self.last_event_id else {}
        path = f"/chat/{self.message_id}/stream"
        with self.api.http.stream("GET", path, headers=headers) as response:
            assert response.status_code == 200, response.read()
            rest = ""
            for text in response.iter_text():
                rest += text
                *blocks, rest = rest.split("\n\n")
                for block in blocks:
                    for event in parse_events(block):
                        self.events.append(event)
                        self.times.append(time.monotonic())
                if self.stop_after is not None and len(self.events) >= self.stop_after:
                    return


def text_of(events: list[Event]) -> str:
    """What the deltas make up."""
    return "".join(event.data["content"] for event in events if event.name == "delta")


def begin(api: Api, session_id: int, message: str = SLOW) -> Json:
    """Start a streamed turn, take its `start` event and go away; the assistant's message."""
    with api.stream(session_id, message) as response:
        assert response.status_code == 200, response.read()
        seen = ""
        for text in response.iter_text():
            seen += text
            if "\n\n" in seen:
                break
    message_begun: Json = parse_events(seen.partition("\n\n")[0])[0].data["message"]
    return message_begun


def wait_until(true: Callable[[], bool], seconds: float = 15, what: str = "it") -> float:
    """Wait for something; how long that took."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - started


def find(api: Api, session_id: int, message_id: int) -> Json:
    """A stored message."""
    return next(m for m in api.messages(session_id, limit=200) if m["id"] == message_id)
