"""The picture of `tandem bench pair`: accuracy over cost, as a PNG.

Knows rows and matplotlib, which comes with the `train` extra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.bench.pair_rows import Row

SIZE = (8.0, 5.0)
"""Inches of a panel; at the resolution below it fills a page of documentation."""
DOTS_PER_INCH = 130
PARAMETERS = (0.06, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Millions of parameters: from the small model to the large one, evenly by their ratio."""
COLOURS, MARKERS = 10, "s^vD"
"""As many lines differ by colour; the points of the next ones have another shape."""
COSTS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Parts of what the large model takes alone."""


def draw(rows: Sequence[Row], file: Path) -> None:
    """A line per policy that was measured at several settings, a point per other one; a second
    panel where idealised costs are known.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [Panel("activated parameters per token (millions)", PARAMETERS, _parameters)]
    if any(row.idealised_cost for row in rows):
        panels.append(Panel("idealised cost (large model alone = 1)", COSTS, _cost))
    figure = Figure(figsize=(SIZE[0] * len(panels), SIZE[1]), layout="constrained")
    FigureCanvasAgg(figure)
    several = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(several, panels, strict=True):
        panel.draw(axes, rows)
    several[0].set_ylabel("right answers (%), with 95 % intervals")
    handles, labels = several[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small")
    figure.savefig(file, dpi=DOTS_PER_INCH)


def _parameters(row: Row) -> float | None:
    return row.avg_params


def _cost(row: Row) -> float | None:
    return row.idealised_cost


@dataclass(frozen=True, slots=True)
class Panel:
    """Accuracy over one kind of cost: `axis` says which, `ticks` where its numbers stand."""

    axis: str
    ticks: Sequence[float]
    cost: Callable[[Row], float | None]

    def draw(self, axes: Any, rows: Sequence[Row]) -> None:
        """All lines, on matplotlib's `axes`."""
        for number, (line, points) in enumerate(self._lines(rows)):
            x = [cost for cost, _ in points]
            y = [100 * point.accuracy for _, point in points]
            low = [100 * (point.accuracy - point.accuracy_low) for _, point in points]
            high = [100 * (point.accuracy_high - point.accuracy) for _, point in points]
            style = {
                "fmt": "o-" if len(points) > 1 else MARKERS[number // COLOURS % len(MARKERS)],
                "color": f"C{number % COLOURS}",
                "markersize": 5,
            }
            axes.errorbar(x, y, yerr=(low, high), label=line, elinewidth=0.6, capsize=2, **style)
        axes.set_xscale("log")
        axes.set_xticks(self.ticks, [f"{tick:g}" for tick in self.ticks])
        axes.minorticks_off()
        axes.set_xlabel(self.axis)
        axes.grid(alpha=0.3)

    def _lines(self, rows: Sequence[Row]) -> Iterator[tuple[str, list[tuple[float, Row]]]]:
        """Each policy's rows with their costs, from the smallest to the largest."""
        for line in dict.fromkeys(row.line for row in rows):
            own = [row for row in rows if row.line == line]
            known = [(cost, row) for row in own if (cost := self.cost(row)) is not None]
            yield line, sorted(known, key=lambda point: point[0])
