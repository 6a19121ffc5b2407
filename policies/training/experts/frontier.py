"""The frontier of a composition: what it is expected to score at every cost, on the reference rows.

These were foretold by models that had not seen them, so what comes out is what to expect of prompts
like those. Measured and drawn as `tandem eval` does it (`policies.training.scoring`), between the
same two bounds: lots between single experts below, the oracle above.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policies.composition.artifact import Card, Expert
from policies.composition.budget import Reference
from policies.composition.choice import SHARE
from policies.training.experts.fit import Reals
from policies.training.experts.worth import binned
from policies.training.scoring.contest import (
    ORACLE,
    POLICY,
    ZERO,
    Band,
    Contest,
    Field,
    band,
    bounds,
)
from policies.training.scoring.picture import Picture, Point, draw

DRAWS = 100
"""Resamples for the intervals: a picture and a summary show no third digit."""
POINTS = 11
"""Of the frontier that a card holds, from the cheapest expert to where more cost buys nothing."""
CURVE = "curve.png"
RELIABILITY = "reliability.png"
UNITS = {
    "params_b": "active parameters per request (billions)",
    "usd": "USD per request",
    SHARE: "requests to the strongest expert (share)",
}


def priced(experts: Sequence[Expert], strong: int) -> dict[str, Reals]:
    """What each expert costs a request, [experts], in every unit that is known for all of them.

    `params_b` and `usd`; last the one that always is, `share`, in which only the strongest expert
    costs anything.
    """
    found: dict[str, Reals] = {}
    for unit in ("params_b", "usd"):
        values = [getattr(expert, unit) for expert in experts]
        if None not in values:
            found[unit] = np.array(values, dtype=float)
    found[SHARE] = (np.arange(len(experts)) == strong).astype(float)
    return found


@dataclass(frozen=True, slots=True)
class Frontier:
    """The reference rows as a contest's field, and what was foretold of them, [rows, experts]."""

    unit: str
    field: Field
    predicted: Reals


def frontier_of(
    experts: Sequence[Expert], strong: int, resident: Sequence[int], reference: Reference
) -> Frontier | None:
    """The frontier of the experts in use; None where no row knows the score of each of them.

    Of two experts the strongest stands last, whatever it costs.
    """
    unit, costs = next(iter(priced(experts, strong).items()))
    order = sorted(resident, key=lambda at: at == strong if len(resident) == 2 else False)
    known = ~np.isnan(reference.actual[:, order]).any(axis=1)
    if not known.any() or len(order) < 2:
        return None
    actual = reference.actual[known][:, order]
    sizes = [experts[at].params_b for at in order]
    field = Field(
        models=tuple(experts[at].name for at in order),
        scores=actual,
        costs=np.broadcast_to(costs[order], actual.shape),
        params_b=np.array([math.nan if size is None else size for size in sizes]),
        tasks=np.zeros(len(actual), dtype=np.intp),
        by_share=len(order) == 2,
    )
    return Frontier(SHARE if field.by_share else unit, field, reference.predicted[known][:, order])


def figures(found: Frontier, seed: int) -> Mapping[str, Any]:
    """What a card holds of it: some points of the curve, and the areas with 95 % intervals."""
    field = found.field
    result = Contest(field, {}, {POLICY: found.predicted}).held(DRAWS, seed)
    curve = band(field, found.predicted, DRAWS, seed)
    zero, oracle = bounds(field)
    last = len(curve.places) - 1 if field.by_share else int(np.argmax(curve.quality))
    kept = np.unique(np.linspace(0, last, POINTS).astype(int))
    points = [
        {
            "cost": float(curve.places[at]),
            "score": float(curve.quality[at]),
            "low": float(curve.low[at]),
            "high": float(curve.high[at]),
            "lots": _height(zero, float(curve.places[at])),
            "oracle": _height(oracle, float(curve.places[at])),
        }
        for at in kept.tolist()
    ]
    names = [
        name for name in ("apgr", "cpt50", "cpt80", "aiq") if f"{POLICY}/{name}" in result.values
    ]
    areas = {name: result.interval(f"{POLICY}/{name}") for name in names}
    return {
        "unit": found.unit,
        "rows": len(field.scores),
        "points": points,
        **{
            name: {"value": each.value, "low": each.low, "high": each.high}
            for name, each in areas.items()
            if not math.isnan(each.value)
        },
    }


def _height(line: Band, place: float) -> float:
    return float(np.interp(place, line.places, line.quality))


# ----------------------------------------------------------------------------------- the pictures


def draw_pictures(card: Card, reference: Reference, folder: Path) -> Sequence[Path]:
    """Write `curve.png`, where enough is known for it, and `reliability.png` into the folder."""
    drawn = [folder / RELIABILITY]
    _draw_reliability(card, reference, drawn[0])
    found = frontier_of(card.experts, card.strong, card.resident, reference)
    if found is not None:
        drawn.insert(0, folder / CURVE)
        _draw_curve(found, card, drawn[0])
    return drawn


def _draw_curve(found: Frontier, card: Card, file: Path) -> None:
    field = found.field
    zero, oracle = bounds(field)
    means, places = field.scores.mean(axis=0), field.places.mean(axis=0)
    spread = 1.96 * field.scores.std(axis=0) / math.sqrt(len(field.scores))
    draw(
        Picture(
            title=f"{len(field.scores)} reference rows ({card.reference}), foretold unseen",
            axis=UNITS[found.unit],
            curves={"experts": band(field, found.predicted, DRAWS, 0)},
            lines={"lots" if field.by_share else ZERO: zero, ORACLE: oracle},
            singles={
                model: Point(
                    float(places[at]),
                    float(means[at]),
                    float(means[at] - spread[at]),
                    float(means[at] + spread[at]),
                )
                for at, model in enumerate(field.models)
            },
            policy=None,
        ),
        file,
    )


_SIZE = (5.0, 4.8)
"""Inches."""
_DOTS_PER_INCH = 120


def _draw_reliability(card: Card, reference: Reference, file: Path) -> None:
    """What came over what was foretold, in bins of even size, a line an expert."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for at, expert in enumerate(card.experts):
        known = ~np.isnan(reference.actual[:, at])
        told, got, _ = binned(reference.predicted[known, at], reference.actual[known, at])
        axes.plot(told, got, "o-", label=expert.name, markersize=3, linewidth=1)
    axes.plot([0, 1], [0, 1], ":", color="grey")
    axes.set_xlabel("expected score")
    axes.set_ylabel("mean score that came")
    axes.set_title(f"reference rows ({card.reference}), foretold unseen", size=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=7)
    figure.savefig(file, dpi=_DOTS_PER_INCH)
