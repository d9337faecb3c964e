"""The gateway of a newcomer who has none yet: it says back what was said, and that it does."""

import asyncio
import re
from typing import Any

from server.chat.gateway import Sink

WORD_SECONDS = 0.03


class EchoGateway:
    """Answers word by word without any model."""

    kind = "echo"
    model = "echo"

    async def answer(self, body: dict[str, Any], sink: Sink) -> None:
        """Repeat the last message."""
        content = body["messages"][-1]["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text = " ".join(part["text"] for part in parts if part["type"] == "text")
        images = sum(part["type"] == "image_url" for part in parts)
        seen = f" I received {images} image(s)." if images else ""
        answer = (
            f"This is the built-in echo: no gateway is configured (OPENCLAW_URL).{seen} "
            f"You said: {text}"
        )
        words = re.findall(r"\S+\s*", answer)
        for word in words:
            sink.add_text(word)
            if body["stream"]:
                await asyncio.sleep(WORD_SECONDS)

    async def probe(self) -> None:
        """It is always there."""

    async def close(self) -> None:
        """There is nothing to close."""
