"""The picture of `tandem bench backend`: seconds foretold over seconds measured, as a PNG.

Knows what was found and matplotlib, which comes with the `train` extra.
"""

from __future__ import annotations

from pathlib import Path

from app.bench.backend_measure import Found

SIZE = (5.5, 5.0)
"""Inches."""
DOTS_PER_INCH = 130


def draw(found: Found, file: Path) -> None:
    """A point for each pair of lengths; on the line the model is right. Raises `OSError`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    model = found.fitted.idealised
    ends = []
    for label, points, style in (
        ("fitted", found.used, "o"),
        ("not used in the fit", found.kept, "s"),
    ):
        x = [one.median for one in points]
        low = [one.median - min(one.seconds) for one in points]
        high = [max(one.seconds) - one.median for one in points]
        y = [model.seconds(one.usage) for one in points]
        axes.errorbar(x, y, xerr=(low, high), fmt=style, label=label, markersize=4, elinewidth=0.6)
        ends += [*x, *y]
    line = [min(ends), max(ends)]
    axes.plot(line, line, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("measured (s): median, smallest to largest")
    axes.set_ylabel("foretold (s)")
    axes.set_title(f"{found.model}: median error {found.median_error:.1%}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    figure.savefig(file, dpi=DOTS_PER_INCH)
