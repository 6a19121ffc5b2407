"""Cutting a text in its middle, at borders of paragraphs and sentences, with a mark that says so.

What benchmarks of long contexts do to a text that does not fit (LaRA, arXiv 2502.09977, section 3):
beginnings and ends say most. Knows strings and nothing of requests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

REACH = 400
"""Characters in which a border is looked for, before a sentence is cut."""
_BORDERS = (
    re.compile(r"\n[ \t\r]{0,80}\n\s{0,80}"),
    re.compile(r"\n\s{0,80}"),
    re.compile(
        r"(?:[.!?\u061f\u06d4\u0964][\"')\]\u201d\u2019]{0,2}\s{1,80}|[\u3002\uff01\uff1f])"
    ),
    re.compile(r"\s{1,80}"),
)
"""What ends a paragraph, a line, a sentence, a word: the best first."""
_MARKS = re.compile(r"\[(\.{3,}+) | (\.{3,}+)\]")
"""What could be taken for one side of a mark."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A text with its mark in the middle, and how many characters it lacks."""

    text: str
    missing: int


def shares(sizes: Sequence[int], characters: int) -> list[int]:
    """How many of `characters` each text gets: all that it has, or as much as any other."""
    left, given = max(characters, 0), [0] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda number: sizes[number])
    for place, number in enumerate(order):
        given[number] = min(sizes[number], left // (len(order) - place))
        left -= given[number]
    return given


def middle_cut(text: str, characters: int) -> Cut:
    """At most `characters` of a text, half of them from its beginning, half from its end."""
    if len(text) <= characters:
        return Cut(text, 0)
    head = _last_border(text, (max(characters, 0) + 1) // 2)
    tail = _first_border(text, len(text) - max(characters, 0) // 2)
    missing = tail - head
    return Cut(f"{text[:head]}{_mark(text, missing)}{text[tail:]}", missing)


def _last_border(text: str, at: int) -> int:
    """The end of the last border at or before `at`, if one is near."""
    near = max(0, at - min(REACH, at // 2))
    for border in _BORDERS:
        ends = [found.end() for found in border.finditer(text, near, at)]
        if ends:
            return ends[-1]
    return at


def _first_border(text: str, at: int) -> int:
    """The end of the first border behind `at`, if one is near."""
    far = at + min(REACH, (len(text) - at) // 2)
    for border in _BORDERS:
        if found := border.search(text, at, far):
            return found.end()
    return at


def _mark(text: str, missing: int) -> str:
    """What says how much is left out; with more dots where the text has such a mark of its own."""
    taken = {len(dots) for either in _MARKS.findall(text) for dots in either}
    count = next(number for number in range(3, len(taken) + 4) if number not in taken)
    return f"\n\n[{'.' * count} {missing} characters left out {'.' * count}]\n\n"
