"""The names by which a user's message chooses a behaviour: `[[gateway:cut 3 half=true]]`."""

import shlex
from collections.abc import Callable
from inspect import signature
from typing import Literal, get_args

from tests.gateway.behaviours import (
    MIB,
    Answer,
    Behaviour,
    Cut,
    Data,
    Drip,
    EndEarly,
    GzipBomb,
    HangUp,
    Page,
    ProviderError,
    Redirect,
    Refuse,
    Silence,
    ToolUse,
)
from tests.gateway.protocol import Wire


def wire(
    line_ends: Literal["lf", "crlf", "cr"] = "lf",
    bom: bool = False,
    multi_line: bool = False,
    split: bool = False,
    noise: bool = False,
) -> Behaviour:
    """A normal answer on another wire."""
    text = "Grüße aus Zürich, 你好, \N{GRINNING FACE}\N{FAMILY}!"
    return Answer(text=text, wire=Wire(line_ends, bom, multi_line, split, noise))


def reasoning(seconds: float = 0.3) -> Behaviour:
    """A model that thinks first: silence, then the whole answer as one piece."""
    return Answer(first=seconds, whole=True)


def big_line(size: int = MIB + 1) -> Behaviour:
    """An answer whose one event is a line of more than `size` bytes."""
    return Answer(pieces=("x" * size,))


NAMED: dict[str, Callable[..., Behaviour]] = {
    "answer": Answer,
    "reasoning": reasoning,
    "tool": ToolUse,
    "empty": lambda: Answer(text=""),
    "nul": lambda: Answer(text="before\x00 after"),
    "separators": lambda: Answer(text="one\u2028two\u2029three\x85four five"),
    "half-emoji": lambda: Answer(pieces=("face: ", "\ud83d", "\ude00")),
    "lone-surrogate": lambda: Answer(text="broken \ud83d face"),
    "big-line": big_line,
    "wire": wire,
    "silence": Silence,
    "drip": Drip,
    "cut": Cut,
    "hang-up": HangUp,
    "end-early": EndEarly,
    "error": ProviderError,
    "refuse": Refuse,
    "redirect": Redirect,
    "html": Page,
    "bad-json": lambda: Data('{"id":"chatcmpl_1","choices":[{'),
    "wrong-shape": lambda: Data('{"choices":{"0":"no"},"usage":[]}'),
    "gzip-bomb": GzipBomb,
}


def named(marker: str) -> Behaviour:
    """The behaviour that a marker describes: its name, then fields in order or as `name=value`.

    A dash in a field's name is an underscore; values are true, false, none, numbers or words.
    Raises ValueError when there is no such behaviour, field or value.
    """
    try:
        name, *settings = shlex.split(marker)
        make = NAMED[name]
        kinds = {field.name: field.annotation for field in signature(make).parameters.values()}
        places = [*kinds][: len(settings)]
        given = zip(settings, places, strict=True)
        return make(**dict(_setting(setting, place, kinds) for setting, place in given))
    except (LookupError, ValueError) as error:
        raise ValueError(f"no behaviour of the stub gateway: {marker}") from error


def _setting(setting: str, place: str, kinds: dict[str, object]) -> tuple[str, object]:
    name, equals, value = setting.partition("=")
    if not equals:
        return place, _value(setting, kinds[place])
    name = name.replace("-", "_")
    return name, _value(value, kinds[name])


def _value(value: str, annotation: object) -> object:
    kinds = get_args(annotation) or (annotation,)
    if type(None) in kinds and value == "none":
        return None
    if bool in kinds:
        return {"true": True, "false": False}[value]
    for kind in (int, float):
        if kind in kinds:
            return kind(value)
    return value
