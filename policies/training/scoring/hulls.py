"""Many models: quality over cost, its hull, and the area below it.

RouterBench (arXiv 2403.12031), section 3: mixing two operating points by lot reaches every point on
the line between them, so a router is worth the *non-decreasing convex hull* of its points: the
least concave function above them that never falls. Three things follow.

    Zero router  the hull of the single models: what drawing lots between them gives
    AIQ          the area under the hull between two costs, divided by their difference
    oracle       the hull of all ways of giving each row a model, knowing every score

The oracle's is exact: each row's own hull is walked by slope (`trails`), which is the best that any
sum of costs can buy.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from policies.training.scoring.trails import Floats

__all__ = ["Hull", "aiq", "best_single", "height", "hull", "thinned"]

Hull: TypeAlias = tuple[Floats, Floats]
"""Costs that rise, and the quality at each, which does not fall."""
POINTS = 200
"""Of a curve, as far as its hull goes: more change no figure's third digit."""


def hull(costs: Floats, quality: Floats) -> Hull:
    """The non-decreasing hull of these points, [p] both; it begins at the cheapest."""
    order = np.lexsort((-quality, costs))
    xs = costs[order].tolist()
    ys = np.maximum.accumulate(quality[order]).tolist()
    kept: list[tuple[float, float]] = []
    for x, y in zip(xs, ys, strict=True):
        if kept and x <= kept[-1][0]:
            continue
        while len(kept) > 1 and _below(kept[-2], kept[-1], (x, y)):
            kept.pop()
        kept.append((x, y))
    return np.asarray([x for x, _ in kept]), np.asarray([y for _, y in kept])


def _below(
    left: tuple[float, float], point: tuple[float, float], right: tuple[float, float]
) -> bool:
    """Whether `point` lies on or below the line from `left` to `right`."""
    rise = (right[1] - left[1]) * (point[0] - left[0])
    return (point[1] - left[1]) * (right[0] - left[0]) <= rise


def height(of: Hull, cost: float) -> float:
    """The hull's quality at `cost`: flat beyond its dearest point, NaN before its cheapest."""
    costs, quality = of
    if cost < costs[0] * (1 - 1e-9):
        return float("nan")
    return float(np.interp(cost, costs, quality))


def aiq(of: Hull, low: float, high: float) -> float:
    """Average improvement in quality: the mean height of the hull between two costs.

    NaN if there is nothing between them. Below the hull's cheapest point its height is that one's.
    """
    if not high > low:
        return float("nan")
    costs, quality = of
    inside = costs[(costs > low) & (costs < high)]
    xs = np.r_[low, inside, high]
    return float(np.trapezoid(np.interp(xs, costs, quality), xs) / (high - low))


def best_single(costs: Floats, quality: Floats, most: float) -> float:
    """The best quality of the models, [k] both, that cost at most `most`; NaN if none does."""
    allowed = costs <= most * (1 + 1e-9)
    return float(quality[allowed].max()) if allowed.any() else float("nan")


def thinned(points: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Which of so many points of a curve to keep: the ends, and `POINTS` evenly between them."""
    return np.unique(np.linspace(0, points - 1, min(points, POINTS + 1)).astype(np.intp))
