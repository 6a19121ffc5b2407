"""The picture of a calibration: accuracy over cost, and what more samples come to by the bar alone.

Knows figures and matplotlib, which comes with the `train` extra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from policies.training.sampling.trial import Worth
from policies.verdicts.calibrated import Cap

__all__ = ["draw"]

_SIZE = (9.0, 4.4)
"""Inches; at the resolution below it fits a page of documentation."""
_DOTS_PER_INCH = 120


def draw(
    curve: Sequence[Worth], chosen: Worth, beside: Mapping[str, Worth], cap: Cap, file: Path
) -> None:
    """Write the picture to `file`; raises `OSError`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    points = sorted((float(one.cost.mean()), 100 * float(one.right.mean())) for one in curve)
    left.plot(*zip(*points, strict=True), "-", color="C0", label="plans, held out")
    for name, one in {"this plan": chosen, **beside}.items():
        accuracy, cost = one.accuracy, one.mean_cost
        spread = [
            [100 * (accuracy.value - accuracy.low)],
            [100 * (accuracy.high - accuracy.value)],
        ]
        color = "C3" if one is chosen else "grey"
        at = (cost.value, 100 * accuracy.value)
        left.errorbar(*at, yerr=spread, fmt="s", color=color, markersize=4, capsize=2)
        left.annotate(name, at, xytext=(5, -9), textcoords="offset points", fontsize=7)
    left.set_xlabel("cost (large answers)")
    left.set_ylabel("right answers (%), with 95 % intervals")
    left.grid(alpha=0.3)
    left.legend(loc="lower right")
    numbers = range(1, len(cap.accuracy) + 1)
    right.plot(numbers, [100 * accuracy for accuracy in cap.accuracy], "o-", markersize=3)
    right.axvline(cap.most, color="grey", linestyle=":", label=f"cap: {cap.most}")
    right.set_xticks(range(1, len(cap.accuracy) + 1, 3))
    right.set_xlabel(f"samples, by the bar {cap.bar:g} alone")
    right.set_ylabel("right answers (%)")
    right.grid(alpha=0.3)
    costs = right.twinx()
    costs.plot(numbers, cap.cost, "--", color="C1")
    costs.set_ylabel("cost (large answers), dashed")
    right.legend(loc="lower right")
    figure.savefig(file, dpi=_DOTS_PER_INCH)
