"""How a question is worded, as counts: its words, its frame, and the outline of that.

The frame is what is left of a question when names and numbers are taken out: "how does Xx compare
to Xx ?". Its outline has no rare words either: "how does Xx compare to the _ of Xx ?". Questions
about other documents share frames and outlines, and few of their words. Cheap, free of any model,
the same in training and in service. It knows texts and nothing else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

__all__ = ["FRAMES", "OUTLINES", "WORDS", "frame", "ngrams", "outline", "tokens"]

WORDS = 3
"""Tokens of the longest n-gram of words."""
FRAMES = 4
"""Tokens of the longest n-gram of a frame, which has fewer different ones."""
NAME, NUMBER = "Xx", "9"
"""What stands for names, however many words they have, and for what has a digit in it."""
OUTLINES = 5
RARE, BEGIN, END = "_", "<s>", "</s>"
"""What stands for a run of rare words, and where an outline begins and ends."""
_READ = 2048
"""Characters that are read, as many as of the n-grams of characters."""
_TOKEN = re.compile(r"\w+|[^\w\s]")
_DIGIT = re.compile(r"\d")


def tokens(text: str) -> list[str]:
    """The words and the marks between them, as they are spelled."""
    return _TOKEN.findall(text[:_READ])


def frame(spelled: Sequence[str]) -> list[str]:
    """`tokens` without names and numbers. A name is a run of capitalised words within a text."""
    kept: list[str] = []
    for at, token in enumerate(spelled):
        if _DIGIT.search(token):
            kept.append(NUMBER)
        elif at and token[0].isupper():
            if kept[-1] != NAME:
                kept.append(NAME)
        else:
            kept.append(token.lower())
    return kept


def outline(framed: Sequence[str], common: Collection[str]) -> list[str]:
    """A frame of which only `common` tokens are left."""
    kept = [BEGIN]
    for token in framed:
        if token in common:
            kept.append(token)
        elif kept[-1] != RARE:
            kept.append(RARE)
    return [*kept, END]


def ngrams(parts: Sequence[str], longest: int) -> Counter[str]:
    """Runs of 1 to `longest` tokens, joined by a space: how often each."""
    return Counter(
        " ".join(parts[start : start + length])
        for length in range(1, longest + 1)
        for start in range(len(parts) - length + 1)
    )
