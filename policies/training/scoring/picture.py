"""The picture of a contest: quality over the large model's share, or over cost, as a PNG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from policies.training.scoring.contest import Band

__all__ = ["Point", "Picture", "draw"]

_SIZE = (7.0, 4.8)
"""Inches; at the resolution below it fits a page of documentation."""
_DOTS_PER_INCH = 120


@dataclass(frozen=True, slots=True)
class Point:
    """Where something stands, with the ends of its quality's 95 % interval."""

    place: float
    quality: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn: curves by name (the policy's with its interval), two bounds, and points."""

    title: str
    axis: str
    curves: Mapping[str, Band]
    lines: Mapping[str, Band]
    singles: Mapping[str, Point]
    policy: Point | None


def draw(picture: Picture, file: Path) -> None:
    """Write the picture to `file`; raises `OSError`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, curve) in enumerate(picture.curves.items()):
        axes.plot(curve.places, curve.quality, label=name, color=f"C{number}", zorder=3)
        if not number:
            axes.fill_between(curve.places, curve.low, curve.high, color="C0", alpha=0.15)
    for grey, (name, line) in zip(("0.55", "0.1"), picture.lines.items(), strict=True):
        axes.plot(line.places, line.quality, ":", label=name, linewidth=1.2, color=grey)
    for name, point in picture.singles.items():
        spread = [[point.quality - point.low], [point.high - point.quality]]
        axes.errorbar([point.place], [point.quality], yerr=spread, fmt="s", color="grey", ms=4)
        axes.annotate(
            name, (point.place, point.quality), xytext=(4, -9), textcoords="offset points", size=6
        )
    if picture.policy is not None:
        own = picture.policy
        spread = [[own.quality - own.low], [own.high - own.quality]]
        axes.errorbar(
            [own.place], [own.quality], yerr=spread, fmt="o", color="C3", label="policy as set"
        )
    axes.set_xlabel(picture.axis)
    axes.set_ylabel("mean score")
    axes.set_title(picture.title, size=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(file, dpi=_DOTS_PER_INCH)
