"""The picture of `tandem bench verifier`: accuracy over the number of samples, as a PNG.

Knows points and matplotlib, which comes with the `train` extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app.bench.verifier_rows import Point

SIZE = (9.0, 4.2)
"""Inches; at the resolution below it fills a page of documentation."""
DOTS_PER_INCH = 130


def draw(points: Sequence[Point], file: Path) -> None:
    """On the left the samples alone, on the right the large model behind them; a line per error."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    for place, large in enumerate((False, True), start=1):
        axes = figure.add_subplot(1, 2, place)
        for error in dict.fromkeys(point.error for point in points):
            own = [point for point in points if (point.error, point.large) == (error, large)]
            most = [point.most for point in own]
            axes.plot(
                most, [100 * p.accuracy for p in own], "o-", markersize=3, label=f"{error:.0%}"
            )
            low = [100 * point.accuracy_low for point in own]
            high = [100 * point.accuracy_high for point in own]
            axes.fill_between(most, low, high, alpha=0.12)
        axes.set_title("then the large model" if large else "samples alone", fontsize=10)
        axes.set_xlabel("samples at most")
        axes.set_ylabel("right answers (%), with 95 % intervals")
        axes.grid(alpha=0.3)
        axes.legend(title="wrong accepted", loc="lower right")
    figure.savefig(file, dpi=DOTS_PER_INCH)
