"""The judge: what a prompt is about, and what each expert would be worth for it.

Two answers to one question. The *category* (a task, or a cluster of prompts) with how sure that is
and how familiar the prompt looks: a map from categories to experts was solved offline for it. And
the *quality*, the expected score of each expert for this very prompt. Which of them decides, under
which budget, is the policy's affair (`policies.experts`).

A judge is a read-only value made from an artifact; what it remembers are its own answers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from policies.composition.ask import Ask
from policies.composition.blocks import Blend, Categories, Familiar
from policies.composition.features import Reading
from policies.composition.lexical import Floats

REMEMBERED = 8192
"""Judgements kept: a few megabytes, and hours of a gateway's different questions."""
BATCH = 512
"""Asks judged at a time."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is thought of one ask.

    `category` is an index into the judge's; `confidence` its probability, `similarity` the mean
    cosine to the nearest prompts of training; `quality` the expected score of each expert, 0 to 1.
    """

    category: int
    confidence: float
    similarity: float
    quality: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Judge:
    """Reads asks and judges them. Safe to use from many threads."""

    reading: Reading
    categories: Categories
    blend: Blend
    familiar: Familiar
    _memory: Memory = field(default_factory=lambda: Memory(REMEMBERED), compare=False, repr=False)

    def remembered(self, ask: Ask) -> Judgement | None:
        """What was thought of the same ask before, without any work."""
        return self._memory.get(ask)

    def judge(self, ask: Ask) -> Judgement:
        """Think about one ask."""
        return self._memory.get(ask) or self.think([ask])[0]

    def think(
        self, asks: Sequence[Ask], vectors: Sequence[Sequence[float]] | None = None
    ) -> list[Judgement]:
        """Think about some asks and remember it. `vectors` are their embeddings, made elsewhere."""
        known = None if vectors is None else unit_rows(np.array(vectors, dtype=np.float32))
        judged = self._judged(asks, known)
        for ask, judgement in zip(asks, judged, strict=True):
            self._memory.put(ask, judgement)
        return judged

    def judge_all(self, asks: Sequence[Ask]) -> list[Judgement]:
        """Think about many asks, a batch at a time."""
        judged: list[Judgement] = []
        for start in range(0, len(asks), BATCH):
            judged += self._judged(asks[start : start + BATCH], None)
        return judged

    def _judged(self, asks: Sequence[Ask], vectors: Floats | None) -> list[Judgement]:
        features = self.reading.features(asks, vectors)
        likely = self.categories.probabilities(features)
        quality = self.blend.quality(features).astype(float)
        similar = self.familiar.similarity(features.embedding)
        return [
            Judgement(int(row.argmax()), float(row.max()), float(near), tuple(worth.tolist()))
            for row, near, worth in zip(likely, similar, quality, strict=True)
        ]


def unit_rows(vectors: Floats) -> Floats:
    """`vectors` [asks, dimension] with rows of length 1, as every embedder here gives them."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = vectors / np.maximum(lengths, 1e-12)
    return scaled


class Memory:
    """The latest judgements by what they were made from; the least recently used goes first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[Ask, Judgement] = OrderedDict()
        self._lock = Lock()

    def get(self, ask: Ask) -> Judgement | None:
        """The judgement of this ask, if it is still remembered."""
        with self._lock:
            if (known := self._known.get(ask)) is not None:
                self._known.move_to_end(ask)
            return known

    def put(self, ask: Ask, judgement: Judgement) -> None:
        """Remember it."""
        with self._lock:
            self._known[ask] = judgement
            self._known.move_to_end(ask)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
