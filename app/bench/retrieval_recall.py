"""Recall of searches: how often their passages hold the section, and how often the answer.

Every way of searching answers the same questions over the same chunks, so differences are paired:
their intervals are of questions drawn anew, as many of each type of document as there are.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from app.bench.retrieval_rows import Row, Rows, bearing, half, section

if TYPE_CHECKING:
    from app.bench.figures import Figure, Report
    from policies.composition.embedder import LocalEmbedder
    from policies.reading.documents import Passage
    from policies.reading.index import Index
    from policies.training.scoring.trails import Floats

__all__ = ["measure"]

SERVED, WHOLE, WORDS = "hybrid, as served", "hybrid, all vectors", "words alone"
BM25, DENSE = "BM25 alone", "vectors alone"
SEATS = "3 by BM25, 2 by vectors"
WAYS = (BM25, WORDS, DENSE, SEATS, SERVED, WHOLE)
DRAWS = 2000
NAN = float("nan")

SECTION, ANSWER, FIRST = "section in 5", "answer in 5", "answer in the first"
WHATS = (SECTION, ANSWER, FIRST)

Found: TypeAlias = dict[str, list[float]]
"""Of each way, for each question: 1 found, 0 not, NaN where nothing is there to be found."""
Way: TypeAlias = Callable[[str], Sequence["Passage"]]


def measure(rows: Rows, embedder: LocalEmbedder, report: Report) -> Iterator[Figure]:
    """The figures: by half, way and type of document, then differences to the way served."""
    found = {what: Found((way, []) for way in WAYS) for what in WHATS}
    overlaps: list[tuple[int, int]] = []
    asked = [*_asked(rows, embedder, found, overlaps)]
    bears = sum(not math.isnan(known) for known in found[ANSWER][SERVED])
    report.remarks.append(
        f"{len(asked)} questions about {len(rows.texts)} documents, "
        f"{bears} with a chunk that bears the answer"
    )
    twice, whole = map(sum, zip(*overlaps, strict=True))
    report.remarks.append(f"{twice / whole:.1%} of the passages' characters stand in two of them")
    halves = {"half 2/2": [half(row.file) == 2 for row in asked], "all": [True] * len(asked)}
    for name, chosen in halves.items():
        for what in WHATS:
            yield from _figures(f"{name}, {what}", asked, found[what], chosen)


def _asked(
    rows: Rows,
    embedder: LocalEmbedder,
    found: Mapping[str, Found],
    overlaps: list[tuple[int, int]],
) -> Iterator[Row]:
    """The questions by document; what was found of each is added to `found` and `overlaps`."""
    from tqdm import tqdm

    for file, text in tqdm(rows.texts.items(), desc="recall", file=sys.stderr, disable=None):
        ways, chunks = _ways(text, embedder)
        for row in (row for row in rows.rows if row.file == file):
            yield row
            bears = {chunks[at].start for at in bearing(row, text, chunks)}
            for way, look in ways.items():
                passages = look(row.ask)
                begin, end = section(row, text)
                inside = any(each.end > begin and each.start < end for each in passages)
                found[SECTION][way].append(float(inside))
                borne = [float(each.start in bears) for each in passages] if bears else [NAN]
                found[ANSWER][way].append(max(borne))
                found[FIRST][way].append(borne[0])
                if way == SERVED:
                    overlaps.append(_shared(passages))


def _ways(text: str, embedder: LocalEmbedder) -> tuple[Mapping[str, Way], Sequence[Passage]]:
    """How one document is searched, and its chunks."""
    from policies.reading.index import Index
    from policies.reading.recipe import Recipe
    from policies.reading.search import search

    served, embed = Index([text], Recipe()), embedder.embed
    served.complete(embed)
    vectors = served.vectors()
    assert vectors is not None
    whole = served.with_vectors(vectors)
    vectors_alone = Recipe(lexical=0, dense=1)
    ways: dict[str, Way] = {
        BM25: lambda ask: _bm25(served, ask, Recipe().keep),
        WORDS: lambda ask: search(served, ask, Recipe(), None).passages,
        DENSE: lambda ask: search(whole, ask, vectors_alone, embed).passages,
        SEATS: lambda ask: _seated(ways[BM25](ask), ways[DENSE](ask)),
        SERVED: lambda ask: search(served, ask, Recipe(), embed).passages,
        WHOLE: lambda ask: search(whole, ask, Recipe(), embed).passages,
    }
    return ways, [served.passage(chunk) for chunk in range(len(served.chunks))]


def _bm25(index: Index, ask: str, keep: int) -> Sequence[Passage]:
    """The best chunks by BM25 over chunks, and nothing else."""
    import numpy as np

    from policies.reading.terms import terms

    asked = dict.fromkeys(terms(ask))
    known = [number for term in asked if (number := index.vocabulary.number(term)) >= 0]
    scores = index.by_chunk.bm25(known)
    return [index.passage(int(at)) for at in np.argsort(-scores, kind="stable")[:keep]]


def _seated(by_words: Sequence[Passage], by_vectors: Sequence[Passage]) -> Sequence[Passage]:
    """The best three by words, then the best two by vectors that are not among them."""
    seated = {passage.start for passage in by_words[:3]}
    others = [passage for passage in by_vectors if passage.start not in seated]
    return [*by_words[:3], *others[:2]]


def _shared(passages: Sequence[Passage]) -> tuple[int, int]:
    """Characters that stand in two of the passages, and characters of all."""
    places = sorted((each.start, each.end) for each in passages)
    twice = sum(max(0, one[1] - other[0]) for one, other in pairwise(places))
    return twice, sum(end - start for start, end in places)


def _figures(
    name: str, rows: Sequence[Row], found: Found, chosen: Sequence[bool]
) -> Iterator[Figure]:
    import numpy as np

    from app.bench.figures import Figure
    from policies.training.scoring.resampling import difference, interval, resampled

    both = zip(chosen, found[SERVED], strict=True)
    known = [one and not math.isnan(value) for one, value in both]
    kinds = sorted({row.kind for row in rows})
    strata = np.array([kinds.index(row.kind) for row in rows])[known]
    if not len(strata):
        return
    values = {way: np.array(hits)[known] for way, hits in found.items()}

    def mean(weights: Floats) -> dict[str, Floats]:
        return {way: weights @ hits / weights.sum(axis=1) for way, hits in values.items()}

    means, draws = resampled(mean, strata, DRAWS, seed=0)
    for way in WAYS:
        by_kind = (
            f"{kind} {values[way][strata == at].mean():.3f} of {(strata == at).sum()}"
            for at, kind in enumerate(kinds)
            if (strata == at).any()
        )
        sure = interval(means[way], draws[way])
        note = ", ".join(by_kind)
        yield Figure(f"{name}: {way}", sure.value, sure.low, sure.high, note=note)
    for way in (BM25, DENSE, SEATS):
        sure = difference(means, draws, SERVED, way)
        yield Figure(f"{name}: {SERVED} over {way}", sure.value, sure.low, sure.high)
