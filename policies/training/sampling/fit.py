"""From rows in several orders to a calibration: bins, chances and lengths, smoothed.

A cell (the bin before, the bin now) may have few prompts. So its chances are drawn to those of its
bin whatever came before, and these to those of the stage: each level is a Beta prior (for the next
bins a Dirichlet one) that weighs a fixed number of prompts. Over the bins of a mark the chance of a
right answer is then made to grow with the mark, since a verifier that says more must not be trusted
less by chance: by isotonic regression, and along straight lines between the centres of its level
stretches (centred isotonic regression, Oron and Flournoy 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from policies.training.sampling.bins import USUAL, Fineness, cuts_of
from policies.training.sampling.orders import Floats, Looks
from policies.verdicts.calibrated import Cell, Stage

Bins = npt.NDArray[np.intp]
DIGITS = 6
BIN_WEIGHT = 2.0
"""Prompts that a bin's prior weighs."""
LARGE_WEIGHT = 40.0
"""The same of what the large model does: it differs little from bin to bin, and one wrong answer by
chance would weigh as much as its price.
"""
CELL_WEIGHT = 8.0
"""Prompts that a cell's prior weighs: a bin was reached in different ways, which differ less."""


def stages_of(looks: Looks, fineness: Fineness = USUAL) -> tuple[Stage, ...]:
    """The table after every stage."""
    cuts = [_cuts(looks, stage, fineness) for stage in range(len(looks.totals))]
    bins = [binned(looks.marks[:, :, at], each) for at, each in enumerate(cuts)]
    return tuple(_stage(looks, at, cuts, bins) for at in range(len(cuts)))


def binned(marks: Floats, cuts: tuple[float, ...]) -> Bins:
    """The bin of each mark, as `Stage.bin_of` has it."""
    found = np.searchsorted(np.asarray(cuts), marks, side="right")
    return np.where(np.isnan(marks), len(cuts) + 1, found)


def _cuts(looks: Looks, stage: int, fineness: Fineness) -> tuple[float, ...]:
    marks, right = looks.marks[:, :, stage], looks.right[:, :, stage]
    known = ~np.isnan(marks)
    if not known.any():
        return ()
    return cuts_of(marks[known], right[known], 1 / marks.shape[1], fineness)


@dataclass(frozen=True, slots=True)
class _Cells:
    """Which cell each look is in, and how to sum over the cells: [bins before, bins now]."""

    before: Bins
    now: Bins
    shape: tuple[int, int]

    def sum(self, values: Floats) -> Floats:
        """Of these values [n, o], every order weighing its part of a prompt."""
        flat = self.before.ravel() * self.shape[1] + self.now.ravel()
        weight = 1 / self.now.shape[1]
        summed = np.bincount(flat, values.ravel(), minlength=self.shape[0] * self.shape[1])
        return np.asarray(summed * weight, np.float64).reshape(self.shape)

    def mean(self, values: Floats, of_bin: float = BIN_WEIGHT) -> Floats:
        """The values' mean in each cell, drawn to the bin's, and that to the mean of all."""
        counts, sums = self.sum(np.ones(self.now.shape)), self.sum(values)
        whole = sums.sum() / max(counts.sum(), 1.0)
        of_bins = _drawn(sums.sum(axis=0), counts.sum(axis=0), whole, of_bin)
        return _drawn(sums, counts, of_bins, CELL_WEIGHT)


def _drawn(sums: Floats, counts: Floats, to: Floats | float, weight: float) -> Floats:
    return np.asarray((sums + weight * np.asarray(to)) / (counts + weight), np.float64)


def _stage(looks: Looks, at: int, cuts: list[tuple[float, ...]], bins: list[Bins]) -> Stage:
    now, last = bins[at], at + 1 == len(cuts)
    before = bins[at - 1] if at else np.zeros_like(now)
    cells = _Cells(before, now, (len(cuts[at - 1]) + 2 if at else 1, len(cuts[at]) + 2))
    counts = cells.sum(np.ones(now.shape))
    right = _growing(cells.mean(looks.right[:, :, at]), counts)
    large = cells.mean(_wide(looks.large, now), LARGE_WEIGHT)
    large_tokens = cells.mean(_wide(looks.large_tokens, now), LARGE_WEIGHT)
    if last:
        chances, tokens = np.zeros((*cells.shape, 0)), np.zeros(cells.shape)
    else:
        chances = _chances(cells, bins[at + 1], len(cuts[at + 1]) + 2)
        tokens = cells.mean(looks.tokens[:, :, at + 1])
    rows = tuple(
        tuple(
            Cell(
                count=round(float(counts[place]), DIGITS),
                right=round(float(right[place]), DIGITS),
                large=round(float(large[place]), DIGITS),
                large_tokens=round(float(large_tokens[place]), 3),
                next=tuple(round(float(chance), DIGITS) for chance in chances[place]),
                next_tokens=round(float(tokens[place]), 3),
            )
            for place in ((one, other) for other in range(cells.shape[1]))
        )
        for one in range(cells.shape[0])
    )
    return Stage(looks.totals[at], cuts[at], rows)


def _wide(values: Floats, like: Bins) -> Floats:
    """One value a prompt as one a look."""
    return np.repeat(values[:, None], like.shape[1], axis=1)


def _chances(cells: _Cells, following: Bins, bins: int) -> Floats:
    """[before, now, next bins]."""
    means = [cells.mean((following == one).astype(np.float64)) for one in range(bins)]
    found = np.stack(means, axis=-1)
    return np.asarray(found / found.sum(axis=-1, keepdims=True), np.float64)


def _growing(right: Floats, counts: Floats) -> Floats:
    """The chances [before, now], made to grow over the bins of a mark; no verdict stays apart."""
    found = right.copy()
    for row, weights in zip(found, counts + CELL_WEIGHT, strict=True):
        row[:-1] = _centred(row[:-1], weights[:-1])
    return found


def _centred(chances: Floats, weights: Floats) -> Floats:
    """Centred isotonic regression: where the bins lie by their weight, and level stretches at their
    middles.
    """
    level = np.asarray(isotonic_regression(chances, weights=weights).x, np.float64)
    middles = np.cumsum(weights) - weights / 2
    ends = np.flatnonzero(np.diff(level) > 0) + 1
    stretches = np.split(np.arange(len(level)), ends)
    at = [np.average(middles[stretch], weights=weights[stretch]) for stretch in stretches]
    found = np.interp(middles, at, [level[stretch[0]] for stretch in stretches])
    return np.asarray(found, np.float64)
