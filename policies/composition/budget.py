"""Budgets: from expected qualities to a choice, under a limit that is set while Tandem runs.

What each expert is worth for a prompt is weighed against what it costs: the choice is the expert
with the largest `quality - rate x cost`. A rate is found for any budget by trying it on the
reference rows that the artifact stores: prompts whose qualities were predicted by models that had
not seen them, with the scores that the experts really got. So a budget is met on average for
prompts like those, and needs no training of its own. A bound on the risk of doing worse than the
strongest expert is found on the same rows. Pure functions over arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Reals: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.int64]

BISECTIONS = 60
"""Halvings of the interval that holds the rate: as exact as a float."""
THRESHOLDS = 200
"""Margins that a risk bound tries, at even quantiles of what is expected."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Rows to try a budget on: `predicted` [rows, experts], and the `actual` scores, NaN where
    nobody knows.
    """

    predicted: Reals
    actual: Reals


@dataclass(frozen=True, slots=True)
class Bound:
    """What a risk bound came to: the `margin` over the strongest expert from which another is
    taken, and on the reference rows how often that was worse, and how often another was taken.
    """

    margin: float
    worse: float
    others: float
    rows: int


def chosen(quality: Reals, costs: Reals, rate: float) -> Indices:
    """The expert with the largest `quality - rate * cost` for each row; of equal ones the cheaper.

    `quality` is [rows, experts], `costs` [experts].
    """
    cheap_first = np.argsort(costs, kind="stable")
    worth = quality[:, cheap_first] - rate * costs[cheap_first]
    best: Indices = cheap_first[np.argmax(worth, axis=1)]
    return best


def mean_cost(quality: Reals, costs: Reals, rate: float) -> float:
    """What the choices at this rate cost on average."""
    return float(costs[chosen(quality, costs, rate)].mean())


def rate_for(quality: Reals, costs: Reals, budget: float) -> float:
    """The smallest rate at which the mean cost is within `budget`.

    With a budget of the cheapest expert's cost it is the rate at which no other is worth it on any
    row, these or new ones. Raises ValueError for a budget below.
    """
    cheapest = float(costs.min())
    if budget < cheapest * (1 - 1e-9):
        raise ValueError(f"{budget:g} is less than the cheapest expert costs, {cheapest:g}")
    apart = np.diff(np.unique(costs))
    if not apart.size:
        return 0.0
    low, high = 0.0, 2.0 / float(apart.min())  # qualities lie within 1: no dearer one is worth this
    if budget <= cheapest:
        return high
    if mean_cost(quality, costs, low) <= budget:
        return low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if mean_cost(quality, costs, middle) <= budget:
            high = middle
        else:
            low = middle
    return high


def at_margin(quality: Reals, costs: Reals, strong: int, margin: float) -> Indices:
    """The cheapest expert that is expected to score at least `margin` more than the strongest.

    A margin below 0 lets it score less; where none does, it is the strongest itself. Of equally
    cheap ones it is the one with the best quality for the row. [rows]
    """
    enough = quality - quality[:, [strong]] >= margin
    enough &= costs <= costs[strong]
    enough[:, strong] = True
    priced = np.where(enough, costs, np.inf)
    cheapest = priced == priced.min(axis=1, keepdims=True)
    best: Indices = np.where(cheapest, quality, -np.inf).argmax(axis=1)
    return best


def bound(
    reference: Reference, costs: Reals, strong: int, worse: float, confidence: float
) -> Bound:
    """The lowest margin at which answers worse than the strongest expert's are at most the share
    `worse` of all, with this confidence.

    Margins are tried from the safest down until one fails an exact binomial test at 1 -
    `confidence` (fixed-sequence testing: Angelopoulos et al., Learn then Test, arXiv 2110.01052,
    sections 3 and 4; for a loss of 0 or 1, conformal risk control with a probability in place of
    an expectation). Rows on which either score is unknown are left out.
    """
    quality, actual = reference.predicted, reference.actual
    gaps = (quality - quality[:, [strong]])[:, [n for n in range(len(costs)) if n != strong]]
    margins = np.unique(np.quantile(gaps, np.linspace(1, 0, THRESHOLDS)))[::-1]
    best = Bound(math.inf, 0.0, 0.0, len(quality))
    for margin in margins:
        at = at_margin(quality, costs, strong, float(margin))
        loss = actual[np.arange(len(at)), at] - actual[:, strong]
        known = loss[~np.isnan(loss)]
        count = int((known < 0).sum())
        if not len(known) or binomial(count, len(known), worse) > 1 - confidence:
            break
        others = float((at != strong).mean())
        best = Bound(float(margin), count / len(known), others, len(known))
    return best


def binomial(most: int, trials: int, chance: float) -> float:
    """The probability of `most` successes or fewer in so many trials."""
    if chance <= 0 or most >= trials:
        return 1.0
    if chance >= 1:
        return 0.0
    counts = range(most + 1)
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(chance)
        + (trials - count) * math.log1p(-chance)
        for count in counts
    ]
    largest = max(logs)
    return min(1.0, math.exp(largest) * math.fsum(math.exp(log - largest) for log in logs))
