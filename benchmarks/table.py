"""The README's table of figures, made from what the benchmarks have kept.

venv/bin/python -m benchmarks.table            writes the table into README.md
venv/bin/python -m benchmarks.table --check    ends with 1 where README.md says anything else
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.targets import TARGETS, Target

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
PLACE = re.compile(r"(?<=<!-- benchmarks -->\n).*?(?=<!-- /benchmarks -->)", re.DOTALL)
HEADINGS = "| work | figure | measured | target | met | repeat with `venv/bin/python -m` |"
FEW = 2
Results = Mapping[str, Mapping[str, Any]]


def results() -> dict[str, dict[str, Any]]:
    """What each benchmark has kept, by its name."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in RESULTS.glob("*.json")}


def figures(found: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The figures under a place, each with the names that lead to it from there."""
    if isinstance(found, Mapping):
        for key, inner in found.items():
            yield from figures(inner, f"{name} {key}".strip())
    elif found is not None:
        yield name, found


def measured(target: Target, kept: Results) -> list[tuple[str, float]]:
    """The figures that the target is about; none where nobody has measured."""
    found: Any = kept.get(target.result)
    for key in target.path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return list(figures(found))


def row(target: Target, kept: Results) -> str:
    """A line of the table."""
    found = measured(target, kept)
    met = "yes" if all(target.met(value) for _, value in found) else "no"
    cells = (
        target.work,
        target.figure,
        shown(found, target.unit) if found else "not measured",
        target.target,
        met if found else "",
        f"`benchmarks.{target.command}`",
    )
    return f"| {' | '.join(cells)} |"


def shown(found: list[tuple[str, float]], unit: str) -> str:
    """The figures; of many the least and the largest."""
    if len(found) > FEW:
        ordered = sorted(found, key=lambda one: one[1])
        (least, low), (largest, high) = ordered[0], ordered[-1]
        return f"{low:,.10g} ({least}) to {high:,.10g} {unit} ({largest})"
    return ", ".join(f"{name} {value:,.10g} {unit}".strip() for name, value in found)


def circumstances(kept: Results) -> str:
    """When and on what the figures of the table were measured."""
    used = [kept[name] for name in dict.fromkeys(one.result for one in TARGETS) if name in kept]
    dates = sorted({one["date"] for one in used})
    when = " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "never"
    cores = _each(used, "cores")
    servers = _each(used, "postgresql")
    return f"Measured: {when}, with {cores} cores, PostgreSQL {servers}."


def _each(used: list[Mapping[str, Any]], key: str) -> str:
    return " and ".join(sorted({str(one[key]) for one in used if key in one})) or "?"


def made(kept: Results) -> str:
    """What stands between the marks of the README."""
    lines = [HEADINGS, "|---|---|---|---|---|---|", *(row(target, kept) for target in TARGETS)]
    return "\n".join([*lines, "", circumstances(kept), ""])


def written(text: str, kept: Results) -> str:
    """The document with the table of these results; raises `ValueError` without its two marks."""
    if not PLACE.search(text):
        raise ValueError("the document has no place for the table")
    return PLACE.sub(lambda _: made(kept), text)


def main() -> None:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("document", type=Path, nargs="?", default=README)
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    given = parser.parse_args()
    text = given.document.read_text("utf-8")
    wanted = written(text, results())
    if not given.check:
        given.document.write_text(wanted, "utf-8")
    elif text != wanted:
        sys.exit(f"{given.document.name} differs from benchmarks/results; `--help` says more")


if __name__ == "__main__":
    main()
