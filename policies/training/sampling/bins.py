"""Bins of a mark: few of them, cut where the chance of a right answer changes.

From fine quantiles neighbours are merged, those first of which the least is lost: the likelihood of
right and wrong under their two chances against that under their common one (as ChiMerge does with
its own statistic, Kerber 1992). So many bins go where a mark tells much and few where it does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.training.sampling.orders import Floats

FINEST = 40
"""Quantiles to begin with."""
DIGITS = 6
"""Significant ones of a cut: it is written down so, and must be what was fitted."""


@dataclass(frozen=True, slots=True)
class Fineness:
    """At most so many bins, each of the weight of so many prompts at least."""

    most: int = 14
    least: float = 20.0


USUAL = Fineness()


def cuts_of(marks: Floats, right: Floats, weight: float, fineness: Fineness) -> tuple[float, ...]:
    """Where to cut these marks, each `right` (0 to 1) or not and weighing `weight` prompts.

    A mark at a cut belongs to the bin above it.
    """
    edges = _edges(marks)
    place = np.searchsorted(edges, marks, side="right")
    weights = np.asarray(np.bincount(place, minlength=len(edges) + 1) * weight, np.float64)
    hits = np.asarray(np.bincount(place, right, minlength=len(edges) + 1) * weight, np.float64)
    kept = [*edges]
    while kept:
        light = weights < fineness.least
        if len(weights) <= fineness.most and not light.any():
            break
        lost = _lost(weights, hits)
        if light.any():  # only what would rid us of a bin that is too light
            lost = np.where(light[:-1] | light[1:], lost, np.inf)
        at = int(np.argmin(lost))
        weights, hits = _merged(weights, at), _merged(hits, at)
        del kept[at]
    return tuple(kept)


def _edges(marks: Floats) -> list[float]:
    """Between distinct values where there are few, at quantiles where there are many."""
    values = np.unique(marks)
    if len(values) <= FINEST:
        found = (values[:-1] + values[1:]) / 2
    else:
        found = np.quantile(marks, np.linspace(0, 1, FINEST + 1)[1:-1])
    return sorted({float(f"{edge:.{DIGITS}g}") for edge in found})


def _lost(weights: Floats, hits: Floats) -> Floats:
    """What the log-likelihood loses if each bin is merged with the next one."""
    apart = _likelihood(weights[:-1], hits[:-1]) + _likelihood(weights[1:], hits[1:])
    return apart - _likelihood(weights[:-1] + weights[1:], hits[:-1] + hits[1:])


def _likelihood(weights: Floats, hits: Floats) -> Floats:
    """Of right and wrong answers under the bin's own chance, half a prompt of each added."""
    chance = (hits + 0.5) / (weights + 1)
    told: Floats = hits * np.log(chance) + (weights - hits) * np.log(1 - chance)
    return told


def _merged(values: Floats, at: int) -> Floats:
    return np.concatenate([values[:at], [values[at] + values[at + 1]], values[at + 2 :]])
