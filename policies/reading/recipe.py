"""How documents are cut and searched: the numbers, and what they may be.

Plain values, checked where they are made. Knows nothing of indexes.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LONGEST_CHUNK", "SHORTEST_CHUNK", "Recipe"]

SHORTEST_CHUNK, LONGEST_CHUNK = 32, 8192
"""Tokens of a chunk: below, sentences are cut to pieces; above, there is little left to choose."""
_MOST = 1000
"""Chunks that a search may look at or give."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of a search; the defaults are LaRA's (arXiv 2502.09977, section 3.3).

    Raises ValueError, whose message begins with the field's name.
    """

    chunk_tokens: int = 600
    """Tokens of a chunk, at most and about: a document's mean characters per token are taken."""
    overlap_tokens: int = 100
    """Tokens that a chunk shares with the one before it, at most and about."""
    lexical: int = 3
    """Chunks that get a seat for their words, whatever their vectors say."""
    dense: int = 2
    """Chunks that get a seat for their vectors, whatever their words say."""
    keep: int = 5
    """Chunks that a search gives, the best by words and vectors together."""
    pool: int = 20
    """The best chunks by words, of which vectors are looked at."""

    def __post_init__(self) -> None:
        self._within("chunk_tokens", SHORTEST_CHUNK, LONGEST_CHUNK)
        self._within("overlap_tokens", 0, self.chunk_tokens // 2)
        self._within("lexical", 0, _MOST)
        self._within("dense", 0, _MOST)
        if not self.lexical + self.dense:
            raise ValueError("dense: must be at least 1 where lexical is 0")
        self._within("keep", 1, _MOST)
        self._within("pool", max(self.keep, self.lexical, self.dense), _MOST)

    def _within(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name}: must be a whole number, not {value!r}")  # noqa: TRY004
        if not least <= value <= most:
            raise ValueError(f"{name}: must be from {least} to {most}, not {value}")
