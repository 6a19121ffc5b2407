"""The parts of a quality model, each a pure function from features to outputs. numpy only.

There are 1 + experts outputs. The first is how well the experts do on average, the others how much
each differs from that: what the experts share (a question is hard) is learned apart from what
routing is about (who is better at it). Each part was fitted elsewhere
(`policies.training.experts`); here it is only applied, to one ask or to thousands.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from policies.composition.features import Features
from policies.composition.lexical import Floats, grams_of

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

    `idf` [grams], `weights` [grams, outputs], `offset` [outputs]. Which n-grams a word has is
    remembered for the words that were read before.
    """

    vocabulary: Mapping[str, int]
    idf: Floats
    weights: Floats
    offset: Floats
    _of_words: dict[str, Whole] = field(default_factory=dict, init=False, repr=False, compare=False)

    def outputs(self, features: Features) -> Floats:
        """As `Block`."""
        outputs = np.empty((len(features.words), len(self.offset)), np.float32)
        for at, words in enumerate(features.words):
            outputs[at] = self._row(words)
        return outputs

    def _row(self, words: Counter[str]) -> Floats:
        parts: list[Whole] = []
        for word, times in words.items():
            found = self._of_words.get(word)
            parts += repeat(self._of_word(word) if found is None else found, times)
        where, counts = np.unique(np.concatenate(parts or [_NONE]), return_counts=True)
        if not where.size:
            return self.offset
        values = (1 + np.log(counts, dtype=np.float32)) * self.idf[where]
        values /= math.sqrt(values @ values)
        row: Floats = values @ self.weights[where] + self.offset
        return row

    def _of_word(self, word: str) -> Whole:
        """Which grams of the vocabulary a word has, each as often as it has it, int32."""
        places = map(self.vocabulary.get, grams_of(word))
        found = np.array([at for at in places if at is not None], np.int32)
        if len(word) <= _LONG_WORD:
            if len(self._of_words) >= _MOST_WORDS:
                self._of_words.clear()
            self._of_words[word] = found
        return found


_NONE = np.zeros(0, np.int32)
_LONG_WORD = 32
_MOST_WORDS = 16_384
"""Words remembered, of so many characters at most: 5 MB."""


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
    _squares: Floats = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_squares", squares(self.points))

    def outputs(self, features: Features) -> Floats:
        """As `Block`."""
        rows = features.dense[:, self.columns] * self.scale
        outputs = np.empty((len(rows), len(self.offset)), np.float32)
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            near = gaussian(part, self.points, self.gamma, self._squares)
            outputs[start : start + _CHUNK] = near @ self.dual + self.offset
        return outputs


def gaussian(rows: Floats, points: Floats, gamma: float, of_points: Floats | None = None) -> Floats:
    """exp(-gamma x squared distance), [rows, points]; `of_points` are their `squares`, if known."""
    apart = rows @ points.T
    apart *= -2
    apart += squares(points) if of_points is None else of_points
    apart += squares(rows)[:, None]
    np.maximum(apart, 0, out=apart)
    apart *= -gamma
    values: Floats = np.exp(apart, out=apart)
    return values


def squares(rows: Floats) -> Floats:
    """The squared length of each row, [rows]."""
    summed: Floats = np.einsum("ij,ij->i", rows, rows)
    return summed


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
    _nodes: Whole = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """What is needed of a node lies side by side: a step is one look into memory."""
        threshold = np.ascontiguousarray(self.threshold, np.float32).view(np.int32)
        nodes = np.stack([self.column, threshold, self.left, self.right], axis=1)
        object.__setattr__(self, "_nodes", np.ascontiguousarray(nodes, np.int32))

    def outputs(self, features: Features) -> Floats:
        """As `Block`: the mean over the trees."""
        dense = features.dense
        parts = [
            self._some(dense[start : start + _CHUNK]) for start in range(0, len(dense), _CHUNK)
        ]
        shape = (0, self.values.shape[1])
        return np.concatenate(parts) if parts else np.zeros(shape, np.float32)

    def _some(self, dense: Floats) -> Floats:
        """Every ask in every tree, a level at a time, until all have come to a leaf."""
        row = np.repeat(np.arange(len(dense)) * dense.shape[1], len(self.roots))
        nodes = np.tile(self.roots, len(dense))
        numbers = dense.ravel()
        for level in range(1, self.depth + 1):
            here = self._nodes.take(nodes, axis=0)
            goes_right = numbers.take(here[:, 0] + row) > here.view(np.float32)[:, 1]
            further = np.where(goes_right, here[:, 3], here[:, 2])
            if level % _LEVELS == 0 and np.array_equal(further, nodes):
                break
            nodes = further
        leaves = self.leaf.take(nodes).reshape(len(dense), -1)
        mean: Floats = self.values[leaves].mean(axis=1, dtype=np.float32)
        return mean


_LEVELS = 3
"""Levels of a tree between two looks at whether anybody is still on the way."""


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
        return softmax(self.outputs(features) / self.temperature)

    def outputs(self, features: Features) -> Floats:
        """As `Block`, before the temperature, [asks, categories]."""
        outputs: Floats = features.dense[:, self.columns] @ self.weights + self.offset
        return outputs


def softmax(logits: Floats) -> Floats:
    """Probabilities that have these logits, row by row."""
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
