"""Fitting the blocks of a quality model. Each function: features and targets in, one block out.

Targets are [rows, 1 + experts]: the mean score of the experts on the row, and each one's distance
from it (`policies.composition.blocks` says why).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import Ridge

from policies.composition.blocks import Block, Forest, Grams, Kernel, gaussian, tfidf
from policies.composition.features import Columns, Features, Layout
from policies.composition.lexical import Floats
from policies.training.experts.recipe import Recipe

Reals = npt.NDArray[np.float64]
Fit = Callable[[Features, Reals], Block]
"""Learns one block."""


def targets(scores: Reals) -> Reals:
    """[rows, 1 + experts] from [rows, experts]."""
    mean = scores.mean(axis=1, keepdims=True)
    return np.hstack([mean, scores - mean])


def fits(layout: Layout, recipe: Recipe) -> dict[str, Fit]:
    """The blocks of a model, by name, as far as there is anything for them to read."""
    found: dict[str, Fit] = {"grams": lambda seen, wanted: fit_grams(seen.grams, wanted, recipe)}
    plain = layout.columns("lexical", "prior")
    found["forest"] = lambda seen, wanted: fit_forest(seen, wanted, plain, recipe)
    if layout.embedding:
        wide = layout.columns("directions", "lexical", "prior")
        found["kernel"] = lambda seen, wanted: fit_kernel(seen, wanted, layout, recipe)
        found["wide forest"] = lambda seen, wanted: fit_forest(seen, wanted, wide, recipe)
    return found


# --------------------------------------------------------------------------------- linear parts


@dataclass(frozen=True, slots=True)
class Counted:
    """Rows of TF-IDF weights, and what their columns mean."""

    vocabulary: dict[str, int]
    idf: Floats
    rows: Any


def counted(grams: Sequence[Counter[str]], recipe: Recipe) -> Counted:
    """The commonest grams that are in enough rows, and the rows in their terms."""
    within = Counter(gram for row in grams for gram in row)
    rarest = min(recipe.rarest, max(1, len(grams) // 50))
    common = [(gram, count) for gram, count in within.most_common() if count >= rarest]
    common = sorted(common, key=lambda pair: (-pair[1], pair[0]))[: recipe.most_grams]
    vocabulary = {gram: at for at, gram in enumerate(sorted(gram for gram, _ in common))}
    counts = np.array([within[gram] for gram in vocabulary], dtype=np.float64)
    idf = (np.log((1 + len(grams)) / (1 + counts)) + 1).astype(np.float32)
    where, values = zip(*(tfidf(row, vocabulary, idf) for row in grams), strict=True)
    ends = np.cumsum([0, *map(len, where)])
    shape = (len(grams), len(vocabulary))
    rows = sparse.csr_matrix((np.concatenate(values), np.concatenate(where), ends), shape=shape)
    return Counted(vocabulary, idf, rows)


def fit_grams(grams: Sequence[Counter[str]], wanted: Reals, recipe: Recipe) -> Grams:
    """Ridge regression over TF-IDF of character n-grams."""
    seen = counted(grams, recipe)
    ridge = Ridge(recipe.grams_penalty, solver="sparse_cg", tol=1e-4).fit(seen.rows, wanted)
    weights = ridge.coef_.T.astype(np.float32)
    return Grams(seen.vocabulary, seen.idf, weights, ridge.intercept_.astype(np.float32))


def fit_kernel(features: Features, wanted: Reals, layout: Layout, recipe: Recipe) -> Kernel:
    """Kernel ridge regression over the embedding and, with little weight, the lexical numbers."""
    columns = layout.columns("embedding", "lexical")
    scale = np.ones(len(columns), np.float32)
    scale[layout.embedding :] = recipe.lexical_scale
    rows = features.dense[:, columns] * scale
    points, dual, offset = kernel_ridge(
        rows, wanted, recipe.gamma, recipe.kernel_penalty, recipe.most_points, recipe.seed
    )
    return Kernel(columns, scale, points, dual, offset, recipe.gamma)


def kernel_ridge(  # a regression's six arguments
    rows: Floats, wanted: Reals, gamma: float, penalty: float, most: int, seed: int
) -> tuple[Floats, Floats, Floats]:
    """References, their weights and the offset, of a Gaussian kernel ridge.

    With more rows than `most`, the references are a random part of them and the weights those of
    the best function of that form (subset of regressors; Rasmussen and Williams, 2006, 8.3.1).
    """
    offset = wanted.mean(axis=0)
    aimed = wanted - offset
    if len(rows) <= most:
        points = rows
        kernel = gaussian(rows, points, gamma).astype(np.float64)
        kernel[np.diag_indices_from(kernel)] += penalty
        dual = linalg.solve(kernel, aimed, assume_a="pos")
    else:
        which = np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))
        points = rows[which]
        across = gaussian(rows, points, gamma).astype(np.float64)
        inner = across.T @ across + penalty * gaussian(points, points, gamma)
        inner[np.diag_indices_from(inner)] += 1e-6 * len(rows)
        dual = linalg.solve(inner, across.T @ aimed, assume_a="pos")
    return points, dual.astype(np.float32), offset.astype(np.float32)


# ---------------------------------------------------------------------------------------- forests


def fit_forest(features: Features, wanted: Reals, columns: Columns, recipe: Recipe) -> Forest:
    """Extremely randomised trees (Geurts et al., 2006) over some columns of the dense row."""
    leaf = max(recipe.leaf, len(features) // recipe.leaves)
    forest = ExtraTreesRegressor(
        recipe.trees,
        min_samples_leaf=min(leaf, max(1, len(features) // 10)),
        max_features=recipe.columns_tried,
        n_jobs=os.cpu_count(),
        random_state=recipe.seed,
    ).fit(features.dense[:, columns], wanted)
    return _forest([tree.tree_ for tree in forest.estimators_], columns)


def _at_most(thresholds: Reals) -> Floats:
    """The largest float32 that is no larger: the same numbers of float32 lie at or below it."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


def _forest(trees: Sequence[Any], columns: Columns) -> Forest:
    """Trees of scikit-learn as arrays."""
    starts = np.cumsum([0, *(tree.node_count for tree in trees)])
    parts: dict[str, list[npt.NDArray[Any]]] = {
        name: [] for name in ("column", "threshold", "left", "right", "leaf", "values")
    }
    leaves = 0
    for tree, start in zip(trees, starts, strict=False):
        ends = tree.children_left < 0
        here = np.arange(tree.node_count) + start
        parts["column"].append(np.where(ends, 0, columns[np.maximum(tree.feature, 0)]))
        parts["threshold"].append(_at_most(tree.threshold))
        parts["left"].append(np.where(ends, here, tree.children_left + start))
        parts["right"].append(np.where(ends, here, tree.children_right + start))
        parts["leaf"].append(np.where(ends, np.cumsum(ends) - 1 + leaves, 0))
        parts["values"].append(tree.value[ends, :, 0])
        leaves += int(ends.sum())

    def whole(name: str) -> Columns:
        return np.concatenate(parts[name]).astype(np.int32)

    return Forest(
        roots=starts[:-1].astype(np.int32),
        column=whole("column"),
        threshold=np.concatenate(parts["threshold"]),
        left=whole("left"),
        right=whole("right"),
        leaf=whole("leaf"),
        values=np.concatenate(parts["values"]).astype(np.float16).astype(np.float32),
        depth=max(tree.max_depth for tree in trees),
    )
