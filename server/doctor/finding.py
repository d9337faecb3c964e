"""What a check of the doctor's found."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """How one thing stands; `cure` is what mends it, empty where nothing needs to.

    A problem keeps the service from working, or puts what it holds at risk; with a warning it
    works, and shouldn't be left so.
    """

    status: Status
    detail: str
    cure: str = ""


def well(detail: str) -> Finding:
    """As it should be."""
    return Finding("ok", detail)


def warning(detail: str, cure: str) -> Finding:
    """It works, and shouldn't be left so."""
    return Finding("warning", detail, cure)


def problem(detail: str, cure: str) -> Finding:
    """It doesn't work, or something is at risk."""
    return Finding("problem", detail, cure)
