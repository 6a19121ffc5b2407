"""The picture of `tandem bench pair`: accuracy over average activated parameters, as a PNG.

Knows rows and matplotlib, which comes with the `train` extra.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from app.bench.pair_rows import Row

SIZE = (8.0, 5.0)
"""Inches; at the resolution below it fills a page of documentation."""
DOTS_PER_INCH = 130
TICKS = (0.06, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Millions of parameters: from the small model to the large one, evenly by their ratio."""


def draw(rows: Sequence[Row], file: Path) -> None:
    """A line per policy that was measured at several settings, a point per other one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for line, points in _lines(rows):
        x = [point.avg_params for point in points]
        y = [100 * point.accuracy for point in points]
        low = [100 * (point.accuracy - point.accuracy_low) for point in points]
        high = [100 * (point.accuracy_high - point.accuracy) for point in points]
        style = "o-" if len(points) > 1 else "s"
        axes.errorbar(
            x, y, yerr=(low, high), fmt=style, label=line, markersize=4, elinewidth=0.6, capsize=2
        )
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.set_xlabel("activated parameters per token (millions)")
    axes.set_ylabel("right answers (%), with 95 % intervals")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=DOTS_PER_INCH)


def _lines(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Each policy's rows, from the smallest to the largest cost."""
    for line in dict.fromkeys(row.line for row in rows):
        own = [row for row in rows if row.line == line]
        yield line, sorted(own, key=lambda row: row.avg_params)
