"""The parts of a quality model, each a pure function from features to outputs. numpy only.

There are 1 + experts outputs. The first is how well the experts do on average, the others how much
each differs from that: what the experts share (a question is hard) is learned apart from what
routing is about (who is better at it). Each part was fitted elsewhere
(`policies.training.experts`); here it is only applied, to one ask or to thousands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from policies.composition.features import Features
from policies.composition.lexical import Floats

Whole: TypeAlias = npt.NDArray[np.int32]

_CHUNK = 256
"""Asks at a time, so that a batch of thousands needs no gigabytes."""


class Block(Protocol):
    """A part of the quality model."""

    def outputs(self, features: Features) -> Floats:
        """What it expects, [asks, 1 + experts]."""
        ...


@dataclass(frozen=True, slots=True)
class Grams:
    """A linear model over TF-IDF of character n-grams, rows of length 1, sublinear counts.

    `idf` [grams], `weights` [grams, outputs], `offset` [outputs].
    """

    vocabulary: Mapping[str, int]
    idf: Floats
    weights: Floats
    offset: Floats

    def outputs(self, features: Features) -> Floats:
        """As `Block`."""
        rows = [self._row(counted) for counted in features.grams]
        return np.stack(rows) if rows else np.zeros((0, len(self.offset)), np.float32)

    def _row(self, counted: Counter[str]) -> Floats:
        where, values = tfidf(counted, self.vocabulary, self.idf)
        return (values @ self.weights[where] + self.offset).astype(np.float32)


def tfidf(
    counted: Counter[str], vocabulary: Mapping[str, int], idf: Floats
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Which grams of the vocabulary occur, and their weights: (1 + ln count) x idf, of length 1."""
    known = [
        (at, times) for gram, times in counted.items() if (at := vocabulary.get(gram, -1)) >= 0
    ]
    if not known:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    where = np.fromiter((at for at, _ in known), np.int64, len(known))
    times = np.fromiter((times for _, times in known), np.float32, len(known))
    values = (1 + np.log(times)) * idf[where]
    return where, (values / np.linalg.norm(values)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Kernel:
    """Kernel ridge with a Gaussian kernel of `gamma` (1 / (2 sigma^2)) over these `columns` of the
    dense row, each times its `scale`: `points` [references, columns], scaled already, `dual`
    [references, outputs], `offset` [outputs].
    """

    columns: Whole
    scale: Floats
    points: Floats
    dual: Floats
    offset: Floats
    gamma: float

    def outputs(self, features: Features) -> Floats:
        """As `Block`."""
        rows = features.dense[:, self.columns] * self.scale
        parts = [
            gaussian(rows[start : start + _CHUNK], self.points, self.gamma) @ self.dual
            for start in range(0, len(rows), _CHUNK)
        ]
        shape = (0, len(self.offset))
        return (np.concatenate(parts) if parts else np.zeros(shape)).astype(
            np.float32
        ) + self.offset


def gaussian(rows: Floats, points: Floats, gamma: float) -> Floats:
    """exp(-gamma x squared distance), [rows, points]."""
    apart = (rows * rows).sum(axis=1)[:, None] + (points * points).sum(axis=1)
    apart -= 2 * rows @ points.T
    values: Floats = np.exp(-gamma * np.maximum(apart, 0), dtype=np.float32)
    return values


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees over the dense row. All nodes of all trees lie in one array; a leaf leads to itself.

    `roots` [trees], `column`, `left`, `right` [nodes] int32, `threshold` [nodes] float32: at most
    goes left. `leaf` [nodes] int32 points into `values` [leaves, outputs]. `depth` is the longest
    way from a root.
    """

    roots: Whole
    column: Whole
    threshold: Floats
    left: Whole
    right: Whole
    leaf: Whole
    values: Floats
    depth: int

    def outputs(self, features: Features) -> Floats:
        """As `Block`: the mean over the trees."""
        dense = features.dense
        parts = [
            self._some(dense[start : start + _CHUNK]) for start in range(0, len(dense), _CHUNK)
        ]
        shape = (0, self.values.shape[1])
        return np.concatenate(parts) if parts else np.zeros(shape, np.float32)

    def _some(self, dense: Floats) -> Floats:
        nodes = np.broadcast_to(self.roots, (len(dense), len(self.roots)))
        rows = np.arange(len(dense))[:, None]
        for _ in range(self.depth):
            goes_left = dense[rows, self.column[nodes]] <= self.threshold[nodes]
            nodes = np.where(goes_left, self.left[nodes], self.right[nodes])
        mean: Floats = self.values[self.leaf[nodes]].mean(axis=1, dtype=np.float32)
        return mean


@dataclass(frozen=True, slots=True)
class Table:
    """What the category says: outputs by category, weighed by how likely each one is.

    `rows` [categories, outputs]; `likely` is the classifier of the same judge.
    """

    rows: Floats
    likely: Categories

    def outputs(self, features: Features) -> Floats:
        """As `Block`."""
        return (self.likely.probabilities(features) @ self.rows).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Categories:
    """Which category an ask belongs to: multinomial logistic regression over the dense row.

    `columns` of the dense row, `weights` [columns, categories], `offset` [categories]; the
    `temperature` makes its confidence honest (Guo et al., arXiv 1706.04599).
    """

    names: tuple[str, ...]
    columns: Whole
    weights: Floats
    offset: Floats
    temperature: float

    def probabilities(self, features: Features) -> Floats:
        """[asks, categories], rows that sum to 1."""
        dense = features.dense[:, self.columns]
        logits = (dense @ self.weights + self.offset) / self.temperature
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        likely: Floats = raised / raised.sum(axis=1, keepdims=True)
        return likely


@dataclass(frozen=True, slots=True)
class Familiar:
    """How near an ask lies to what was trained on: `points` [references, dimension], length 1."""

    points: Floats
    neighbours: int

    def similarity(self, embedding: Floats) -> Floats:
        """The mean cosine to the nearest references, [asks]; 1 where there is no embedding."""
        if not self.points.size:
            return np.ones(len(embedding), np.float32)
        count = min(self.neighbours, len(self.points))
        parts = []
        for start in range(0, len(embedding), _CHUNK):
            cosines = embedding[start : start + _CHUNK] @ self.points.T
            nearest = np.partition(cosines, -count, axis=1)[:, -count:]
            parts.append(nearest.mean(axis=1))
        return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Blend:
    """The blocks together: `weights` [blocks, 2] (for what is shared, for what differs) and
    `offset` [outputs]. Fitted to predictions of rows that the blocks had not seen, so what comes
    out is also calibrated in the mean.
    """

    blocks: Sequence[Block]
    weights: Floats
    offset: Floats

    def quality(self, features: Features) -> Floats:
        """The expected score of each expert, [asks, experts], between 0 and 1."""
        whole = np.broadcast_to(self.offset, (len(features), len(self.offset))).copy()
        for block, (shared, apart) in zip(self.blocks, self.weights, strict=True):
            if shared or apart:
                outputs = block.outputs(features)
                whole[:, :1] += shared * outputs[:, :1]
                whole[:, 1:] += apart * outputs[:, 1:]
        return within(whole[:, :1] + whole[:, 1:])


EDGE = 0.05
"""From here to 0 and to 1 a quality is bent instead of cut off, so that order is kept."""


def within(quality: Floats) -> Floats:
    """Into (0, 1), strictly rising: unchanged but for the outermost `EDGE`."""
    low = EDGE * np.exp(np.minimum(quality - EDGE, 0) / EDGE)
    high = 1 - EDGE * np.exp(np.minimum(1 - EDGE - quality, 0) / EDGE)
    bent = np.where(quality < EDGE, low, np.where(quality > 1 - EDGE, high, quality))
    return bent.astype(np.float32)
