"""Two models: how much of what the large one has ahead of the small one a ranking recovers.

RouteLLM (arXiv 2406.18665), section 2.3: with r the mean score of the routed answers,

    PGR    = (r - r_small) / (r_large - r_small), at one share of calls to the large model
    APGR   = the mean of PGR over the shares 0 to 100 %: here the exact integral, not ten points
    CPT(x) = the smallest share of calls to the large model at which PGR reaches x

A router that draws lots has PGR equal to the share, so APGR 0.5 and CPT(x) = x. Where the large
model is not better, none of them means anything: NaN.
"""

from __future__ import annotations

import numpy as np

from policies.training.scoring.trails import Floats

__all__ = ["apgr", "cpt", "pgr"]


def pgr(quality: Floats) -> Floats:
    """Performance gap recovered along a walk from the small to the large model, [b, p] both."""
    small, large = quality[:, :1], quality[:, -1:]
    gap = large - small
    return np.divide(quality - small, gap, out=np.full_like(quality, np.nan), where=gap > 0)


def apgr(shares: Floats, recovered: Floats) -> Floats:
    """The integral of `recovered` over `shares`, [b, p] both, from 0 to 1: [b]."""
    middle = (recovered[:, 1:] + recovered[:, :-1]) / 2
    area: Floats = (middle * np.diff(shares, axis=1)).sum(axis=1)
    return area


def cpt(level: float, shares: Floats, recovered: Floats) -> Floats:
    """The smallest share at which `recovered` is `level` (above 0, at most 1), [b, p] both: [b].

    A straight line between two points. A walk ends at 1, so every level is reached.
    """
    there = recovered >= level - 1e-12  # rounding: the last point may be a hair below 1
    first = there.argmax(axis=1)
    rows = np.arange(len(shares))
    before = np.maximum(first - 1, 0)
    rise = recovered[rows, first] - recovered[rows, before]
    missing = level - recovered[rows, before]
    part = np.divide(missing, rise, out=np.zeros_like(rise), where=rise > 0)
    low, high = shares[rows, before], shares[rows, first]
    return np.where(there.any(axis=1), low + np.clip(part, 0, 1) * (high - low), np.nan)
