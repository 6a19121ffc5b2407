"""A text cut at the ends of sentences, with the exact place of every piece.

Knows characters and nothing of tokens. The cutting is `semantic_text_splitter`'s; what is added is
that any text takes time in proportion to its length: the library's own, on a line of many megabytes
without a blank, grows with its square.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from semantic_text_splitter import TextSplitter

__all__ = ["Span", "spans"]

Span: TypeAlias = tuple[int, int]
"""First character, and the one after the last."""

_AT_ONCE = 4
"""Pieces' lengths that are handed to the library at a time."""
_HALF = re.compile("[\ud800-\udfff]")
"""Half a character, as a client's JSON may spell it: no text for the library."""


def spans(text: str, longest: int, overlap: int = 0) -> list[Span]:
    """Pieces of at most `longest` characters, in order, without the blanks around them.

    Every character that is no blank is in at least one. A piece begins with up to `overlap`
    characters of the one before it, whole sentences where they fit. ValueError unless
    0 <= `overlap` < `longest`.
    """
    if not 0 <= overlap < longest:
        raise ValueError(f"an overlap of {overlap} does not fit pieces of {longest} characters")
    from semantic_text_splitter import TextSplitter

    if _HALF.search(text):
        text = _HALF.sub("\ufffd", text)
    splitter = TextSplitter(longest, overlap=overlap, trim=False)
    block = _AT_ONCE * longest
    found: list[Span] = []
    start = 0
    while len(text) - start > block:
        here = _within(splitter, text[start : start + block], start)
        # The last piece is cut short by the block's end: it is made again with what follows.
        found += here[:-1]
        start = here[-1][0]
    return [*_trimmed(text, found + _within(splitter, text[start:], start))]


def _within(splitter: TextSplitter, text: str, offset: int) -> list[Span]:
    return [
        (offset + start, offset + start + len(piece))
        for start, piece in splitter.chunk_indices(text)
    ]


def _trimmed(text: str, found: Iterable[Span]) -> Iterator[Span]:
    """Without the blanks around each, and without those that then hold nothing new."""
    last = 0
    for start, end in found:
        piece = text[start:end]
        begin, stop = end - len(piece.lstrip()), start + len(piece.rstrip())
        if begin < stop and stop > last:
            yield begin, stop
            last = stop
