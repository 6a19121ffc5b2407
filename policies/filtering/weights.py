"""Weights: from marks to who goes on, and how many times. Numbers in, numbers out.

A mark is a probability, and its particle's weight its odds (arXiv 2502.01618, section 3: a softmax
of the inverse sigmoid of the reward). Resampling is systematic: one draw places as many evenly
spaced points as there are particles, so that none gets more than one copy more or less than its
weight says. How uneven weights are is told by the effective sample size (Kong, Liu and Wong, JASA
1994).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

SUREST = 1e-6
"""As near as a mark is taken to 0 and to 1, where odds end."""

HIGHEST = 1 - 2.0**-32
"""The highest draw that stays below the next whole number when a count is added to it."""


def weights_of(marks: Sequence[float], softness: float = 1.0) -> list[float]:
    """Of marks from 0 to 1; they sum to 1. The higher the softness, the more alike they are."""
    logits = [_logit(mark) / softness for mark in marks]
    highest = max(logits)
    odds = [math.exp(logit - highest) for logit in logits]
    whole = math.fsum(odds)
    return [one / whole for one in odds]


def effective(weights: Sequence[float]) -> float:
    """How many particles of equal weight these are worth: 1 to as many as there are."""
    return 1.0 / math.fsum(weight * weight for weight in weights)


def survivors(weights: Sequence[float], draw: float) -> list[int]:
    """The places of those that go on, in their order, each as often as it is copied.

    `draw` is uniform in [0, 1). A weight w of n gets either the whole part of n*w or one copy more.
    """
    number, draw = len(weights), min(draw, HIGHEST)
    reached = list(accumulate(weights))
    reached[-1] = math.inf  # rounding must not leave the last point without a particle
    at, chosen = 0, list[int]()
    for point in range(number):
        while reached[at] <= (draw + point) / number:
            at += 1
        chosen.append(at)
    return chosen


def _logit(mark: float) -> float:
    kept = min(max(mark, SUREST), 1.0 - SUREST)
    return math.log(kept / (1.0 - kept))
