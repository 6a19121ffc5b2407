"""How a question is worded, as counts: its words, and its frame.

The frame is what is left of a question when names and numbers are taken out: "How does Xx compare
to Xx?". Questions about other documents share their frames and few of their words. Cheap, free of
any model, the same in training and in service. It knows texts and nothing else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

__all__ = ["FRAMES", "WORDS", "frame", "ngrams", "tokens"]

WORDS = 3
"""Tokens of the longest n-gram of words."""
FRAMES = 4
"""Tokens of the longest n-gram of a frame, which has fewer different ones."""
NAME, NUMBER = "Xx", "9"
"""What stands for names, however many words they have, and for what has a digit in it."""
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


def ngrams(parts: Sequence[str], longest: int) -> Counter[str]:
    """Runs of 1 to `longest` tokens, joined by a space: how often each."""
    return Counter(
        " ".join(parts[start : start + length])
        for length in range(1, longest + 1)
        for start in range(len(parts) - length + 1)
    )
