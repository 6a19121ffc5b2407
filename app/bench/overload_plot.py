"""The picture of `tandem bench overload`: goodput over offered load, as a PNG.

Knows points and matplotlib, which comes with the `train` extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from app.bench.overload_measure import WAYS, Point

SIZE = (8.0, 4.5)
"""Inches; at the resolution below it fills a page of documentation."""
DOTS_PER_INCH = 130
SHOWN = {
    "unlimited": "no limit",
    "queue": "queue",
    "overload": "queue, and a smaller model",
}
"""What the lines are called."""


def draw(points: Sequence[Point], file: Path) -> None:
    """A line for each configuration."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    loads = sorted({point.load for point in points})
    for way in WAYS:
        several = [[p.good for p in points if (p.way, p.load) == (way, load)] for load in loads]
        middle = [median(values) for values in several]
        low = [mid - min(values) for mid, values in zip(middle, several, strict=True)]
        high = [max(values) - mid for mid, values in zip(middle, several, strict=True)]
        axes.errorbar(
            loads, middle, yerr=(low, high), fmt="o-", label=SHOWN[way], markersize=4, capsize=2
        )
    axes.set_xlabel("offered load (times the large model's capacity)")
    axes.set_ylabel("answers in time, per second")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    figure.savefig(file, dpi=DOTS_PER_INCH)
