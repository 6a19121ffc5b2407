"""Finding a threshold: the search over real runs, and how sure one can be of what they show.

A run answers all prompts with one threshold and counts. The higher the threshold, the less the
large model writes; so the one that gives a wanted share is found by halving, and so is the highest
one that keeps a wanted accuracy. Halving needs few runs, each of which costs minutes; it happens on
a scale on which thresholds spread evenly (bits by their ratio, scores by their odds).

Pure sums: must not know a gateway, a file or a policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

DRAWS = 2000
"""Bootstrap samples: the ends of a 95 % interval are then each fixed by 50 of them."""
AT_ONCE = 100
ENDS = (2.5, 97.5)
"""Percentiles between which 95 % lie."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Where a threshold may lie, and how evenly to divide what is between two of them."""

    low: float
    high: float
    stretch: Callable[[float], float]
    shrink: Callable[[float], float]

    def between(self, low: float, high: float) -> float:
        """The middle of two thresholds."""
        return self.shrink((self.stretch(low) + self.stretch(high)) / 2)

    def apart(self, low: float, high: float) -> float:
        """How far apart two thresholds are, the whole scale being 1."""
        whole = self.stretch(self.high) - self.stretch(self.low)
        return (self.stretch(high) - self.stretch(low)) / whole


BITS = Scale(0.001, 8.0, math.log, math.exp)
"""Entropies: from next to nothing to the evenest distribution over 256 tokens."""
SCORES = Scale(0.001, 0.999, lambda p: math.log(p / (1 - p)), lambda x: 1 / (1 + math.exp(-x)))
"""Scores of a learned gate, as probabilities."""
HALF = 0.5
FINEST = 0.004
"""Of the scale: thresholds closer than this differ by less than the prompts' own chance; on the
scale of bits it is a ratio of 1.04."""


@dataclass(slots=True)
class Halving:
    """Searches the threshold at which `too_low` turns from true to false.

    Ask `next`, run, say `heard`, until `next` is None or there is no time for more runs.
    """

    scale: Scale
    low: float = field(init=False)
    high: float = field(init=False)

    def __post_init__(self) -> None:
        self.low, self.high = self.scale.low, self.scale.high

    def next(self) -> float | None:
        """The threshold to try; None when a closer look would tell nothing."""
        if self.scale.apart(self.low, self.high) < FINEST:
            return None
        return _short(self.scale.between(self.low, self.high))

    def heard(self, threshold: float, *, too_low: bool) -> None:
        """What came out at this threshold."""
        if too_low:
            self.low = threshold
        else:
            self.high = threshold


def _short(threshold: float) -> float:
    """Three significant digits, of what is missing to 1 where that is less: people read it."""
    if HALF < threshold < 1:
        return round(1 - float(f"{1 - threshold:.3g}"), 9)
    return float(f"{threshold:.3g}")


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def ratio(over: Sequence[float], under: Sequence[float], seed: int = 0) -> Interval:
    """The ratio of two sums over the same prompts, with a bootstrap interval over prompts.

    Whole prompts are drawn, since the tokens of one answer depend on each other. 0 if `under` sums
    to nothing.
    """
    above, below = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    rng = np.random.default_rng(seed)
    drawn = [_drawn(above, below, rng) for _ in range(DRAWS // AT_ONCE)]
    low, high = np.percentile(np.concatenate(drawn), ENDS)
    return Interval(_over(above.sum(), below.sum()), float(low), float(high))


def _drawn(
    above: npt.NDArray[np.float64], below: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """The ratios of `AT_ONCE` draws."""
    rows = rng.integers(0, len(above), (AT_ONCE, len(above)))
    over, under = above[rows].sum(axis=1), below[rows].sum(axis=1)
    found: npt.NDArray[np.float64] = np.divide(over, under, out=np.zeros(AT_ONCE), where=under != 0)
    return found


def _over(above: float, below: float) -> float:
    return float(above / below) if below else 0.0
