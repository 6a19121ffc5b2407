"""Asks as arrays: what every part of a judge is given. Cheap parts first, the embedding last.

The dense row of an ask is its embedding, the embedding's main directions, its lexical numbers, and
what the prior (`policies.composition.prior`) expects; the last three in units of their spread in
training. Knows how the parts stand side by side; not what is made of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from policies.composition.ask import Ask
from policies.composition.lexical import NAMES, Floats, grams, lexical, words_in

Columns: TypeAlias = npt.NDArray[np.int32]

CLIP = 4.0
"""Spreads at which a lexical number is cut off: an ask of a megabyte must not decide alone."""


@dataclass(frozen=True, slots=True)
class Features:
    """Of some asks: `dense` [asks, width] float32, `words` one count of words each (or none).

    `embedding` [asks, dimension] is the first part of `dense`; of width 0 without an embedder.
    """

    dense: Floats
    embedding: Floats
    words: tuple[Counter[str], ...]

    @property
    def grams(self) -> tuple[Counter[str], ...]:
        """The n-grams of each ask: how often each."""
        return tuple(grams(words) for words in self.words)

    def __len__(self) -> int:
        return len(self.dense)

    def rows(self, which: Sequence[int] | npt.NDArray[np.integer]) -> Features:
        """Those of some of the asks."""
        at = np.asarray(which, dtype=np.int64)
        kept = tuple(self.words[each] for each in at) if self.words else ()
        return Features(self.dense[at], self.embedding[at], kept)


@dataclass(frozen=True, slots=True)
class Units:
    """Centre and spread of some numbers in training, [numbers] float32 each."""

    centre: Floats
    spread: Floats

    def of(self, values: Floats) -> Floats:
        """`values` [asks, numbers] in spreads from the centre, cut off at `CLIP`."""
        scaled = (values - self.centre) / self.spread
        cut: Floats = np.clip(scaled, -CLIP, CLIP).astype(np.float32)
        return cut


def units(values: Floats) -> Units:
    """Centre and spread of `values` [asks, numbers]; what never varies keeps a spread of 1."""
    spread = values.std(axis=0)
    return Units(
        values.mean(axis=0).astype(np.float32),
        np.where(spread > 1e-6, spread, 1.0).astype(np.float32),
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a dense row begin, as they stand in it."""

    embedding: int
    directions: int
    lexical: int
    prior: int

    def columns(self, *parts: str) -> Columns:
        """The columns of these parts, in order, int32."""
        names = ("embedding", "directions", "lexical", "prior")
        ends = np.cumsum([getattr(self, name) for name in names])
        spans = {
            name: range(int(end) - getattr(self, name), int(end))
            for name, end in zip(names, ends, strict=True)
        }
        return np.array([at for part in parts for at in spans[part]], dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Reading:
    """How asks are read. `embed` gives rows of length 1; None where only the form is looked at.

    `directions` [dimension, few] are the main directions of embeddings in training. `prior` gives
    what a judge of other rows expects, from embeddings [asks, dimension].
    """

    embed: Callable[[Sequence[str]], Floats] | None
    prior: Callable[[Floats], Floats] | None
    directions: Floats
    direction_units: Units
    lexical_units: Units
    prior_units: Units | None
    grams: bool = True

    @property
    def layout(self) -> Layout:
        """How wide each part of the dense row is."""
        prior = 0 if self.prior_units is None else len(self.prior_units.centre)
        dimension, few = self.directions.shape
        return Layout(dimension, few, len(NAMES), prior)

    def features(self, asks: Sequence[Ask], embedding: Floats | None = None) -> Features:
        """Those of `asks`; `embedding` spares computing what is known already."""
        if embedding is None:
            embedding = embedded(self.embed, asks)
        parts = [
            embedding,
            self.direction_units.of(embedding @ self.directions),
            self.lexical_units.of(forms(asks)),
        ]
        if self.prior is not None and self.prior_units is not None:
            parts.append(self.prior_units.of(self.prior(embedding)))
        counted = tuple(words_in(ask.text) for ask in asks) if self.grams else ()
        return Features(np.hstack(parts), embedding, counted)


def forms(asks: Sequence[Ask]) -> Floats:
    """The lexical numbers of asks, [asks, numbers]."""
    if not asks:
        return np.zeros((0, len(NAMES)), dtype=np.float32)
    return np.stack([lexical(ask) for ask in asks])


def embedded(embed: Callable[[Sequence[str]], Floats] | None, asks: Sequence[Ask]) -> Floats:
    """The embeddings of asks, [asks, dimension]; of width 0 without an embedder."""
    if embed is None:
        return np.zeros((len(asks), 0), dtype=np.float32)
    return embed([ask.text for ask in asks])
