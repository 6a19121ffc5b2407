"""What a search for each question finds in its document, in numbers; and how long the document is.

Each document is indexed once and asked all of its questions. Knows rows and `policies.reading`; not
what is learned from the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np

from policies.composition.embedder import Embedder
from policies.reading.counting import tokens
from policies.reading.index import Index
from policies.reading.measures import NAMES
from policies.reading.recipe import Recipe
from policies.reading.search import Hits, search
from policies.training.context.pipeline import Searched
from policies.training.context.rows import Asked

__all__ = ["USED", "hits_of", "lengths", "measured"]

USED = tuple(name for name in NAMES if name not in ("chunks", "dense", "rarity"))
"""What is learned from. The others tell how long a document is, and whether there were vectors:
documents four times as long as those of a training would count as none that was ever seen."""


def measured(
    asked: Asked,
    recipe: Recipe,
    embedder: Embedder | None,
    done: Callable[[int], object] = lambda _: None,
) -> Searched:
    """The measures of every row's question in its row's document, all of which must be there.

    `done` is told of so many further rows.
    """
    rows = np.zeros((len(asked), len(USED)), np.float32)
    for row, hits in hits_of(asked, recipe, embedder):
        rows[row] = [getattr(hits.measures, name) for name in USED]
        done(1)
    return Searched(rows, USED, asdict(recipe))


def hits_of(asked: Asked, recipe: Recipe, embedder: Embedder | None) -> Iterator[tuple[int, Hits]]:
    """Each row and what was found for it, document by document."""
    by_source: dict[str | None, list[int]] = {}
    for row, source in enumerate(asked.sources):
        by_source.setdefault(source, []).append(row)
    for source, rows in by_source.items():
        index = Index([asked.documents[source or ""].text], recipe)
        for row in rows:
            embed = None if embedder is None else embedder.embed
            yield row, search(index, asked.questions[row], recipe, embed)


def lengths(asked: Asked) -> list[int]:
    """The tokens of each row's document."""
    known = {name: tokens(each.text) for name, each in asked.documents.items()}
    return [known[source or ""] for source in asked.sources]
