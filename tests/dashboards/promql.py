"""Reads of a PromQL query what a test wants to know: which metrics, which labels, which values.

Not a parser of the language, and not needed as one: `promtool` and Prometheus itself check that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

TOKEN = re.compile(
    r"""(?P<string>"[^"]*"|'[^']*')
      | (?P<number>[\d.]+(?:e-?\d+)?[a-z]*)
      | (?P<word>\$?[a-zA-Z_:][\w:]*)
      | (?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^(){}\[\],<>=])""",
    re.VERBOSE,
)
LABELS_FOLLOW = {"by", "without", "on", "ignoring", "group_left", "group_right"}
OPERATORS = {"and", "or", "unless", "bool", "offset"}

Matcher: TypeAlias = tuple[str, str, str]
"""Label, operator, value."""


@dataclass(frozen=True)
class Selector:
    """A metric and what is asked of its labels."""

    metric: str
    matchers: tuple[Matcher, ...]

    def __str__(self) -> str:
        """As PromQL has it."""
        inner = ",".join(f'{label}{sign}"{value}"' for label, sign, value in self.matchers)
        return f"{self.metric}{{{inner}}}"


@dataclass(frozen=True)
class Grouping:
    """`word` is by, on, or the like; `over` are the selectors in what `by` groups."""

    word: str
    labels: tuple[str, ...]
    over: tuple[Selector, ...]


def tokens(query: str) -> list[str]:
    """The words and signs of a query."""
    found = list(TOKEN.finditer(query))
    rest = TOKEN.sub("", query).strip()
    assert not rest, f"cannot read {rest!r} in {query}"
    return [token[0] for token in found]


def selectors(query: str) -> list[Selector]:
    """Every metric that is asked for, in order."""
    return list(_selectors(tokens(query)))


def groupings(query: str) -> list[Grouping]:
    """Every list of labels by which something is grouped or matched."""
    said = tokens(query)
    return [_grouping(said, at) for at, token in enumerate(said) if token in LABELS_FOLLOW]


def _grouping(said: list[str], at: int) -> Grouping:
    end = _closing(said, at + 1)
    labels = tuple(token for token in said[at + 2 : end] if token != ",")
    inner: list[str] = []
    if said[at] in {"by", "without"}:
        assert said[end + 1] == "(", f"{said[at]} stands before what it groups"
        inner = said[end + 2 : _closing(said, end + 1)]
    return Grouping(said[at], labels, tuple(_selectors(inner)))


def _closing(said: list[str], at: int) -> int:
    """Where the bracket that opens at `at` is closed."""
    depth = 0
    for place in range(at, len(said)):
        depth += {"(": 1, ")": -1}.get(said[place], 0)
        if depth == 0:
            return place
    raise AssertionError("a bracket is not closed")


def _selectors(said: list[str]) -> Iterator[Selector]:
    at = 0
    while at < len(said):
        token, after = said[at], said[at + 1] if at + 1 < len(said) else ""
        if token in LABELS_FOLLOW:
            at = _closing(said, at + 1)
        elif token[0].isalpha() and token not in OPERATORS:
            if after == "{":
                end = said.index("}", at)
                yield Selector(token, tuple(_matchers(said[at + 2 : end])))
                at = end
            elif after not in ("(", "by", "without"):
                yield Selector(token, ())
        at += 1


def _matchers(said: list[str]) -> Iterator[Matcher]:
    for at in range(0, len(said), 4):
        label, sign, value = said[at : at + 3]
        yield label, sign, value[1:-1]
