"""How documents are cut and searched: the numbers, and what they may be.

Plain values, checked where they are made. Knows nothing of indexes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LONGEST_CHUNK", "SHORTEST_CHUNK", "Recipe"]

SHORTEST_CHUNK, LONGEST_CHUNK = 32, 8192
"""Tokens of a chunk: below, sentences are cut to pieces; above, there is little left to choose."""
MEASURED_BY = ("chunk_tokens", "overlap_tokens", "pool")
"""What the measures of a search depend on."""
_MOST = 1000
"""Chunks that a search may look at or give."""
_HEAVIEST = 1000


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of a search.

    The defaults are LaRA's (arXiv 2502.09977): five chunks of 600 tokens, words to vectors as 3 to
    2. Raises ValueError, whose message begins with the field's name.
    """

    chunk_tokens: int = 600
    """Tokens of a chunk, at most and about: a document's mean characters per token are taken."""
    overlap_tokens: int = 100
    """Tokens that a chunk shares with the one before it, at most and about."""
    lexical: float = 3
    """What words weigh where words and vectors are put together."""
    dense: float = 2
    """What vectors weigh there; 0: vectors are not looked at."""
    keep: int = 5
    """Chunks that a search gives, the best by both together."""
    pool: int = 20
    """The best chunks by words, of which vectors are looked at."""

    def __post_init__(self) -> None:
        self._within("chunk_tokens", SHORTEST_CHUNK, LONGEST_CHUNK)
        self._within("overlap_tokens", 0, self.chunk_tokens // 2)
        self._within("keep", 1, _MOST)
        self._within("pool", self.keep, _MOST)
        self._weight("lexical")
        self._weight("dense")
        if not self.lexical + self.dense:
            raise ValueError("dense: must be above 0 where lexical is 0")

    def measures_as(self, other: Mapping[str, Any]) -> bool:
        """Whether a search by these settings finds the same measures as one by `other`."""
        return all(getattr(self, name) == other.get(name) for name in MEASURED_BY)

    def _within(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name}: must be a whole number, not {value!r}")  # noqa: TRY004
        if not least <= value <= most:
            raise ValueError(f"{name}: must be from {least} to {most}, not {value}")

    def _weight(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name}: must be a number, not {value!r}")  # noqa: TRY004
        if not 0 <= value <= _HEAVIEST:
            raise ValueError(f"{name}: must be from 0 to {_HEAVIEST}, not {value}")
