"""The k-NN baseline: a prompt's expected scores are those of the prompts nearest to it.

The router that RouterBench (arXiv 2403.12031) and many after it compare with, and are often no
better than. What makes vectors of texts is handed in; nearness is the cosine. Where there are no
other rows to learn from, each tenth of the rows is told by the other nine, rows of one prompt
staying together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.training.scoring.trails import Floats, Integers

__all__ = [
    "FOLDS", "NEIGHBOURS", "Embed", "Neighbours", "cross_fitted", "folds", "remembering",
]  # fmt: skip

Embed = Callable[[Sequence[str]], npt.NDArray[np.floating]]
"""Texts in, vectors out: [texts, dimensions]."""
NEIGHBOURS = 40
"""RouterBench's largest k, which was its best."""
FOLDS = 10
_AT_ONCE = 512
"""Rows whose nearness to all others is held in memory at a time."""
_PORTION = 64
"""Texts that are embedded at a time, between two moves of a progress bar."""


def remembering(
    embed: Embed, watch: Callable[[Iterable[Any], str, int], Iterable[Any]] | None = None
) -> Embed:
    """As `embed`, but no text is embedded twice; `watch` may show the progress of new ones."""
    known: dict[str, npt.NDArray[np.floating]] = {}

    def vectors(texts: Sequence[str]) -> npt.NDArray[np.floating]:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        portions = [new[begin : begin + _PORTION] for begin in range(0, len(new), _PORTION)]
        watched = portions if watch is None else watch(portions, "embedding", len(portions))
        for portion in watched:
            known.update(zip(portion, embed(portion), strict=True))
        return np.stack([known[text] for text in texts])

    return vectors


class Neighbours:
    """Remembers vectors [n, d] with their scores [n, k], NaN where unknown."""

    def __init__(self, vectors: Floats, scores: Floats, neighbours: int = NEIGHBOURS) -> None:
        self._vectors = _unit(vectors)
        self._scores = scores
        self._neighbours = min(neighbours, len(vectors))
        self._means = np.nan_to_num(np.nanmean(scores, axis=0), nan=0.5)

    def expected(self, vectors: Floats) -> Floats:
        """The mean score of the nearest rows for each of `vectors`: [m, k]."""
        found = [
            self._near(_unit(vectors[begin : begin + _AT_ONCE]))
            for begin in range(0, len(vectors), _AT_ONCE)
        ]
        return np.concatenate(found)

    def _near(self, vectors: Floats) -> Floats:
        closeness = vectors @ self._vectors.T
        last = closeness.shape[1] - self._neighbours
        nearest = np.argpartition(closeness, last, axis=1)[:, last:]
        scores = self._scores[nearest]
        known = ~np.isnan(scores)
        sums = np.where(known, scores, 0.0).sum(axis=1)
        counts = known.sum(axis=1)
        found: Floats = np.where(counts > 0, sums / np.maximum(counts, 1), self._means)
        return found


def cross_fitted(
    vectors: Floats, scores: Floats, fold: Integers, neighbours: int = NEIGHBOURS
) -> Floats:
    """Expected scores [n, k] of every row, told by the rows of the other folds alone."""
    expected = np.empty_like(scores)
    for number in np.unique(fold):
        out = fold == number
        expected[out] = Neighbours(vectors[~out], scores[~out], neighbours).expected(vectors[out])
    return expected


def folds(prompts: Sequence[str], seed: int, number: int = FOLDS) -> Integers:
    """A fold for each row, by lot; rows with the same prompt share one."""
    kinds = {prompt: at for at, prompt in enumerate(dict.fromkeys(prompts))}
    number = min(number, len(kinds))
    lots = np.random.default_rng(seed).permutation(len(kinds)) % max(number, 1)
    return np.asarray([lots[kinds[prompt]] for prompt in prompts], dtype=np.intp)


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float64)
