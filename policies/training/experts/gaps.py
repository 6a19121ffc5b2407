"""Gaps in scores: what nobody knows is foretold from the rows on which it is known.

A log of traffic knows the score of the one expert that answered. A model cannot be fitted to gaps,
so each expert's are filled by a ridge regression of its own. Whoever fits to some rows fills their
gaps from these rows alone: a filled score must not know what is held back.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import Ridge

from policies.composition.features import Features
from policies.training.experts.fit import Reals
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.rows import Rows

PENALTY = 30.0
FEWEST_KNOWN = 50
"""Scores of an expert, below which nothing can be said about it."""


def filled(scores: Reals, features: Features) -> Reals:
    """`scores` [rows, experts] without NaN. Each expert must be known on some row."""
    gaps = np.isnan(scores)
    if not gaps.any():
        return scores
    whole = scores.copy()
    for expert in np.flatnonzero(gaps.any(axis=0)):
        known = ~gaps[:, expert]
        ridge = Ridge(PENALTY).fit(features.dense[known], scores[known, expert])
        guess = ridge.predict(features.dense[~known])
        whole[~known, expert] = np.clip(guess, 0, 1)
    return whole


def check_known(rows: Rows) -> None:
    """Raises `RowsError` where too little is known of an expert."""
    for model, column in zip(rows.models, rows.scores.T, strict=True):
        if (known := int((~np.isnan(column)).sum())) < FEWEST_KNOWN:
            raise RowsError(
                f"{known} known scores of {model} are too few: {FEWEST_KNOWN} at least; leave it "
                "out with --models"
            )
