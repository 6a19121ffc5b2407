"""How much each block counts: weights fitted to predictions of rows that the blocks had not seen.

Rows are split into folds, equal prompts together; every block is fitted to all folds but one and
applied to that one. A block's weight is how well it predicts alone (its slope in a regression of
what came on what it foretold, 0 if it foretold nothing), and all weights together get the scale at
which the whole is calibrated; separately for what the experts share and for what sets them apart. A
joint regression would divide the weight among blocks that predict nearly the same by chance: with
1,500 rows it did worse on rows that neither had seen. What is expected of each row without having
seen it is kept: budgets and risk bounds are tried on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policies.composition.blocks import Blend, Block, Table, within
from policies.composition.features import Features
from policies.composition.lexical import Floats
from policies.composition.prior import hashed
from policies.training.experts.fit import Fit, Reals, targets
from policies.training.experts.gaps import filled
from policies.training.experts.kinds import Classified

Indices = npt.NDArray[np.int64]

ORDINARY = 10
"""Rows that a category's mean must outweigh: the scores of ten tell little."""
STILL = 1e-4
"""Part of the spread of what came, below which predictions do not count as moving."""
STEEPEST = 2.0
"""Predictions are drawn to the mean; what asks to be stretched further than this is noise."""


@dataclass(frozen=True, slots=True)
class Blended:
    """A fitted blend, and what it expected of each row unseen, [rows, experts]."""

    blend: Blend
    unseen: Reals


def folds_of(prompts: Sequence[str], count: int, seed: int) -> list[Indices]:
    """Rows in `count` parts of about even size, at random, equal prompts in the same one."""
    hashes, groups = np.unique(hashed(prompts), return_inverse=True)
    of_group = np.random.default_rng(seed).permutation(len(hashes)) % count
    return [np.flatnonzero(of_group[groups] == fold) for fold in range(count)]


def blended(
    features: Features,
    scores: Reals,
    fits: Mapping[str, Fit],
    folds: Sequence[Indices],
    done: Callable[[str], None],
    told: Classified | None = None,
) -> Blended:
    """Fit every block, and weigh them. `done` is called with a block's name after each fit.

    `scores` [rows, experts] are NaN where nobody knows. With what is `told` of the categories
    there is one block more, which knows only these.
    """
    wanted = targets(filled(scores, features))
    unseen = np.zeros((len(fits) + (told is not None), *wanted.shape))
    everything = np.arange(len(features))
    for fold in folds:
        rest = np.setdiff1d(everything, fold)
        others = features.rows(rest)
        learned = targets(filled(scores[rest], others))
        for at, (name, fit) in enumerate(fits.items()):
            block = fit(others, learned)
            unseen[at, fold] = block.outputs(features.rows(fold)) - learned.mean(axis=0)
            done(name)
        if told is not None:
            rows = by_category(told.unseen[rest], learned)
            unseen[-1, fold] = told.unseen[fold] @ rows - learned.mean(axis=0)
    weights = np.column_stack([_weights(unseen[:, :, :1], wanted[:, :1]),
                               _weights(unseen[:, :, 1:], wanted[:, 1:])])  # fmt: skip
    blocks: list[Block] = []
    for name, fit in fits.items():
        blocks.append(fit(features, wanted))
        done(name)
    if told is not None:
        means: Floats = by_category(told.unseen, wanted).astype(np.float32)
        blocks.append(Table(means, told.categories))
    mean = wanted.mean(axis=0)
    offset = np.concatenate([mean[:1] * (1 - weights[:, 0].sum()),
                             mean[1:] * (1 - weights[:, 1].sum())])  # fmt: skip
    expected = np.tensordot(weights[:, 0], unseen[:, :, :1], 1) + mean[:1]
    expected = expected + np.tensordot(weights[:, 1], unseen[:, :, 1:], 1) + mean[1:]
    blend = Blend(tuple(blocks), weights.astype(np.float32), offset.astype(np.float32))
    return Blended(blend, within(expected.astype(np.float32)).astype(float))


def by_category(likely: Reals, wanted: Reals) -> Reals:
    """What came on average in each category, [categories, outputs].

    `likely` [rows, categories] counts a row in each category as far as it was taken for one of its;
    `ORDINARY` rows like the average are added, for categories of few.
    """
    counts = likely.sum(axis=0)[:, None] + ORDINARY
    means: Reals = (likely.T @ wanted + ORDINARY * wanted.mean(axis=0)) / counts
    return means


def _weights(unseen: Reals, wanted: Reals) -> Floats:
    """The weights of blocks, [blocks]: their slopes, scaled so that their sum is calibrated.

    `unseen` is [blocks, rows, outputs], around the mean; `wanted` [rows, outputs].
    """
    aimed = (wanted - wanted.mean(axis=0)).ravel()
    columns = unseen.reshape(len(unseen), -1)
    slopes = np.array([slope(column, aimed) for column in columns])
    scale = slope(slopes @ columns, aimed)
    return (scale * slopes).astype(np.float32)


def slope(told: Reals, came: Reals) -> float:
    """Of the regression of `came` on `told` through the origin: from 0 to `STEEPEST`.

    0, too, where `told` hardly moves: what is left is rounding, and would weigh thousands.
    """
    moved = float(told @ told)
    if moved <= STILL**2 * float(came @ came):
        return 0.0
    return min(max(float(told @ came) / moved, 0.0), STEEPEST)
