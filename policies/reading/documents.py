"""The words of this room: a document, and a passage of one.

Plain values. What finds documents in a request, what searches them and what writes them into a
prompt all speak of these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["TASKS", "Document", "Passage", "Task", "Way", "digest"]

Task: TypeAlias = Literal["location", "reasoning", "comp", "hallu"]
"""What is asked of a document (LaRA, arXiv 2502.09977, section 3.2): a fact that stands in one
place, a conclusion from it, a comparison of several places, or what it does not say."""

TASKS: tuple[Task, ...] = ("location", "reasoning", "comp", "hallu")
"""In the order in which arrays hold them."""

Way: TypeAlias = Literal["passages", "whole"]
"""How documents are read: a few passages that a search found, or all of them."""

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Document:
    """A text that is asked about. `id` is the client's own name for it, or its number from 1.

    `title` may be empty.
    """

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """Characters `start` to `end` (exclusive) of a document.

    `document` is its place, from 0, among those that were searched. `score` orders the passages of
    one search, larger is better; it means nothing beyond.
    """

    document: int
    start: int
    end: int
    text: str
    score: float = 0.0


def digest(texts: Sequence[str]) -> str:
    """32 hexadecimal digits: equal for equal texts in the same order, and only for those."""
    whole = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        whole.update(b"%d:" % len(data))
        whole.update(data)
    return whole.hexdigest()
