"""A point of `tandem bench verifier`, and the table of all. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHOWN = (1, 2, 4, 8, 16)
"""Numbers of samples in the table; the picture has all of them."""


@dataclass(frozen=True, slots=True)
class Point:
    """Sampling until a verifier accepts, at most `most` times, then the large model or nobody.

    `error` is how probable it is that the verifier accepts a wrong sample. `accuracy` with its 95 %
    interval; `avg_params` in millions of parameters per token of the answer; `accepted` is how
    often any sample was accepted, and `deceived` how often a wrong one.
    """

    error: float
    large: bool
    most: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    accepted: float
    deceived: float
    avg_params: float


def best(points: Sequence[Point], error: float, *, large: bool) -> Point:
    """The point with the highest accuracy; of equal ones that with the fewest samples."""
    own = [point for point in points if (point.error, point.large) == (error, large)]
    return max(own, key=lambda point: (point.accuracy, -point.most))


def table(points: Sequence[Point]) -> str:
    """Accuracy by the number of samples, a row per error, as Markdown."""
    lines = []
    for large in (False, True):
        for error in dict.fromkeys(point.error for point in points):
            own = {p.most: p for p in points if (p.error, p.large) == (error, large)}
            cells = [f"{own[most].accuracy:.1%}" for most in SHOWN if most in own]
            top = best(points, error, large=large)
            last = own[max(own)]
            low, high = last.accuracy_low, last.accuracy_high
            lines.append(
                f"| {error:.0%} | {'large' if large else 'nobody'} | {' | '.join(cells)} "
                f"({low:.1%} to {high:.1%}) | {top.most} | {last.deceived:.1%} "
                f"| {last.avg_params:.3f} |"
            )
    counts = [most for most in SHOWN if most in {point.most for point in points}]
    head = " | ".join(f"at most {most}" for most in counts)
    title = f"| wrong accepted | then | {head} (95 %) | best | deceived | active params (M) |"
    return "\n".join([title, "|---" * (len(counts) + 5) + "|", *lines])
