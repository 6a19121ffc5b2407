"""The whole way from questions with their tasks to an artifact.

Reads questions as the service will (`policies.reading`), fits the head that sees the question alone
and, where there are measures, the one that sees those too, and says how well both do on documents
that they had not seen. Knows no command line; progress is told to a callable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from policies.composition.artifact import Embedding
from policies.composition.ask import Ask, ask_of
from policies.composition.embedder import Embedder
from policies.composition.features import forms, units
from policies.composition.lexical import Floats
from policies.composition.prior import hashed
from policies.reading.artifact import Card, Parts, reading_of
from policies.reading.documents import TASKS
from policies.reading.tasks import worded
from policies.training.context.fit import Indices, Tried, tried
from policies.training.context.recipe import Recipe
from policies.training.context.rows import Asked
from policies.training.experts.blending import folds_of
from policies.training.outcomes.errors import RowsError

__all__ = ["FEWEST_ROWS", "Searched", "Trained", "asks_in", "figures", "train"]

FEWEST_ROWS = 40
"""Different questions. Below, the folds hold too little to learn from."""


@dataclass(frozen=True, slots=True)
class Searched:
    """What was measured when each question was searched for: `rows` [questions, measures], what
    these are called, and how was searched.
    """

    rows: Floats
    names: tuple[str, ...]
    retrieval: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trained:
    """An artifact that is not written yet; and each head as it did on rows unseen."""

    card: Card
    parts: Parts
    alone: Tried
    measured: Tried | None
    labels: Indices = field(repr=False)


def train(
    asked: Asked,
    embedder: Embedder | None,
    searched: Searched | None,
    recipe: Recipe,
    done: Callable[[], object] = lambda: None,
    data: Mapping[str, Any] = MappingProxyType({}),
) -> Trained:
    """Learn to tell tasks. Raises RowsError. Calls `done` once a fold and head, and once a head."""
    labels = asked.labels()
    different = len(np.unique(hashed(asked.questions)))
    if different < FEWEST_ROWS or len(np.unique(labels)) < 2:
        raise RowsError(
            f"{different} different questions of {len(np.unique(labels))} tasks are too few to "
            f"learn from: {FEWEST_ROWS} of two at least"
        )
    asks = asks_in(asked.questions)
    lexical = units(forms(asks))
    embedding = (
        None
        if embedder is None
        else Embedding(embedder.name, embedder.fingerprint, embedder.dimension)
    )
    reading = reading_of(lexical, None if embedder is None else embedder.embed, embedding)
    question = worded(asks, reading.features(asks))
    folds = folds_of(asked.groups, recipe.folds, recipe.seed)
    alone = tried(question, labels, asked.groups, folds, recipe, done)
    measured, of_measures = None, None
    if searched is not None:
        of_measures = units(searched.rows)
        beside = question.beside(of_measures.of(searched.rows))
        measured = tried(beside, labels, asked.groups, folds, recipe, done)
    metrics = {"alone": figures(alone, labels)}
    if measured is not None:
        metrics["measured"] = figures(measured, labels)
    card = Card(
        embedding,
        () if searched is None else searched.names,
        {} if searched is None else searched.retrieval,
        {**data, "rows": len(asked), "groups": len(set(asked.groups)), "seed": recipe.seed},
        metrics,
    )
    parts = Parts(
        lexical,
        alone.head,
        None if measured is None else measured.head,
        of_measures,
        np.unique(hashed(asked.questions)),
    )
    return Trained(card, parts, alone, measured, labels)


def asks_in(questions: Sequence[str]) -> list[Ask]:
    """Each question as the gateway would see it."""
    return [ask_of({"messages": [{"role": "user", "content": text}]}) for text in questions]


def figures(of: Tried, labels: Indices) -> dict[str, Any]:
    """How well a head tells the tasks of rows unseen: accuracy, F1, surprise in nats, confusion.

    F1 is the mean over the tasks that there are; `confusion` counts rows, by true task and told.
    """
    told = of.unseen.argmax(axis=1)
    confusion = np.zeros((len(TASKS), len(TASKS)), int)
    np.add.at(confusion, (labels, told), 1)
    right = np.diag(confusion)
    there = confusion.sum(axis=1) > 0
    scores = 2 * right / np.maximum(confusion.sum(axis=0) + confusion.sum(axis=1), 1)
    likely = of.unseen[np.arange(len(labels)), labels]
    return {
        "accuracy": float((told == labels).mean()),
        "macro_f1": float(scores[there].mean()),
        "nats": float(-np.log(np.maximum(likely, 1e-12)).mean()),
        "confusion": confusion.tolist(),
    }
