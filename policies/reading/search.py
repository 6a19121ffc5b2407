"""From an ask to the passages that answer it: words first, then vectors, then both together.

Knows an index and how its scores are put together; must not know where vectors come from. In three
phases, so that vectors may also come from a backend: `candidates` needs words alone and says which
windows have no vector yet, `Pool.learn` takes those, `ranked` chooses. `search` is the three with
an embedder at hand. The same texts, recipe and ask give the same passages, whatever was asked
before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from policies.composition.embedder import Floats
from policies.reading.documents import Passage
from policies.reading.index import Embed, Index
from policies.reading.measures import Measures, of_vectors, of_words
from policies.reading.recipe import Recipe
from policies.reading.terms import terms
from policies.reading.words import Integers

__all__ = ["Hits", "Pool", "candidates", "ranked", "search"]

_READ = 8192
"""Characters of an ask whose terms count; more is no question."""
_AT_ONCE = 4096
"""Windows whose vectors are unpacked at a time: 6 MB."""


@dataclass(frozen=True, slots=True)
class Hits:
    """What a search found: passages, best first, and how well the documents match the ask."""

    passages: tuple[Passage, ...]
    measures: Measures


@dataclass(frozen=True, slots=True)
class Pool:
    """The chunks among which a search chooses: the recipe's pool, best by words first.

    Of a `whole` index all others follow. `chunks` and `scores` are [pool]; `words` is what
    `measures` has from words.
    """

    index: Index = field(compare=False, repr=False)
    recipe: Recipe
    chunks: Integers = field(compare=False, repr=False)
    scores: Floats = field(compare=False, repr=False)
    words: Mapping[str, float]
    unread: Integers = field(compare=False, repr=False)
    """The windows of these chunks that had no vector when the pool was made."""

    def missing(self) -> list[str]:
        """The texts that `learn` wants the vectors of."""
        return self.index.read(self.unread)

    def learn(self, vectors: Floats) -> None:
        """Give the index the vectors of `missing`, in that order, [missing, dimension]."""
        self.index.learn(self.unread, vectors)


def search(index: Index, ask: str, recipe: Recipe, embed: Embed | None) -> Hits:
    """The best passages for an ask; without `embed`, or where `recipe.dense` is 0, by words alone.

    Raises what `embed` raises.
    """
    pool = candidates(index, ask, recipe)
    if embed is None or not recipe.dense:
        return ranked(pool, None)
    if len(pool.unread):
        pool.learn(embed(pool.missing()))
    return ranked(pool, embed([ask])[0])


def candidates(index: Index, ask: str, recipe: Recipe) -> Pool:
    """The chunks that are looked at closely: the best `recipe.pool`, or all of a `whole` index."""
    asked = dict.fromkeys(terms(ask[:_READ]))
    numbers = [index.vocabulary.number(term) for term in asked]
    known = [number for number in numbers if number >= 0]
    bm25 = index.by_chunk.bm25(known)
    scores = bm25
    if len(bm25):
        windows = np.maximum.reduceat(index.by_window.bm25(known), index.windows.first[:-1])
        scores = _standard(bm25) + _standard(windows)
    chunks = _first(scores, recipe.pool, bm25)
    if index.whole:
        others = np.setdiff1d(np.arange(len(scores), dtype=np.int32), chunks)
        chunks = np.concatenate([chunks, others])
    unread = index.unread(_windows(index, chunks))
    words = of_words(index.by_chunk, index.by_window, numbers, bm25)
    return Pool(index, recipe, chunks, scores[chunks], words, unread)


def ranked(pool: Pool, ask: Floats | None) -> Hits:
    """The best of a pool. `ask` is the ask's vector [dimension], of length 1; None: by words alone.

    ValueError if there are windows in the pool that have no vectors.
    """
    if ask is None or not len(pool.chunks):
        return Hits(_passages(pool, pool.scores), Measures(**pool.words))
    cosines, recipe = _cosines(pool, ask), pool.recipe
    scores = recipe.lexical * _standard(pool.scores) + recipe.dense * _standard(cosines)
    looked = min(recipe.pool, len(cosines))
    signs = of_vectors(pool.chunks[:looked], cosines[:looked], len(pool.index.chunks))
    return Hits(_passages(pool, scores), Measures(**pool.words, **signs))


def _passages(pool: Pool, scores: Floats) -> tuple[Passage, ...]:
    best = _order(scores)[: pool.recipe.keep]
    return tuple(pool.index.passage(int(pool.chunks[at]), float(scores[at])) for at in best)


def _cosines(pool: Pool, ask: Floats) -> Floats:
    """Of each chunk of the pool: its best window's cosine with the ask, [pool]."""
    index = pool.index
    windows = _windows(index, pool.chunks)
    lengths = index.windows.first[pool.chunks + 1] - index.windows.first[pool.chunks]
    begins = np.cumsum(lengths) - lengths
    each = np.empty(len(windows), np.float32)
    for begin in range(0, len(windows), _AT_ONCE):
        some = windows[begin : begin + _AT_ONCE]
        each[begin : begin + len(some)] = index.known(some) @ ask
    found: Floats = np.maximum.reduceat(each, begins)
    return found


def _windows(index: Index, chunks: Integers) -> Integers:
    """The windows of these chunks, chunk by chunk."""
    first = index.windows.first
    parts = [np.arange(first[chunk], first[chunk + 1], dtype=np.int32) for chunk in chunks]
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def _first(scores: Floats, count: int, bm25: Floats) -> Integers:
    """The best chunks; where too few match a word, also others, evenly from all over the texts."""
    order = _order(scores)
    matching = order[bm25[order] > 0]
    if len(matching) >= count or len(order) <= count:
        return order[:count]
    others = np.sort(order[bm25[order] <= 0])
    more = count - len(matching)
    evenly = others[(np.arange(more) * len(others)) // more]
    return np.concatenate([matching, evenly]).astype(np.int32)


def _standard(scores: Floats) -> Floats:
    """In standard deviations from the mean; 0 where all are alike."""
    spread = float(scores.std())
    if spread < 1e-6:
        return np.zeros_like(scores)
    standard: Floats = (scores - scores.mean()) / spread
    return standard


def _order(scores: Floats) -> Integers:
    """Numbers by falling score; of equal ones the first comes first."""
    return np.argsort(-scores, kind="stable").astype(np.int32)
