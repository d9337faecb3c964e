"""The texts of the service's own queries, as they stand in the code."""

import ast
import re
from collections.abc import Iterator, Sequence

from tests.service import ROOT

FILES = ("**/*queries.py", "audit.py", "auth/limits.py")
_SQL = re.compile(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH)\s")
# Of a place whose name is put together, too: `%(high{number})s`.
_PLACE = re.compile(r"%\(\w+\)s|%s|%\(\w*$|^\)s")
Pieces = Sequence[str]


def in_the_code() -> dict[str, list[Pieces]]:
    """By `file:function`, the fixed pieces of each statement's text."""
    paths = [path for pattern in FILES for path in sorted((ROOT / "server").glob(pattern))]
    return {
        f"{path.relative_to(ROOT)}:{function.name}": statements
        for path in paths
        for function in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(function, ast.FunctionDef) and (statements := list(_statements(function)))
    }


def is_made_of(text: str, pieces: Pieces) -> bool:
    """Whether a statement has these pieces, from its beginning to its end, with values between."""
    return has(text, pieces) and text.startswith(pieces[0]) and text.endswith(pieces[-1])


def has(text: str, pieces: Pieces) -> bool:
    """Whether a statement has these pieces in their order, as a part of it or as a whole."""
    at = 0
    for piece in pieces:
        at = text.find(piece, at) + len(piece)
        if at < len(piece):
            return False
    return True


def _statements(function: ast.FunctionDef) -> Iterator[Pieces]:
    for parts in _texts(function):
        if _SQL.match(parts[0]):
            yield [" ".join(one.split()) for part in parts for one in _PLACE.split(part)]


def _texts(node: ast.AST) -> Iterator[list[str]]:
    """Each text in the code, as its parts between what is put in."""
    if isinstance(node, ast.JoinedStr):
        parts = [""]
        for value in node.values:
            if isinstance(value, ast.Constant):
                parts[-1] += str(value.value)
            else:
                parts.append("")
        yield parts
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield [node.value]
    else:
        for child in ast.iter_child_nodes(node):
            yield from _texts(child)
