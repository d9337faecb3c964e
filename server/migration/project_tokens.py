"""SQLite's SQL as tokens, by the rules of its tokenizer.

https://sqlite.org/src/file/src/tokenize.c, https://sqlite.org/lang_keywords.html
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from server.migration.project_leftovers import Untranslatable

_TOKEN = re.compile(
    r"""(?P<space>[ \t\n\f\r]+|--[^\n]*|/\*.*?(?:\*/|\Z))
    |(?P<blob>[xX]'(?:[0-9a-fA-F]{2})*')
    |(?P<string>'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])
    |(?P<number>0[xX][0-9a-fA-F]+|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<word>[A-Za-z_\u0080-\U0010ffff][\w$\u0080-\U0010ffff]*)
    |(?P<sign>->>|->|\|\||<<|>>|<=|>=|<>|!=|==|.)""",
    re.VERBOSE | re.DOTALL,
)


_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def caseless(name: str) -> str:
    """A name as SQLite compares it: only ASCII's letters have no case."""
    return name.translate(_LOWER)


@dataclass(frozen=True)
class Token:
    """A word, a quoted name, a string, blob, number or sign, with its place in the text."""

    kind: str
    text: str
    start: int
    end: int

    @property
    def value(self) -> str:
        """The name or the text without its quotes."""
        if self.kind not in ("quoted", "string"):
            return self.text
        inner, mark = self.text[1:-1], self.text[-1]
        return inner if mark == "]" else inner.replace(mark * 2, mark)

    def says(self, *words: str) -> bool:
        """Whether it is one of these keywords or signs, unquoted."""
        return self.kind in ("word", "sign") and self.text.upper() in words


END = Token("end", "", 0, 0)


def tokens(sql: str) -> Iterator[Token]:
    """The tokens of a text, without space and comments."""
    for match in _TOKEN.finditer(sql):
        if match.lastgroup != "space":
            yield Token(str(match.lastgroup), match[0], *match.span())


class Reader:
    """Tokens read from left to right."""

    def __init__(self, sql: str, found: list[Token] | None = None) -> None:
        self.sql = sql
        self._tokens = list(tokens(sql)) if found is None else found
        self._at = 0

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._tokens)

    @property
    def text(self) -> str:
        """What is left, as it is written."""
        rest = self._tokens[self._at :]
        return self.sql[rest[0].start : rest[-1].end] if rest else ""

    def peek(self, ahead: int = 0) -> Token:
        """The next token, or one after it; `END` behind the last."""
        place = self._at + ahead
        return self._tokens[place] if place < len(self._tokens) else END

    def take(self) -> Token:
        """The next token."""
        token = self.peek()
        self._at += 1
        return token

    def accept(self, *words: str) -> bool:
        """Take these words or signs if they come next, all of them."""
        if not all(self.peek(ahead).says(word) for ahead, word in enumerate(words)):
            return False
        self._at += len(words)
        return True

    def expect(self, word: str) -> None:
        """Take this word or sign; raises `Untranslatable` at any other."""
        if not self.accept(word):
            found = self.peek().text or "the end"
            raise Untranslatable(f"it has {found} where {word} was expected")

    def group(self) -> "Reader":
        """What stands between the parenthesis that comes next and its counterpart."""
        self.expect("(")
        start, depth = self._at, 1
        while depth and not self.done:
            token = self.take()
            depth += token.says("(") - token.says(")")
        return Reader(self.sql, self._tokens[start : self._at - 1])

    def parts(self) -> "list[Reader]":
        """What is left, split at its commas outside parentheses."""
        parts: list[list[Token]] = [[]]
        depth = 0
        for token in self._tokens[self._at :]:
            depth += token.says("(") - token.says(")")
            if token.says(",") and depth == 0:
                parts.append([])
            else:
                parts[-1].append(token)
        self._at = len(self._tokens)
        return [Reader(self.sql, part) for part in parts]
