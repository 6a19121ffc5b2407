"""Which pieces of a text hold which terms, and what BM25 makes of it.

Knows terms and numbered pieces, no texts. `bm25s` computes the scores when it is built, so that an
ask is a sum over its terms. Never changes once made, so any thread may use it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
import numpy.typing as npt

from policies.composition.embedder import Floats

__all__ = ["MOST_TERMS", "Integers", "Vocabulary", "Words", "counted"]

Integers: TypeAlias = npt.NDArray[np.int32]

MOST_TERMS = 1 << 20
"""Terms with a number of their own, several times what 20 MB of prose have. Only made-up text has
more: what is new then shares a number, so that memory is bounded."""

_K1, _B = 1.5, 0.75
_ENTRY = 100
"""Bytes of a term's place in the vocabulary, beside the term."""


class Vocabulary:
    """Terms by number, from 0 without a gap."""

    def __init__(self, most: int = MOST_TERMS) -> None:
        self._most = most
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds, about."""
        return sum(map(sys.getsizeof, self._numbers)) + _ENTRY * len(self._numbers)

    def learn(self, terms: Sequence[str]) -> list[int]:
        """Their numbers; a new term gets the next one, or shares one if there are no more."""
        known, most = self._numbers, self._most
        return [
            known.setdefault(term, len(known)) if len(known) < most else self.number(term)
            for term in terms
        ]

    def number(self, term: str) -> int:
        """The number of a term; -1 if it was never learned."""
        known = self._numbers.get(term)
        if known is not None:
            return known
        return -1 if len(self._numbers) < self._most else crc32(term.encode()) % self._most


@dataclass(frozen=True, slots=True)
class Words:
    """BM25 (Lucene's, k1 = 1.5, b = 0.75) over `pieces` pieces."""

    pieces: int
    scores: Any
    """A `bm25s.BM25`; None where no piece holds a term."""

    @property
    def nbytes(self) -> int:
        """Bytes that it holds, about."""
        if self.scores is None:
            return 0
        arrays = (self.scores.scores[name] for name in ("data", "indices", "indptr"))
        return sum(int(array.nbytes) for array in arrays)

    def bm25(self, asked: Sequence[int]) -> Floats:
        """Of each piece [pieces], float32: how well it matches the terms of these numbers."""
        if self.scores is None or not asked:
            return np.zeros(self.pieces, np.float32)
        found: Floats = self.scores.get_scores_from_ids(list(asked))
        return found

    def holding(self, term: int) -> Integers:
        """The pieces that hold this term, [n]."""
        at, pieces = self.scores.scores["indptr"], self.scores.scores["indices"]
        found: Integers = pieces[at[term] : at[term + 1]]
        return found

    def rarity(self, asked: Sequence[int]) -> Floats:
        """The inverse document frequency of each term [terms], Lucene's: always above 0."""
        held = np.array([len(self.holding(term)) for term in asked], np.float32)
        return _rarity(held, self.pieces)

    @property
    def rarest(self) -> float:
        """The inverse document frequency of a term that no piece holds."""
        return float(_rarity(np.zeros(1, np.float32), self.pieces)[0])


def _rarity(held: Floats, pieces: int) -> Floats:
    return np.log1p((pieces - held + 0.5) / (held + 0.5))


def counted(pieces: Sequence[list[int]], vocabulary: Vocabulary) -> Words:
    """BM25 over these pieces of numbered terms."""
    if not len(vocabulary):
        return Words(len(pieces), None)
    from bm25s import BM25

    scores = BM25(k1=_K1, b=_B, method="lucene")
    numbers = {number: number for number in range(len(vocabulary))}
    scores.index((list(pieces), numbers), create_empty_token=False, show_progress=False)
    # Terms are looked up here: what the library would look them up by is as large as its scores.
    scores.vocab_dict, scores.unique_token_ids_set = {}, set()
    return Words(len(pieces), scores)
