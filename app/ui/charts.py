"""Lines and areas over time, as paths in a box of `WIDTH` x `HEIGHT`, drawn before they are sent.

A chart is stretched to the width that there is, so there is no text in it: its labels are HTML
beside it, and `told` says in words what it shows. Lines differ in their dashes and areas in their
order, not in colour alone; classes, and not styles, name the colours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor, log10

__all__ = ["Area", "Chart", "Line", "areas", "lines"]

WIDTH, HEIGHT = 600, 100
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""An axis ends at one of these times a power of ten."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing to draw: a value for each step, None where there was nothing."""

    name: str
    style: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Area:
    """A line as it is drawn: `line` and `fill` are SVG paths, `latest` its last value in words."""

    name: str
    style: str
    line: str
    fill: str
    latest: str


@dataclass(frozen=True, slots=True)
class Chart:
    """All that a template needs. `top` and `middle` label the axis, which begins at 0."""

    title: str
    unit: str
    told: str
    top: str
    middle: str
    areas: Sequence[Area]
    empty: bool


def lines(
    title: str, unit: str, several: Sequence[Line], say: Callable[[float | None], str]
) -> Chart:
    """Lines over one another, from a common 0."""
    return _chart(title, unit, several, [line.values for line in several], say)


def areas(
    title: str, unit: str, several: Sequence[Line], say: Callable[[float | None], str]
) -> Chart:
    """Areas on top of one another: the upper edge is the sum."""
    upto: list[float] = [0.0] * max((len(line.values) for line in several), default=0)
    edges = []
    for line in several:
        upto = [below + (value or 0.0) for below, value in zip(upto, line.values, strict=True)]
        edges.append(upto)
    return _chart(title, unit, several, edges, say, stacked=True)


def _chart(
    title: str,
    unit: str,
    several: Sequence[Line],
    edges: Sequence[Sequence[float | None]],
    say: Callable[[float | None], str],
    *,
    stacked: bool = False,
) -> Chart:
    known = [value for edge in edges for value in edge if value is not None]
    highest = max(known, default=0.0)
    top = ceiling(highest)
    drawn, below = [], None
    for line, edge in zip(several, edges, strict=True):
        points = _points(edge, top)
        fill = _fill(points, below) if stacked else ""
        latest = next((v for v in reversed(line.values) if v is not None), None)
        drawn.append(Area(line.name, line.style, _path(points), fill, say(latest)))
        below = points if stacked else None
    told = ", ".join(f"{area.name} {area.latest}" for area in drawn) or "nothing"
    words = f"{title}, {unit}: at most {say(highest)}; at the end {told}."
    return Chart(title, unit, words, say(top), say(top / 2), drawn, empty=not highest)


def ceiling(value: float) -> float:
    """The end of an axis that has room for `value`: 1, 2, 2.5 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    size = 10.0 ** floor(log10(value))
    return next(step * size for step in STEPS if step * size >= value * 0.999)


Point = tuple[float, float]


def _points(values: Sequence[float | None], top: float) -> list[Point | None]:
    wide = WIDTH / max(len(values) - 1, 1)
    return [
        None if value is None else (at * wide, HEIGHT - HEIGHT * value / top)
        for at, value in enumerate(values)
    ]


def _path(points: Sequence[Point | None]) -> str:
    """A line with a gap where a point is missing; a lonely point is a short dash."""
    parts: list[str] = []
    for before, point in pairwise([None, *points]):
        if point is not None:
            parts.append(f"{'L' if before else 'M'}{_at(point)}{'' if before else 'h1'}")
    return "".join(parts)


def _fill(points: Sequence[Point | None], below: Sequence[Point | None] | None) -> str:
    upper = [point for point in points if point is not None]
    if not upper:
        return ""
    lower = [point for point in below or () if point is not None]
    if not lower:
        lower = [(0.0, float(HEIGHT)), (float(WIDTH), float(HEIGHT))]
    back = [*upper, *reversed(lower)]
    return "M" + "L".join(map(_at, back)) + "Z"


def _at(point: Point) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"
