"""What a training is worth, on rows that the models had not seen: the figures of the card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score

from policies.training.experts.fit import Reals
from policies.training.experts.kinds import Kinds
from policies.training.outcomes.rows import Rows

BINS = 10


def figures(rows: Rows, expected: Reals, kinds: Kinds, likely: Reals) -> Mapping[str, Any]:
    """Accuracy of the categories, and of each expert's quality how it is calibrated.

    `expected` is [rows, experts], `likely` [rows, categories]; both of rows unseen.
    """
    by_expert = {}
    for at, model in enumerate(rows.models):
        known = ~np.isnan(rows.scores[:, at])
        got, told = rows.scores[known, at], expected[known, at]
        by_expert[model] = {
            "mean_score": float(got.mean()),
            "squared_error": float(((got - told) ** 2).mean()),
            "squared_error_of_the_mean": float(got.var()),
            "calibration_error": calibration_error(told, got),
        }
    sure = likely.max(axis=1)
    right = likely.argmax(axis=1) == kinds.of_rows
    return {
        "category_accuracy": float(accuracy_score(kinds.of_rows, likely.argmax(axis=1))),
        "category_calibration_error": calibration_error(sure, right.astype(float)),
        "experts": by_expert,
    }


def calibration_error(told: Reals, got: Reals) -> float:
    """Expected calibration error: in ten bins of even size, how far what was told is from what
    came, on average (Naeini et al., 2015; with even bins, arXiv 1904.01685).
    """
    expected, came, sizes = binned(told, got)
    return float((np.abs(expected - came) * sizes).sum() / max(len(told), 1))


def binned(told: Reals, got: Reals) -> tuple[Reals, Reals, Reals]:
    """The mean of both in ten bins of even size by what was told, and how many are in each."""
    parts = np.array_split(np.argsort(told, kind="stable"), BINS)
    filled = [part for part in parts if len(part)]
    return (
        np.array([told[part].mean() for part in filled]),
        np.array([got[part].mean() for part in filled]),
        np.array([len(part) for part in filled], dtype=float),
    )
