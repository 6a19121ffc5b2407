"""How sure a figure is: the bootstrap, in pairs.

Rows are drawn anew with replacement, as many as there are, within each task where there are tasks;
everything is measured on the same draws, so that the interval of a difference is that of the
difference. A resample is a weight per row: how often it was drawn. Rows that belong together (one
session's) are drawn together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from policies.training.calibrate import ENDS, Interval
from policies.training.scoring.trails import Floats, Integers

__all__ = ["Figures", "difference", "interval", "resampled", "weights"]

Figures = Mapping[str, Floats]
"""Figures by name, each [b]: one value per resample."""
AT_ONCE = 2_000_000
"""Weights in memory at a time: 16 MB, and some arrays of that size beside them."""


def weights(
    strata: Integers, draws: int, seed: int, clusters: Integers | None = None
) -> Iterator[Floats]:
    """`draws` resamples as weights, in portions [b, n]; `strata` [n] numbers each row's task.

    With `clusters` [n] (numbers from 0) whole clusters are drawn, and there are no strata.
    """
    rng = np.random.default_rng(seed)
    rows = len(strata)
    if clusters is not None:
        parts = [np.arange(int(clusters.max()) + 1)]
    else:
        parts = [np.flatnonzero(strata == number) for number in np.unique(strata)]
    units = sum(len(part) for part in parts)
    portion = max(1, AT_ONCE // max(rows, 1))
    for begin in range(0, draws, portion):
        drawn = np.zeros((min(portion, draws - begin), units))
        for number in range(len(drawn)):
            chosen = [part[rng.integers(0, len(part), len(part))] for part in parts]
            drawn[number] = np.bincount(np.concatenate(chosen), minlength=units)
        yield drawn if clusters is None else drawn[:, clusters]


def resampled(
    measure: Callable[[Floats], Figures],
    strata: Integers,
    draws: int,
    seed: int,
    clusters: Integers | None = None,
) -> tuple[Mapping[str, float], Figures]:
    """What `measure` says of the rows as they are, and of each resample."""
    values = {name: float(found[0]) for name, found in measure(np.ones((1, len(strata)))).items()}
    portions: dict[str, list[Floats]] = {name: [] for name in values}
    for portion in weights(strata, draws, seed, clusters):
        for name, found in measure(portion).items():
            portions[name].append(found)
    empty: Sequence[Floats] = [np.zeros(0)]
    return values, {name: np.concatenate(found or empty) for name, found in portions.items()}


def interval(value: float, draws: Floats) -> Interval:
    """A figure with its 95 % interval: percentiles of its resamples, NaN if there are none."""
    known = draws[~np.isnan(draws)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(known, ENDS)
    return Interval(value, float(low), float(high))


def difference(values: Mapping[str, float], draws: Figures, one: str, other: str) -> Interval:
    """How far `one` is above `other`, with the interval of that difference."""
    return interval(values[one] - values[other], draws[one] - draws[other])
