"""The judge: what a prompt is about, and what each expert would be worth for it.

Two answers to one question. The *category* (a task, or a cluster of prompts) with how sure that is
and how familiar the prompt looks: a map from categories to experts was solved offline for it. And
the *quality*, the expected score of each expert for this very prompt. Which of them decides, under
which budget, is the policy's affair (`policies.experts`).

A judge is a read-only value made from an artifact, but for what it remembers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from policies.composition.ask import Ask
from policies.composition.blocks import Blend, Categories, Familiar
from policies.composition.budget import Reals
from policies.composition.features import Reading
from policies.composition.lexical import Floats
from policies.composition.memory import JUDGEMENTS, Memory, Vectors, digest, spelled

BATCH = 512
"""Asks judged at a time."""
_NUMBER = 32
"""Bytes of a number in a tuple."""


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


def _size(judgement: Judgement) -> int:
    return _NUMBER * (len(judgement.quality) + 8)


def _judgements() -> Memory[bytes, Judgement]:
    return Memory(JUDGEMENTS, _size)


@dataclass(frozen=True, slots=True)
class Judge:
    """Reads asks and judges them. Safe to use from many threads.

    `fingerprint` is its artifact's: equal for judges that think alike.
    """

    fingerprint: str
    reading: Reading = field(compare=False, repr=False)
    categories: Categories = field(compare=False, repr=False)
    blend: Blend = field(compare=False, repr=False)
    familiar: Familiar = field(compare=False, repr=False)
    vectors: Vectors = field(default_factory=lambda: Vectors(spelled), compare=False, repr=False)
    _memory: Memory[bytes, Judgement] = field(
        default_factory=_judgements, init=False, compare=False, repr=False
    )

    def remembered(self, ask: Ask) -> Judgement | None:
        """What was thought of the same ask before: a hash and a look."""
        return self._memory.get(_key(ask))

    def judge(self, ask: Ask) -> Judgement:
        """Think about one ask, if nothing is remembered of it."""
        return self.remembered(ask) or self.think([ask])[0]

    def think(self, asks: Sequence[Ask]) -> list[Judgement]:
        """Think about some asks and remember it. Raises LookupError where a backend embeds, and
        one of the asks was not `learned`.
        """
        judged = self.judge_all(asks)
        for ask, judgement in zip(asks, judged, strict=True):
            self._memory.put(_key(ask), judgement)
        return judged

    def judge_all(self, asks: Sequence[Ask]) -> list[Judgement]:
        """Think about many asks, a batch at a time; only their embeddings are remembered."""
        judged: list[Judgement] = []
        for start in range(0, len(asks), BATCH):
            judged += self._judged(asks[start : start + BATCH])
        return judged

    def learn(self, texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> None:
        """Be told the embeddings of texts, made elsewhere. Raises ValueError for unusable ones."""
        width = self.reading.layout.embedding
        strange = next((vector for vector in vectors if len(vector) != width), None)
        if strange is not None:
            raise ValueError(f"its embeddings have {len(strange)} numbers, the artifact's {width}")
        rows = np.array(vectors, dtype=np.float64)
        if not np.isfinite(rows).all():
            raise ValueError("its embeddings are not finite")
        self.vectors.learn(texts, unit_rows(rows))

    def _judged(self, asks: Sequence[Ask]) -> list[Judgement]:
        embed = self.reading.embed
        vectors = None
        if self.reading.layout.embedding:
            vectors = self.vectors.of([ask.text for ask in asks], embed or _nobody)
        features = self.reading.features(asks, vectors)
        likely = self.categories.probabilities(features)
        quality = self.blend.quality(features).astype(float)
        similar = self.familiar.similarity(features.embedding)
        return [
            Judgement(int(row.argmax()), float(row.max()), float(near), tuple(worth.tolist()))
            for row, near, worth in zip(likely, similar, quality, strict=True)
        ]


def _key(ask: Ask) -> bytes:
    sizes = f"{ask.length} {ask.system} {ask.tools} {ask.turns} "
    return digest(sizes.encode() + spelled(ask.text))


def _nobody(texts: Sequence[str]) -> Floats:
    """In place of an embedder: vectors come from a backend, and these were not fetched."""
    raise LookupError(f"{len(texts)} prompts have no embeddings: a backend must make them")


def unit_rows(vectors: Reals) -> Floats:
    """`vectors` [asks, dimension] with rows of length 1, as every embedder here gives them."""
    near = vectors / np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-300)
    lengths = np.linalg.norm(near, axis=1, keepdims=True)
    scaled: Floats = (near / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled
