"""Which pieces of a text hold which terms, and what BM25 makes of it.

Knows terms and numbered pieces, no texts. `bm25s` computes the scores when it is built, so that an
ask is a sum over its terms. Never changes once made, so any thread may use it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from policies.composition.embedder import Floats

__all__ = ["Integers", "Vocabulary", "Words", "numbered"]

Integers: TypeAlias = npt.NDArray[np.int32]
Vocabulary: TypeAlias = dict[str, int]
"""Terms by number, from 0 without a gap."""

_K1, _B = 1.5, 0.75
_ENTRY = 100
"""Bytes of a term's place in the vocabulary, beside the term."""


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
        return sum(int(array.nbytes) for array in arrays) + sys.getsizeof(
            self.scores.unique_token_ids_set
        )

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


def numbered(pieces: Sequence[Sequence[str]], vocabulary: Vocabulary) -> list[list[int]]:
    """The terms of each piece as numbers; new terms get their place in `vocabulary`."""
    return [[vocabulary.setdefault(term, len(vocabulary)) for term in piece] for piece in pieces]


def counted(pieces: Sequence[list[int]], vocabulary: Vocabulary) -> Words:
    """BM25 over these pieces, whose terms `vocabulary` numbers."""
    if not vocabulary:
        return Words(len(pieces), None)
    from bm25s import BM25

    scores = BM25(k1=_K1, b=_B, method="lucene")
    scores.index((list(pieces), vocabulary), create_empty_token=False, show_progress=False)
    return Words(len(pieces), scores)


def vocabulary_bytes(vocabulary: Vocabulary) -> int:
    """Bytes that a vocabulary holds, about."""
    return sum(map(sys.getsizeof, vocabulary)) + _ENTRY * len(vocabulary)
