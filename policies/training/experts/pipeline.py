"""The whole way from outcome rows to an artifact.

Reads prompts as the service will (`policies.composition`), fits categories, maps and the quality
model, tries the latter on rows that it had not seen, and says how well that went. Knows no command
line; progress is told to a callable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from policies.composition.artifact import Card, Embedding, Expert, Parts, PriorUsed
from policies.composition.ask import Ask, ask_of
from policies.composition.blocks import Familiar
from policies.composition.budget import Reference
from policies.composition.embedder import Embedder
from policies.composition.features import Features, Reading, embedded, forms, units
from policies.composition.lexical import Floats
from policies.composition.prior import Prior
from policies.training.experts.blending import Blended, blended, folds_of
from policies.training.experts.fit import Reals, fits
from policies.training.experts.kinds import Classified, Kinds, classified, found, given
from policies.training.experts.maps import Problem, frontier, resident_of, worth_of
from policies.training.experts.recipe import Recipe
from policies.training.experts.worth import figures
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.rows import Rows

FEWEST_ROWS = 50
"""Below, the folds hold too little to learn from."""
NEIGHBOURS = 10
UNCERTAIN = 0.02
STRANGE = 0.01
"""Shares of the training rows that count as uncertain or unfamiliar: where the defaults lie."""
MOST_FAMILIAR = 4000
"""Prompts kept to tell how familiar a new one is."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Training:
    """What a training is given beside its rows.

    `experts` say what is known of each model, in the order of the rows' models. `remote` marks an
    embedder that the gateway will have to ask a backend for.
    """

    experts: tuple[Expert, ...]
    recipe: Recipe
    embedder: Embedder | None = None
    remote: bool = False
    prior: Prior | None = None
    resident_gb: float | None = None
    held: Rows | None = None
    data: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Trained:
    """An artifact that is not written yet."""

    card: Card
    parts: Parts


def steps(training: Training) -> int:
    """How often `progress` will be called."""
    blocks = 4 if training.recipe.features == "all" else 2
    return 3 + blocks * (training.recipe.folds + 1)


def train(rows: Rows, training: Training, progress: Progress) -> Trained:
    """Learn a composition of experts. Raises `RowsError` or `MapError`."""
    if len(rows) < FEWEST_ROWS:
        raise RowsError(f"{len(rows)} rows are too few to learn from: {FEWEST_ROWS} at least")
    recipe = training.recipe
    asks = asks_in(rows)
    reading, features = _read(asks, training)
    progress("embedding")
    scores = _filled(rows.scores, features)
    folds = folds_of(rows.prompts, recipe.folds, recipe.seed)
    kinds = (
        given(rows.tasks, rows.prompts)
        if rows.tasks is not None and len(set(rows.tasks)) > 1
        else found(features, reading.layout, rows.prompts, recipe)
    )
    told = classified(features, reading.layout, kinds, folds)
    progress("categories")
    blend = blended(features, scores, fits(reading.layout, recipe), folds, progress)
    familiar, similar = _familiar(features, recipe)
    reference, source = _reference(rows, blend, training, reading)
    parts = Parts(
        reading.directions,
        reading.direction_units,
        reading.lexical_units,
        reading.prior_units,
        told.categories,
        blend.blend,
        familiar,
        reference,
    )
    card = _card(rows, training, _Learned(kinds, told, blend, similar, source))
    progress("maps")
    return Trained(card, parts)


def asks_in(rows: Rows) -> list[Ask]:
    """Each row's ask, as the gateway would see it."""
    said = rows.messages or [None] * len(rows)
    return [
        ask_of({"messages": messages or [{"role": "user", "content": prompt}]})
        for prompt, messages in zip(rows.prompts, said, strict=True)
    ]


def _read(asks: Sequence[Ask], training: Training) -> tuple[Reading, Features]:
    """How these asks are read, with units that follow from them; and what was read."""
    recipe, embedder, prior = training.recipe, training.embedder, training.prior
    embed = embedder.embed if embedder and recipe.features == "all" else None
    vectors = embedded(embed, asks)
    if not vectors.shape[1]:
        prior = None
    directions = _directions(vectors, recipe)
    reading = Reading(
        embed,
        prior,
        directions,
        units(vectors @ directions),
        units(forms(asks)),
        None if prior is None else units(prior(vectors)),
    )
    return reading, reading.features(asks, vectors)


def _directions(vectors: Floats, recipe: Recipe) -> Floats:
    """The main directions of the embeddings, [dimension, few]."""
    count = min(recipe.directions, *vectors.shape)
    if not count:
        return np.zeros((vectors.shape[1], 0), np.float32)
    directions = PCA(count, random_state=recipe.seed).fit(vectors).components_
    return np.ascontiguousarray(directions.T, dtype=np.float32)


def _filled(scores: Reals, features: Features) -> Reals:
    """Scores without gaps: what is unknown is foretold from the rows on which it is known.

    A log of traffic knows one expert's score a row. A model may not learn from the gaps, so each
    expert's are filled by a ridge regression of its own, and the blend learns from both.
    """
    gaps = np.isnan(scores)
    if not gaps.any():
        return scores
    filled = scores.copy()
    for expert in range(scores.shape[1]):
        known = ~gaps[:, expert]
        if known.sum() < FEWEST_ROWS:
            raise RowsError(f"model {expert + 1} has fewer than {FEWEST_ROWS} known scores")
        ridge = Ridge(30.0).fit(features.dense[known], scores[known, expert])
        guess = np.clip(ridge.predict(features.dense[~known]), 0, 1)
        filled[~known, expert] = guess
    return filled


def _familiar(features: Features, recipe: Recipe) -> tuple[Familiar, Reals]:
    """What is kept of the prompts, and how near each row is to the others, [rows]."""
    vectors = features.embedding
    if not vectors.shape[1]:
        return Familiar(vectors[:0], NEIGHBOURS), np.ones(len(vectors))
    rng = np.random.default_rng(recipe.seed)
    kept = np.sort(rng.permutation(len(vectors))[:MOST_FAMILIAR])
    points = vectors[kept].astype(np.float16).astype(np.float32)
    familiar = Familiar(points, NEIGHBOURS)
    tested = kept[: MOST_FAMILIAR // 2]
    with_itself = Familiar(points, NEIGHBOURS + 1).similarity(vectors[tested]).astype(float)
    count = min(NEIGHBOURS + 1, len(points))
    return familiar, (with_itself * count - 1) / max(count - 1, 1)


def _reference(
    rows: Rows, blend: Blended, training: Training, reading: Reading
) -> tuple[Reference, str]:
    """The rows that budgets are tried on: those held back, or all, each foretold unseen."""
    held = training.held
    if held is None:
        return Reference(blend.unseen, rows.scores), "folds"
    held = held.of(rows.models)
    expected = blend.blend.quality(reading.features(asks_in(held))).astype(float)
    return Reference(expected, held.scores), "rows"


@dataclass(frozen=True, slots=True)
class _Learned:
    """What the card tells of, gathered on the way."""

    kinds: Kinds
    told: Classified
    blend: Blended
    similar: Reals
    source: str


def _card(rows: Rows, training: Training, learned: _Learned) -> Card:
    kinds, told = learned.kinds, learned.told
    shares = np.array([category.share for category in kinds.categories])
    worth = worth_of(rows.scores, kinds.of_rows.tolist(), len(shares))
    memory = [expert.memory_gb for expert in training.experts]
    known = None if None in memory else np.array(memory, dtype=float)
    problem = Problem(worth, shares, known, training.resident_gb)
    maps = tuple(
        one
        for unit, costs in priced(training.experts, rows).items()
        for one in frontier(problem, costs, unit)
    )
    embedder = training.embedder if training.recipe.features == "all" else None
    prior = training.prior if embedder else None
    confident = told.unseen.max(axis=1)
    costs = next(iter(priced(training.experts, rows).values()))
    return Card(
        experts=training.experts,
        categories=kinds.categories,
        maps=maps,
        strong=int(np.nanmean(rows.scores, axis=0).argmax()),
        resident=resident_of(problem, costs),
        source=kinds.source,
        embedding=None
        if embedder is None
        else Embedding(
            embedder.name, embedder.fingerprint, embedder.dimension, not training.remote
        ),
        prior=None if prior is None else PriorUsed(prior.fingerprint, prior.names),
        confidence=float(np.quantile(confident, UNCERTAIN)),
        similarity=float(np.quantile(learned.similar, STRANGE)),
        reference=learned.source,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data={**training.data, "rows": len(rows)},
        metrics=figures(rows, learned.blend.unseen, kinds, told.unseen),
    )


def priced(experts: Sequence[Expert], rows: Rows) -> dict[str, Reals]:
    """What each expert costs a request, [experts], in every unit that is known for all of them.

    `params_b`, `usd`, and where neither is known `rank`: 1 for the expert of the lowest mean score,
    2 for the next. That is enough for a share of the strongest expert.
    """
    found: dict[str, Reals] = {}
    for unit in ("params_b", "usd"):
        values = [getattr(expert, unit) for expert in experts]
        if None not in values:
            found[unit] = np.array(values, dtype=float)
    if not found:
        means = np.nanmean(rows.scores, axis=0)
        found["rank"] = 1.0 + np.argsort(np.argsort(means)).astype(float)
    return found
