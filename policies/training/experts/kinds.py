"""Categories: the kinds of prompts, given as tasks or found, and what tells them apart.

Given: the `task` column; tasks of a few rows are put together as `other`. Found: k-means over the
embeddings (over the lexical numbers, without an embedder), each named by the words that are most
typical of it. The classifier is a logistic regression whose confidence is made honest on rows that
it had not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from policies.composition.artifact import Category
from policies.composition.blocks import Categories
from policies.composition.features import Columns, Features, Layout
from policies.training.experts.fit import Reals
from policies.training.experts.recipe import Recipe

Indices = npt.NDArray[np.int64]

FEWEST = 10
"""Rows of a task that is a category of its own."""
OTHER = "other"
PER_CLUSTER = 150
MOST_CLUSTERS = 24
FEWEST_CLUSTERS = 4
"""A cluster needs about 150 rows for its experts' mean scores to be known to 0.04."""
WORDS = 5
PENALTY = 0.1
"""Inverse of scikit-learn's C."""


@dataclass(frozen=True, slots=True)
class Kinds:
    """Each row's category, [rows], and the categories. `source` is `task` or `clusters`."""

    of_rows: Indices
    categories: tuple[Category, ...]
    source: str


def several(tasks: Sequence[str]) -> bool:
    """Whether tasks tell prompts apart: two at least, one of them of more than a few rows."""
    counts = Counter(tasks)
    return len(counts) > 1 and max(counts.values()) >= FEWEST


def given(tasks: Sequence[str], prompts: Sequence[str]) -> Kinds:
    """The tasks as categories, the largest first, `other` last."""
    counts = Counter(tasks)
    kept = [task for task, count in counts.most_common() if count >= FEWEST and task != OTHER]
    named = [task if counts[task] >= FEWEST else OTHER for task in tasks]
    names = [*dict.fromkeys([*kept, *named])]
    at = {name: number for number, name in enumerate(names)}
    of_rows = np.array([at[name] for name in named])
    return Kinds(of_rows, _described(names, of_rows, prompts), "task")


def found(features: Features, layout: Layout, prompts: Sequence[str], recipe: Recipe) -> Kinds:
    """Clusters as categories, the largest first."""
    most = min(MOST_CLUSTERS, len(features) // PER_CLUSTER)
    count = recipe.clusters or max(min(FEWEST_CLUSTERS, len(features)), most)
    part = "embedding" if layout.embedding else "lexical"
    rows = features.dense[:, layout.columns(part)]
    count = min(count, len(np.unique(rows, axis=0)))
    labels = KMeans(count, n_init=4, random_state=recipe.seed).fit_predict(rows)
    ranks = {label: at for at, (label, _) in enumerate(Counter(labels.tolist()).most_common())}
    of_rows = np.array([ranks[label] for label in labels.tolist()])
    described = _described([""] * len(ranks), of_rows, prompts)
    names = _distinct(["-".join(each.words[:3]) or "cluster" for each in described])
    named = tuple(replace(each, name=name) for each, name in zip(described, names, strict=True))
    return Kinds(of_rows, named, "clusters")


def _described(
    names: Sequence[str], of_rows: Indices, prompts: Sequence[str]
) -> tuple[Category, ...]:
    """Categories with their shares and the words that are typical of each."""
    texts = [
        " ".join(prompts[row][:2000] for row in np.flatnonzero(of_rows == at).tolist())
        for at in range(len(names))
    ]
    words = _typical(texts)
    return tuple(
        Category(name, float((of_rows == at).mean()), words[at]) for at, name in enumerate(names)
    )


def _typical(texts: Sequence[str]) -> list[tuple[str, ...]]:
    vectorizer = TfidfVectorizer(
        stop_words="english",
        token_pattern=r"(?u)\b[^\W\d_]{3,}\b",  # noqa: S106  # a pattern of words, no password
        sublinear_tf=True,
    )
    try:
        weights = vectorizer.fit_transform(texts).toarray()
    except ValueError:  # no words at all: numbers only, say
        return [() for _ in texts]
    known = vectorizer.get_feature_names_out()
    best = np.argsort(-weights, axis=1)[:, :WORDS]
    return [
        tuple(str(known[at]) for at in row if weights[text, at] > 0)
        for text, row in enumerate(best)
    ]


def _distinct(names: Sequence[str]) -> list[str]:
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return distinct


# -------------------------------------------------------------------------------- the classifier


@dataclass(frozen=True, slots=True)
class Classified:
    """The classifier, and what it said of each row unseen: probabilities [rows, categories]."""

    categories: Categories
    unseen: Reals


def classified(
    features: Features, layout: Layout, kinds: Kinds, folds: Sequence[Indices]
) -> Classified:
    """Learn to tell the categories apart, and how far to trust it."""
    columns = layout.columns("embedding", "lexical")
    names = tuple(each.name for each in kinds.categories)
    unseen = np.full((len(features), len(names)), 1 / len(names))
    everything = np.arange(len(features))
    for fold in folds:
        rest = np.setdiff1d(everything, fold)
        if len(rest) and len(fold):
            part = _fitted(features.rows(rest), columns, kinds.of_rows[rest], names)
            unseen[fold] = part.probabilities(features.rows(fold))
    logs = np.log(np.maximum(unseen, 1e-12))
    heat = temperature(logs, kinds.of_rows)
    whole = _fitted(features, columns, kinds.of_rows, names)
    return Classified(replace(whole, temperature=heat), tempered(logs, heat))


def _fitted(
    features: Features, columns: Columns, of_rows: Indices, names: tuple[str, ...]
) -> Categories:
    scale = _scale(features, columns)
    rows = features.dense[:, columns] * scale
    weights, offset = logistic(rows, of_rows, len(names), PENALTY)
    return Categories(names, columns, weights * scale[:, None], offset, 1.0)


def logistic(
    rows: Any, of_rows: Indices, count: int, penalty: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A multinomial logistic regression of `rows` [rows, columns], sparse or not, to `count` kinds.

    Its weights [columns, kinds] and offsets [kinds]; a kind that no row is of is impossible.
    """
    weights = np.zeros((rows.shape[1], count), np.float32)
    offset = np.full(count, -30.0, np.float32)
    present = np.unique(of_rows)
    if len(present) == 1:
        offset[present[0]] = 0.0
        return weights, offset
    model = LogisticRegression(C=1 / penalty, max_iter=300).fit(rows, of_rows)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn tells two apart with one row
        coefficients = np.vstack([-coefficients[0], coefficients[0]]) / 2
        intercepts = np.array([-intercepts[0], intercepts[0]]) / 2
    weights[:, present] = coefficients.T
    offset[present] = intercepts
    return weights, offset


def _scale(features: Features, columns: Columns) -> npt.NDArray[np.float32]:
    """Lexical numbers count about as much as the embedding, whose rows have length 1."""
    scale = np.ones(len(columns), np.float32)
    width = features.embedding.shape[1]
    scale[columns < width] = np.sqrt(max(width, 1))
    scaled: npt.NDArray[np.float32] = (scale / np.sqrt(len(columns))).astype(np.float32)
    return scaled


def temperature(logs: Reals, of_rows: Indices) -> float:
    """The temperature at which rows are least surprising, given log probabilities [rows, kinds]
    of models that had not seen them.
    """

    def surprise(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        largest = scaled.max(axis=1)
        whole = largest + np.log(np.exp(scaled - largest[:, None]).sum(axis=1))
        return float((whole - scaled[np.arange(len(logs)), of_rows]).mean())

    best = minimize_scalar(surprise, bounds=(-2.0, 2.0), method="bounded")
    return float(np.exp(best.x))


def tempered(logs: Reals, heat: float) -> Reals:
    """Probabilities [rows, kinds] at this temperature, given their logarithms."""
    raised = np.exp(logs / heat - (logs / heat).max(axis=1, keepdims=True))
    whole: Reals = raised / raised.sum(axis=1, keepdims=True)
    return whole
