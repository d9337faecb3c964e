"""Statements that PostgreSQL plans once for each connection: PREPARE, then EXECUTE."""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

_PLACE = re.compile(r"%(?:\((\w+)\)s|s|%)")


@dataclass(frozen=True)
class Plan:
    """The two statements that one becomes; `execute` takes the parameters of the original."""

    prepare: str
    execute: str


@lru_cache(maxsize=64)
def plan(sql: str) -> Plan:
    """What a statement in psycopg2's style becomes.

    The name says which text it stands for: behind a pooler that mixes connections a name may have
    been given by another process.
    """
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        place = match[0] if match[1] else f"{match[0]}{len(names)}"
        if place not in names:
            names.append(place)
        return f"${names.index(place) + 1}"

    text = _PLACE.sub(number, sql)
    name = f"clawd_{hashlib.sha256(sql.encode()).hexdigest()[:16]}"
    marks = ", ".join(place if place.endswith(")s") else "%s" for place in names)
    return Plan(
        f"PREPARE {name} AS {text}", f"EXECUTE {name} ({marks})" if marks else f"EXECUTE {name}"
    )
