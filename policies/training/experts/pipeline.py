"""The whole way from outcome rows to an artifact.

Reads prompts as the service will (`policies.composition`), fits categories, maps and the quality
model, tries the latter on rows that it had not seen, and says how well that went. Knows no command
line; progress is told to a callable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from policies.composition.artifact import Card, Embedding, Expert, Parts, PriorUsed
from policies.composition.ask import Ask, ask_of
from policies.composition.blocks import Familiar
from policies.composition.budget import Reference
from policies.composition.embedder import Embedder
from policies.composition.embedder import Progress as Embedded
from policies.composition.features import Features, Reading, forms, units
from policies.composition.lexical import Floats
from policies.composition.prior import Prior, hashed
from policies.training.experts.blending import Blended, Indices, blended, folds_of
from policies.training.experts.fit import Reals, fits
from policies.training.experts.frontier import figures as figures_of
from policies.training.experts.frontier import frontier_of, priced
from policies.training.experts.gaps import check_known
from policies.training.experts.kinds import Classified, Kinds, classified, found, given, several
from policies.training.experts.maps import Problem, frontier, resident_of, worth_of
from policies.training.experts.recipe import Recipe
from policies.training.experts.worth import figures
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.rows import Rows

FEWEST_ROWS = 50
"""Different prompts. Below, the folds hold too little to learn from."""
NEIGHBOURS = 10
UNCERTAIN = 0.02
STRANGE = 0.01
"""Shares of the training rows that count as uncertain or unfamiliar: where the defaults lie."""
SURE = 0.9
"""But no prompt whose category is as probable as this, however sure the training rows were."""
MOST_FAMILIAR = 4000
"""Prompts kept to tell how familiar a new one is."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Training:
    """What a training is given beside its rows.

    `experts` say what is known of each model, in the order of the rows' models. `remote` marks an
    embedder that the gateway will have to ask a backend for. `embedded` is told of so many further
    prompts that have their vectors, `held` ones included.
    """

    experts: tuple[Expert, ...]
    recipe: Recipe
    embedder: Embedder | None = None
    remote: bool = False
    prior: Prior | None = None
    resident_gb: float | None = None
    held: Rows | None = None
    data: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    embedded: Embedded | None = None

    @property
    def reads(self) -> Embedder | None:
        """The embedder that is used; None where only the form is looked at."""
        return self.embedder if self.recipe.features == "all" else None


@dataclass(frozen=True, slots=True)
class Trained:
    """An artifact that is not written yet."""

    card: Card
    parts: Parts


def steps(training: Training) -> int:
    """How often `progress` will be called."""
    blocks = 2 if training.reads is None else 4
    return 3 + blocks * (training.recipe.folds + 1)


def train(rows: Rows, training: Training, progress: Progress) -> Trained:
    """Learn a composition of experts. Raises `RowsError` or `MapError`."""
    check(rows)
    recipe = training.recipe
    asks = asks_in(rows)
    reading, features = _read(asks, training)
    progress("embedding")
    folds = folds_of(rows.prompts, recipe.folds, recipe.seed)
    kinds = (
        given(rows.tasks, rows.prompts)
        if rows.tasks is not None and several(rows.tasks)
        else found(features, reading.layout, rows.prompts, recipe)
    )
    told = classified(features, reading.layout, kinds, folds)
    progress("categories")
    blocks = fits(reading.layout, recipe)
    blend = blended(features, rows.scores, blocks, folds, progress, told)
    familiar, similar = _familiar(features, recipe)
    reference, source = _reference(rows, blend, training, reading)
    held = () if training.held is None else training.held.prompts
    parts = Parts(
        reading.directions,
        reading.direction_units,
        reading.lexical_units,
        reading.prior_units,
        told.categories,
        blend.blend,
        familiar,
        reference,
        np.unique(hashed([*rows.prompts, *held])),
    )
    card = _card(rows, training, _Learned(kinds, told, blend, similar, reference, source))
    progress("maps")
    return Trained(card, parts)


def check(rows: Rows) -> None:
    """Raises `RowsError` for rows that nothing can be learned from."""
    if len(rows.models) < 2:
        raise RowsError(
            f"there is nothing to choose: the rows hold {', '.join(rows.models)} only; two models "
            "at least"
        )
    if (different := len(np.unique(hashed(rows.prompts)))) < FEWEST_ROWS:
        raise RowsError(
            f"{different} different prompts are too few to learn from: {FEWEST_ROWS} at least"
        )
    check_known(rows)


def asks_in(rows: Rows) -> list[Ask]:
    """Each row's ask, as the gateway would see it."""
    said = rows.messages or [None] * len(rows)
    return [
        ask_of({"messages": messages or [{"role": "user", "content": prompt}]})
        for prompt, messages in zip(rows.prompts, said, strict=True)
    ]


def _read(asks: Sequence[Ask], training: Training) -> tuple[Reading, Features]:
    """How these asks are read, with units that follow from them; and what was read."""
    embedder = training.reads
    prior = None if embedder is None else training.prior
    vectors = _embedded(asks, training)
    directions = _directions(vectors, training.recipe)
    reading = Reading(
        None if embedder is None else embedder.embed,
        prior,
        directions,
        units(vectors @ directions),
        units(forms(asks)),
        None if prior is None else units(prior(vectors)),
    )
    return reading, reading.features(asks, vectors)


def _embedded(asks: Sequence[Ask], training: Training) -> Floats:
    """[asks, dimension]; of width 0 without an embedder."""
    if training.reads is None:
        return np.zeros((len(asks), 0), dtype=np.float32)
    return training.reads.embed([ask.text for ask in asks], training.embedded)


def _directions(vectors: Floats, recipe: Recipe) -> Floats:
    """The main directions of the embeddings, [dimension, few]."""
    count = min(recipe.directions, *vectors.shape)
    if not count:
        return np.zeros((vectors.shape[1], 0), np.float32)
    directions = PCA(count, random_state=recipe.seed).fit(vectors).components_
    return np.ascontiguousarray(directions.T, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _Similar:
    """How near some `rows` are to the others: their mean `cosines` to the nearest of them."""

    rows: Indices
    cosines: Reals


def _familiar(features: Features, recipe: Recipe) -> tuple[Familiar, _Similar]:
    """What is kept of the prompts, and how near some of them are to the others."""
    vectors = features.embedding
    if not vectors.shape[1]:
        everything = np.arange(len(vectors))
        return Familiar(vectors[:0], NEIGHBOURS), _Similar(everything, np.ones(len(vectors)))
    kept = np.random.default_rng(recipe.seed).permutation(len(vectors))[:MOST_FAMILIAR]
    points = vectors[np.sort(kept)].astype(np.float16).astype(np.float32)
    familiar = Familiar(points, NEIGHBOURS)
    tested = kept[: MOST_FAMILIAR // 2]
    with_itself = Familiar(points, NEIGHBOURS + 1).similarity(vectors[tested]).astype(float)
    count = min(NEIGHBOURS + 1, len(points))
    return familiar, _Similar(tested, (with_itself * count - 1) / max(count - 1, 1))


def _reference(
    rows: Rows, blend: Blended, training: Training, reading: Reading
) -> tuple[Reference, str]:
    """The rows that budgets are tried on: those held back, or all, each foretold unseen."""
    held = training.held
    if held is None:
        return Reference(blend.unseen, rows.scores), "folds"
    held = held.of(rows.models)
    asks = asks_in(held)
    features = reading.features(asks, _embedded(asks, training))
    expected = blend.blend.quality(features).astype(float)
    return Reference(expected, held.scores), "rows"


@dataclass(frozen=True, slots=True)
class _Learned:
    """What the card tells of, gathered on the way."""

    kinds: Kinds
    told: Classified
    blend: Blended
    similar: _Similar
    reference: Reference
    source: str


def _card(rows: Rows, training: Training, learned: _Learned) -> Card:
    kinds, told = learned.kinds, learned.told
    shares = np.array([category.share for category in kinds.categories])
    worth = worth_of(rows.scores, kinds.of_rows.tolist(), len(shares))
    memory = [expert.memory_gb for expert in training.experts]
    known = None if None in memory else np.array(memory, dtype=float)
    problem = Problem(worth, shares, known, training.resident_gb)
    resident = resident_of(problem)
    means = np.nanmean(rows.scores, axis=0)
    strong = max(resident, key=lambda expert: float(means[expert]))
    prices = priced(training.experts, strong)
    maps = tuple(
        replace(one, experts=tuple(resident[expert] for expert in one.experts))
        for unit, costs in prices.items()
        for one in frontier(problem.among(resident), costs[list(resident)], unit)
    )
    embedder = training.reads
    prior = training.prior if embedder else None
    confident = told.unseen.max(axis=1)
    least_confident = min(float(np.quantile(confident, UNCERTAIN)), SURE)
    least_similar = float(np.quantile(learned.similar.cosines, STRANGE))
    uncertain = confident[learned.similar.rows] < least_confident
    uncertain |= learned.similar.cosines < least_similar
    curve = frontier_of(training.experts, strong, resident, learned.reference)
    return Card(
        experts=training.experts,
        categories=kinds.categories,
        maps=maps,
        strong=strong,
        resident=resident,
        source=kinds.source,
        embedding=None
        if embedder is None
        else Embedding(
            embedder.name, embedder.fingerprint, embedder.dimension, not training.remote
        ),
        prior=None if prior is None else PriorUsed(prior.fingerprint, prior.names),
        confidence=least_confident,
        similarity=least_similar,
        reference=learned.source,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data={**training.data, "rows": len(rows)},
        metrics={
            **figures(rows, learned.blend.unseen, kinds, told.unseen),
            "abstained": float(uncertain.mean()),
            "frontier": None if curve is None else figures_of(curve, training.recipe.seed),
        },
    )
