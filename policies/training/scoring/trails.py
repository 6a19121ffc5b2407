"""Trails: a ranking as a walk from every row's cheapest answer to its dearest, best steps first.

Whoever expects a score of each model can rank all changes of a model on any row by what a unit of
cost is expected to bring. Walking down that ranking gives one operating point after the other: of
two models, the large one's share grows from 0 to 100 %. Steps that are expected to bring the same
are taken together, as a straight line: the mean over every order in which they could be taken, so
that no figure depends on the order of the rows.

Arrays are named by their sizes: n rows, k models, b resamples, e steps, g groups of equal steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Integers", "Trail", "at", "means", "ranked", "trail", "walked"]

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Trail:
    """`start` [n]: each row's first model. Step i changes `rows`[i] from `before` to `after`.

    `groups` [g] are the places in these [e] arrays at which a group of equal steps begins.
    """

    start: Integers
    rows: Integers
    before: Integers
    after: Integers
    groups: Integers


def trail(expected: Floats, costs: Floats, *, rising: bool = False) -> Trail:
    """The walk along each row's upper hull of expected score over cost, [n, k] both.

    Per row this is the concave hull, from its cheapest model (of several the one expected to do
    best) to its dearest, or, if `rising`, only as far as the expected score rises. Each step is the
    one with the steepest slope, the longest of equal ones.
    """
    rows = np.arange(len(expected))
    current = np.lexsort((-expected, costs), axis=1)[:, 0]
    start = current.copy()
    steps: list[tuple[Integers, Integers, Integers, Floats]] = []
    for _ in range(expected.shape[1] - 1):
        further = costs - costs[rows, current][:, None]
        gain = expected - expected[rows, current][:, None]
        slopes = np.divide(gain, further, out=np.full_like(gain, -np.inf), where=further > 0)
        steepest = slopes.max(axis=1)
        longest = np.where(slopes == steepest[:, None], further, -np.inf).argmax(axis=1)
        goes = np.isfinite(steepest) & ((steepest > 0) | (not rising))
        if not goes.any():
            break
        moved = np.flatnonzero(goes)
        steps.append((moved, current[moved], longest[moved], steepest[moved]))
        current = np.where(goes, longest, current)
    return _sorted(start, steps)


def ranked(scores: Floats) -> Trail:
    """The walk from model 0 on all rows to model 1, the highest of `scores` [n] first."""
    rows = np.arange(len(scores))
    ones = np.ones(len(scores), dtype=np.intp)
    return _sorted(0 * ones, [(rows, 0 * ones, ones, scores)])


def _sorted(start: Integers, steps: list[tuple[Integers, Integers, Integers, Floats]]) -> Trail:
    if not steps:
        none = np.zeros(0, dtype=np.intp)
        return Trail(start, none, none, none, none)
    rows, before, after = (np.concatenate([step[part] for step in steps]) for part in range(3))
    slopes = np.concatenate([step[3] for step in steps])
    order = np.argsort(-slopes, kind="stable")
    slopes = slopes[order]
    groups = np.flatnonzero(np.r_[True, slopes[1:] != slopes[:-1]])
    return Trail(start, rows[order], before[order], after[order], groups)


def means(values: Floats, weights: Floats) -> Floats:
    """The mean of `values` [n] or [n, k] under each resample's `weights` [b, n]: [b] or [b, k]."""
    total = weights.sum(axis=1)
    found: Floats = (weights @ values) / (total if values.ndim == 1 else total[:, None])
    return found


def walked(walk: Trail, values: Floats, weights: Floats) -> Floats:
    """The mean of `values` [n, k] before the first group of steps and after each: [b, g + 1]."""
    rows = np.arange(len(values))
    first = means(values[rows, walk.start], weights)[:, None]
    if not len(walk.groups):
        return first
    change = values[walk.rows, walk.after] - values[walk.rows, walk.before]
    steps = weights[:, walk.rows]
    steps *= change
    grouped = np.add.reduceat(steps, walk.groups, axis=1)
    np.cumsum(grouped, axis=1, out=grouped)
    grouped /= weights.sum(axis=1)[:, None]
    return np.concatenate([first, first + grouped], axis=1)


def at(places: Floats, along: Floats, values: Floats) -> Floats:
    """`values` [b, p] where `along` [b, p], which never falls, reaches `places` [b]: [b].

    A straight line between two points; outside of them the nearest one's value.
    """
    found = [np.interp(x, xs, ys) for x, xs, ys in zip(places, along, values, strict=True)]
    return np.asarray(found, dtype=np.float64)
