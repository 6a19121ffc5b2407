"""The picture of a confusion: which tasks are taken for which, as a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from policies.reading.documents import TASKS

__all__ = ["draw"]

_SIDE = 3.4
"""Inches of one panel; at the resolution below two of them fit a page of documentation."""
_DOTS_PER_INCH = 110


def draw(panels: Mapping[str, Sequence[Sequence[int]]], file: Path) -> None:
    """Confusions by title, rows of true tasks and columns of told ones; raises OSError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIDE * len(panels), _SIDE), layout="constrained")
    FigureCanvasAgg(figure)
    for at, (title, counts) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), at)
        shares = [[count / max(sum(row), 1) for count in row] for row in counts]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for y, row in enumerate(counts):
            for x, count in enumerate(row):
                colour = "white" if shares[y][x] > 0.5 else "black"
                axes.text(x, y, str(count), ha="center", va="center", size=8, color=colour)
        axes.set_xticks(range(len(TASKS)), TASKS, size=7)
        axes.set_yticks(range(len(TASKS)), TASKS, size=7)
        axes.set_xlabel("told", size=8)
        axes.set_ylabel("true", size=8)
        axes.set_title(title, size=8)
    figure.savefig(file, dpi=_DOTS_PER_INCH)
