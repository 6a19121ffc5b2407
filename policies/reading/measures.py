"""How well, how concentrated and in how many places documents match an ask: numbers for learning.

Pure sums over scores. Knows neither texts nor models. All of them are of the chunks' words, or of
the vectors of the best chunks by words (a search's pool), so they do not depend on which other
vectors are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from policies.composition.embedder import Floats
from policies.reading.words import Integers, Words

__all__ = ["NAMES", "Measures", "of_vectors", "of_words"]

TOP = 5
"""Chunks that are looked at as the best."""
_ENTROPY_OF = 10


@dataclass(frozen=True, slots=True)
class Measures:
    """All finite. "Share" is of the ask's terms, each weighted by how rare it is."""

    absent: float = 0.0
    """Share that stands nowhere."""
    absent_terms: float = 0.0
    """How many terms that are, as log1p."""
    coverage: float = 0.0
    """Share that stands in the chunk that holds most."""
    coverage_gap: float = 0.0
    """How much more that is than the fifth best chunk's."""
    second: float = 0.0
    """Share that is not in that chunk and that one other chunk adds, at most."""
    window: float = 0.0
    """Share that stands in the window that holds most."""
    window_gap: float = 0.0
    """How much more that is than the second best window's."""
    window_gap_five: float = 0.0
    """How much more that is than the fifth best window's."""
    window_mean: float = 0.0
    """Mean share of the five best windows."""
    bound: float = 0.0
    """The best chunk's BM25, over the most that it could be."""
    runner_up: float = 0.0
    """The second best chunk's BM25, over the best's."""
    fifth: float = 0.0
    """The fifth best chunk's BM25, over the best's."""
    entropy: float = 0.0
    """Entropy of the ten best chunks' BM25, in nats."""
    spread: float = 0.0
    """Standard deviation of the five best chunks' places, from 0 to 1."""
    terms: float = 0.0
    """Different terms of the ask, as log1p."""
    rarity: float = 0.0
    """Mean inverse document frequency of those."""
    chunks: float = 0.0
    """Chunks that were searched, as log1p."""
    dense: float = 0.0
    """1 if there were vectors; else this and what follows is 0."""
    cosine: float = 0.0
    """The best chunk's cosine with the ask."""
    cosine_gap: float = 0.0
    """How much more that is than the second best chunk's."""
    cosine_gap_five: float = 0.0
    """How much more that is than the fifth best chunk's."""
    cosine_rise: float = 0.0
    """How much more that is than the pool's mean."""
    cosine_mean: float = 0.0
    """Mean of the five best chunks."""
    dense_spread: float = 0.0
    """Standard deviation of the places of the five best chunks by cosine, from 0 to 1."""
    agreement: float = 0.0
    """Of the five best chunks by words, the share that is among the five best by cosine."""

    def row(self) -> tuple[float, ...]:
        """The values in the order of `NAMES`."""
        return astuple(self)


NAMES = tuple(field.name for field in fields(Measures))
"""What each number of a row is."""


def of_words(
    words: Words, windows: Words, asked: Sequence[int], bm25: Floats
) -> Mapping[str, float]:
    """What words tell of chunks and windows. `asked` are the ask's different terms, by number.

    A number below 0 is a term that stands nowhere. `bm25` [chunks] are the chunks' scores.
    """
    found = {"terms": math.log1p(len(asked)), "chunks": math.log1p(len(bm25))}
    known = [term for term in asked if term >= 0]
    missing = len(asked) - len(known)
    rarity = words.rarity(known)
    whole = float(rarity.sum()) + missing * words.rarest
    if not known:
        return found | {"absent": float(missing > 0), "absent_terms": math.log1p(missing)}
    weights = rarity / whole
    shares = _shares(words, known, weights)
    parts = _best(_shares(windows, known, weights), TOP)
    best = int(shares.argmax())
    more = [at for at, term in enumerate(known) if best not in words.holding(term)]
    added = _shares(words, [known[at] for at in more], weights[more])
    return found | {
        "absent": missing * words.rarest / whole,
        "absent_terms": math.log1p(missing),
        "coverage": float(shares[best]),
        "coverage_gap": float(shares[best] - _best(shares, TOP)[-1]),
        "second": float(added.max()),
        "window": float(parts[0]),
        "window_gap": float(parts[0] - parts[min(1, len(parts) - 1)]),
        "window_gap_five": float(parts[0] - parts[-1]),
        "window_mean": float(parts.mean()),
        "rarity": whole / len(asked),
        **_of_bm25(bm25, whole),
    }


def _shares(words: Words, asked: Sequence[int], weights: Floats) -> Floats:
    """Of each piece [pieces]: the weights of the terms that it holds."""
    found = np.zeros(words.pieces, np.float32)
    for term, weight in zip(asked, weights, strict=True):
        found[words.holding(term)] += weight
    return found


def _of_bm25(bm25: Floats, bound: float) -> dict[str, float]:
    best = _best(bm25, _ENTROPY_OF)
    if not best[0]:
        return {}
    shares = best[best > 0] / best.sum()
    return {
        "bound": float(best[0]) / bound,
        "runner_up": float(best[min(1, len(best) - 1)] / best[0]),
        "fifth": float(best[min(TOP, len(best)) - 1] / best[0]),
        "entropy": float(-(shares * np.log(shares)).sum()),
        "spread": _spread(_order(bm25)[:TOP], len(bm25)),
    }


def of_vectors(pool: Integers, cosines: Floats, chunks: int) -> dict[str, float]:
    """What vectors tell: the cosine of each chunk of a pool, which is ordered by words."""
    if not len(pool):
        return {"dense": 1.0}
    order = _order(cosines)
    best = cosines[order[:TOP]]
    both = {*order[:TOP].tolist()} & {*range(min(TOP, len(pool)))}
    return {
        "dense": 1.0,
        "cosine": float(best[0]),
        "cosine_gap": float(best[0] - best[min(1, len(best) - 1)]),
        "cosine_gap_five": float(best[0] - best[-1]),
        "cosine_rise": float(best[0] - cosines.mean()),
        "cosine_mean": float(best.mean()),
        "dense_spread": _spread(pool[order[:TOP]], chunks),
        "agreement": len(both) / min(TOP, len(pool)),
    }


def _order(scores: Floats) -> Integers:
    """Numbers by falling score; of equal ones the first comes first."""
    return np.argsort(-scores, kind="stable").astype(np.int32)


def _best(scores: Floats, count: int) -> Floats:
    """The `count` highest, falling; all, if there are fewer."""
    best: Floats = -np.sort(-scores)[:count]
    return best


def _spread(places: Integers, chunks: int) -> float:
    return float(np.std(places / max(chunks - 1, 1)))
