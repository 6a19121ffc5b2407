"""The picture of a gate: how much of what matters it finds, for how many tokens it stops at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from policies.training.token_gate.threshold import Choice

_SIZE = (6.0, 4.0)
"""Inches; at the resolution below it fits a page of documentation."""
_DOTS_PER_INCH = 120


def draw(choices: Sequence[Choice], chosen: Choice, title: str, file: Path) -> None:
    """Recall over positive rate, the chosen threshold marked, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rates = [100 * choice.positive_rate for choice in choices]
    axes.plot(rates, [100 * choice.recall for choice in choices], label="gate")
    axes.plot([0, 100], [0, 100], linestyle=":", color="grey", label="random")
    mark = f"threshold {chosen.threshold:.2f}"
    axes.plot([100 * chosen.positive_rate], [100 * chosen.recall], "o", label=mark)
    axes.set_xlabel("tokens written by the large model (%)")
    axes.set_ylabel("divergent tokens found (%)")
    axes.set_title(title)
    axes.set_xlim(0, max(25.0, 1.2 * 100 * chosen.positive_rate))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=_DOTS_PER_INCH)
