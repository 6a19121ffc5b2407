"""Planted outcomes for tests of training: prompts whose experts differ by a rule to be learned,
and an embedder that hashes words.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.composition.artifact import Expert
from policies.composition.embedder import Floats, Progress
from policies.training.experts.recipe import Recipe
from policies.training.outcomes.rows import Rows

QUICK = Recipe(folds=3, trees=10, directions=8)
EXPERTS = (Expert("sums", 2.0), Expert("words", 8.0))
SUMS, WORDS = 0, 1
_NOUNS = (
    "river",
    "poem",
    "king",
    "garden",
    "letter",
    "stone",
    "village",
    "winter",
    "music",
    "ship",
)


@dataclass(frozen=True, slots=True)
class Hashing:
    """Each word adds to one of `dimension` numbers; the whole has length 1."""

    name: str = "hashed words"
    dimension: int = 32
    fingerprint: str = "00000000deadbeef"

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        vectors = np.full((len(texts), self.dimension), 1e-3, np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                kind = "0" if word.isdigit() else word
                vectors[row, zlib.crc32(kind.encode()) % self.dimension] += 1
            if progress is not None:
                progress(1)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        scaled: Floats = vectors / lengths
        return scaled


def prompts(count: int, seed: int = 0) -> tuple[tuple[str, ...], np.ndarray]:
    """Arithmetic and questions about words in turns, no two alike; and which kind each is."""
    rng = np.random.default_rng(seed)
    texts = []
    for number in range(count):
        if number % 2 == SUMS:
            first, second = rng.integers(10, 1000, 2)
            texts.append(f"What is {first} + {second} + {number} ? Compute the sum .")
        else:
            first, second = rng.choice(_NOUNS, 2, replace=False)
            texts.append(f"Write a story about the {first} and the {second} , chapter {number} .")
    return tuple(texts), np.arange(count) % 2


def planted(count: int = 160, seed: int = 0, *, tasks: bool = False) -> Rows:
    """`sums` is mostly right about sums alone, `words` about the rest, and better on average."""
    texts, kinds = prompts(count, seed)
    rng = np.random.default_rng(seed + 1)
    chances = np.array([[0.85, 0.2], [0.1, 0.95]])[kinds]
    scores = (rng.random((count, 2)) < chances).astype(float)
    names = tuple(("sums", "words")[kind] for kind in kinds) if tasks else None
    return Rows(texts, ("sums", "words"), scores, names)
