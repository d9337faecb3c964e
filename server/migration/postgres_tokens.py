"""PostgreSQL's SQL, as it prints expressions and views itself, as tokens."""

import re

from server.migration.project_leftovers import Untranslatable
from server.migration.project_tokens import Reader, Token

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<escaped>[eE]'(?:[^'\\]|''|\\.)*')
    |(?P<string>'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")*")
    |(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<word>[A-Za-z_\u0080-\U0010ffff][\w$\u0080-\U0010ffff]*)
    |(?P<sign>::|<>|<=|>=|!=|\|\||->>|->|!~~\*|!~~|~~\*|~~|[^\w\s])""",
    re.VERBOSE | re.DOTALL,
)
_TWO_WORDS = ("CHARACTER", "DOUBLE", "BIT")


def read(sql: str) -> Reader:
    """A reader of the text; its strings have no escapes."""
    found = []
    for match in _TOKEN.finditer(sql):
        kind = str(match.lastgroup)
        if kind == "escaped":
            found.append(Token("string", _unescaped(match[0]), *match.span()))
        elif kind != "space":
            found.append(Token(kind, match[0], *match.span()))
    return Reader(sql, found)


def _unescaped(text: str) -> str:
    """Without the doubled backslashes, the only escape that PostgreSQL prints."""
    plain = text[1:].replace("\\\\", "\0")
    if "\\" in plain:
        raise Untranslatable("it has a text with an escape")
    return plain.replace("\0", "\\")


def read_type(reader: Reader) -> str:
    """The type that comes next, as `format_type` spells it without its schema."""
    token = reader.take()
    name = token.value
    while reader.accept("."):
        name = reader.take().value
    if token.says(*_TWO_WORDS) and reader.peek().says("VARYING", "PRECISION"):
        name += f" {reader.take().value}"
    size = _size(reader)
    if token.says("TIME", "TIMESTAMP") and reader.peek().says("WITH", "WITHOUT"):
        name += " " + " ".join(reader.take().value for _ in range(3))
    array = ""
    while reader.accept("[", "]"):
        array = "[]"
    return f"{name}{size}{array}"


def _size(reader: Reader) -> str:
    if not reader.peek().says("("):
        return ""
    return f"({reader.group().text})"
