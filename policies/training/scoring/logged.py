"""What another policy would have been worth, told by a log of what one policy did.

For each decision the log knows which arm was chosen, with which chance, and what came of it: not
what the others would have brought. Three estimates of the mean outcome under other chances (Dudik,
Langford and Li, arXiv 1103.4601; Swaminathan and Joachims, 2015), with w = the new policy's chance
of the logged arm over the logged one's:

    IPS     mean(w * outcome): unbiased where every arm that the new policy takes had a chance
    SNIPS   sum(w * outcome) / sum(w): hardly biased, and calmer where w varies
    DR      mean(what a model of the outcomes expects of the new policy + w * what it was wrong by):
            right if either the chances or the model are

None of them can say anything of an arm that the log never chose: `unsupported` is the share of the
new policy's decisions of which that is so. `effective` is the sample size that is left after
weighting, (sum w)^2 / sum w^2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from policies.training.calibrate import Interval
from policies.training.scoring.resampling import interval, resampled
from policies.training.scoring.trails import Floats, Integers

__all__ = ["Estimates", "Log", "estimated", "outcome_model"]

RIDGE = 1.0
"""Penalty, for vectors of length 1: an arm leans on its mean until it has some hundred rows."""
FEWEST = 20
"""Rows that an arm needs for a model beyond its mean."""
SPLITS = 5


@dataclass(frozen=True, slots=True)
class Log:
    """n decisions among k arms: `arm` [n] the chosen one, `logged` [n, k] the chances it was
    chosen with, `target` [n, k] those of the policy that is to be judged, `outcome` [n] what came
    of it. `clusters` [n] numbers what belongs together (a session), from 0.
    """

    arm: Integers
    logged: Floats
    target: Floats
    outcome: Floats
    clusters: Integers

    @property
    def weights(self) -> Floats:
        """w [n]; 0 where the log claims to have chosen what it had no chance of choosing."""
        rows = np.arange(len(self.arm))
        chance = self.logged[rows, self.arm]
        return np.divide(
            self.target[rows, self.arm], chance, out=np.zeros_like(chance), where=chance > 0
        )

    @property
    def unsupported(self) -> float:
        """The share of the target's decisions for arms that had no chance to be logged."""
        return float(np.where(self.logged > 0, 0.0, self.target).sum(axis=1).mean())


@dataclass(frozen=True, slots=True)
class Estimates:
    """Of the mean outcome under the target's chances; `logged` is the mean that was logged."""

    logged: Interval
    ips: Interval
    snips: Interval
    dr: Interval
    gain: Interval
    """`dr` above `logged`, on the same resamples."""
    effective: float
    unsupported: float
    decisions: int


def estimated(log: Log, expected: Floats, draws: int, seed: int) -> Estimates:
    """All estimates with 95 % intervals, clusters resampled; `expected` [n, k] is an outcome model.

    It must not have seen the row that it speaks of (`outcome_model` has not).
    """
    rows = np.arange(len(log.arm))
    w = log.weights
    corrected = (log.target * expected).sum(axis=1)
    corrected += w * (log.outcome - expected[rows, log.arm])
    gained = w * log.outcome

    def measure(weighed: Floats) -> Mapping[str, Floats]:
        total = weighed.sum(axis=1)
        kept = weighed @ w
        return {
            "logged": weighed @ log.outcome / total,
            "ips": weighed @ gained / total,
            "snips": np.divide(
                weighed @ gained, kept, out=np.full_like(total, np.nan), where=kept > 0
            ),
            "dr": weighed @ corrected / total,
        }

    values, drawn = resampled(measure, 0 * log.clusters, draws, seed, log.clusters)
    of = {name: interval(values[name], drawn[name]) for name in values}
    gain = interval(values["dr"] - values["logged"], drawn["dr"] - drawn["logged"])
    squares = float((w**2).sum())
    return Estimates(
        **of,
        gain=gain,
        effective=float(w.sum() ** 2 / squares) if squares else 0.0,
        unsupported=log.unsupported,
        decisions=len(rows),
    )


def outcome_model(log: Log, features: Floats, seed: int) -> Floats:
    """Each arm's expected outcome on each row, [n, k]: ridge on `features` [n, d], cross-fitted.

    A row is told by models that were fitted to other clusters. An arm with fewer than `FEWEST`
    rows expects its mean, one with none the mean of all.
    """
    kinds = int(log.clusters.max()) + 1
    fold = np.random.default_rng(seed).permutation(kinds)[log.clusters] % min(SPLITS, kinds)
    expected = np.empty_like(log.logged)
    for number in np.unique(fold):
        out = fold == number
        into = ~out if not out.all() else out
        for arm in range(log.logged.shape[1]):
            mine = into & (log.arm == arm)
            outcome = log.outcome[mine if mine.any() else into]
            if mine.sum() < FEWEST:
                expected[out, arm] = outcome.mean()
            else:
                expected[out, arm] = _ridge(features[mine], outcome, features[out])
    return expected


def _ridge(known: Floats, outcome: Floats, asked: Floats) -> Floats:
    """Linear, with a free constant, and within what was seen."""
    middle, mean = known.mean(axis=0), outcome.mean()
    centred = known - middle
    gram = centred.T @ centred + RIDGE * np.eye(known.shape[1])
    slope = np.linalg.solve(gram, centred.T @ (outcome - mean))
    found: Floats = np.clip(mean + (asked - middle) @ slope, outcome.min(), outcome.max())
    return found
