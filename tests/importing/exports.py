"""Exports to import: the samples, and files made of pieces."""

import json
from pathlib import Path
from typing import Any

from tests.service import Json

SAMPLES = Path(__file__).parent / "samples"


def sample(name: str) -> Any:
    """A sample's JSON."""
    return json.loads((SAMPLES / name).read_text("utf-8"))


def saved(folder: Path, value: Any, name: str = "export.json") -> Path:
    """The JSON as a file."""
    path = folder / name
    path.write_text(json.dumps(value), "utf-8")
    return path


def node(name: str, parent: str | None, role: str = "user", **more: Any) -> Json:
    """A node of ChatGPT's that says its own name."""
    content = more.pop("content", {"content_type": "text", "parts": [more.pop("text", name)]})
    message = {"id": name, "author": {"role": role}, "content": content, **more}
    return {"id": name, "message": message, "parent": parent, "children": []}


def chat(*nodes: Json, **more: Any) -> Json:
    """A conversation of ChatGPT's with these nodes."""
    mapping = {one["id"]: one for one in nodes}
    return {"id": "c1", "title": "A chat", "create_time": 1700000000, "mapping": mapping, **more}
