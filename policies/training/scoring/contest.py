"""The contest: a policy and what is easy to have, measured on the same rows and resamples.

Two kinds take part. A *way* has given every row an answer and stands at one point: a single model,
lots, the policy as it is set. A *ranker* expects a score of each model on each row and so has a
whole curve: the policy, the k nearest neighbours, the length of the prompt.

What a curve is compared at is its *place*: the large model's share of the calls where there are
two models and one is asked per row, the mean cost per request otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from policies.training.calibrate import Interval
from policies.training.scoring.hulls import aiq, best_single, height, hull, thinned
from policies.training.scoring.pairs import apgr, cpt, pgr
from policies.training.scoring.resampling import Figures, difference, interval, resampled, weights
from policies.training.scoring.trails import (
    Floats,
    Integers,
    Trail,
    at,
    means,
    ranked,
    trail,
    walked,
)

__all__ = [
    "LEVELS", "ORACLE", "POLICY", "ZERO", "Band", "Contest", "Field", "Result", "Way", "band",
    "bounds", "lots", "singles",
]  # fmt: skip

POLICY, ZERO, ORACLE = "policy", "Zero router", "oracle"
"""Who takes part beside the single models and the other rankers."""
LEVELS = {"cpt50": 0.5, "cpt80": 0.8}
"""The shares of the gap at which RouteLLM reports CPT."""
LARGE = 1
"""Of two models the second is the large one."""
GRID = 101
"""Places at which a curve is drawn."""


@dataclass(frozen=True, slots=True)
class Field:
    """What all are measured on: `scores` and `costs` [n, k], no NaN; `params_b` [k], billions.

    Of two models the small one comes first. `tasks` [n] numbers each row's task. `by_share`: the
    place is the large model's share, which says everything if every row is paid for once.
    """

    models: tuple[str, ...]
    scores: Floats
    costs: Floats
    params_b: Floats
    tasks: Integers
    by_share: bool = False

    @property
    def pair(self) -> bool:
        """Whether there are two models, so that there is a share."""
        return len(self.models) == 2

    @property
    def shares(self) -> Floats:
        """[n, k]: 1 for the large model's answers, if there is a pair."""
        large = np.arange(len(self.models)) == (LARGE if self.pair else -1)
        return np.broadcast_to(large.astype(np.float64), self.scores.shape)

    @property
    def places(self) -> Floats:
        """[n, k]: what an answer adds to the place."""
        return self.shares if self.by_share else self.costs

    def of(self, rows: Integers) -> Field:
        """The same field, of some rows."""
        return replace(
            self, scores=self.scores[rows], costs=self.costs[rows], tasks=self.tasks[rows]
        )


@dataclass(frozen=True, slots=True)
class Way:
    """What every row got, [n] each: score, cost, active parameters (billions), the large model."""

    score: Floats
    cost: Floats
    params_b: Floats
    share: Floats


def lots(field: Field, chances: Floats) -> Way:
    """Each row's model drawn with `chances` [n, k]: means over the draw."""
    return Way(
        (chances * field.scores).sum(axis=1),
        (chances * field.costs).sum(axis=1),
        chances @ field.params_b,
        (chances * field.shares).sum(axis=1),
    )


def singles(field: Field) -> dict[str, Way]:
    """Every model for all rows."""
    rows = len(field.scores)
    return {
        model: lots(field, np.tile(np.eye(len(field.models))[number], (rows, 1)))
        for number, model in enumerate(field.models)
    }


@dataclass(frozen=True, slots=True)
class Contest:
    """`ways` by name, the single models' apart; `rankers` by name: expected scores [n, k].

    `areas`: whether AIQ is measured, which takes longer than all the rest.
    """

    field: Field
    ways: Mapping[str, Way]
    rankers: Mapping[str, Floats]
    areas: bool = True

    def held(self, draws: int, seed: int) -> Result:
        """All figures, with so many resamples."""
        prepared = _Prepared(self)
        values, drawn = resampled(prepared.measure, self.field.tasks, draws, seed)
        return Result(values, drawn)


@dataclass(frozen=True, slots=True)
class Result:
    """Figures under `NAME/FIGURE`: their values, and those of every resample [b].

    Of every way: score, cost, params_b, share, place. Of every ranker: aiq, of two models apgr,
    cpt50 and cpt80, and, where the policy has a place, score: its quality there. Of the Zero router
    and the oracle: aiq and score. Of the policy: way, the share of the way from the best single
    model of its place or below to the oracle.
    """

    values: Mapping[str, float]
    draws: Figures

    def interval(self, name: str) -> Interval:
        """The figure, with its 95 % interval."""
        return interval(self.values[name], self.draws[name])

    def above(self, one: str, other: str) -> Interval:
        """How far one figure is above another, with the interval of that."""
        return difference(self.values, self.draws, one, other)


class _Prepared:
    """What does not change from resample to resample."""

    def __init__(self, contest: Contest) -> None:
        self._field = field = contest.field
        self._areas = contest.areas
        self._ways = {**singles(field), **contest.ways}
        self._own = POLICY in contest.ways
        self._walks = {name: walk_of(field, given) for name, given in contest.rankers.items()}
        self._best = trail(field.scores, field.places, rising=True)
        self._cheapest_best = trail(field.scores, field.costs, rising=True)

    def measure(self, weighed: Floats) -> dict[str, Floats]:
        """Every figure under these weights [b, n]: [b] each."""
        found: dict[str, Floats] = {}
        for name, way in self._ways.items():
            found[f"{name}/score"] = means(way.score, weighed)
            found[f"{name}/cost"] = means(way.cost, weighed)
            found[f"{name}/params_b"] = means(way.params_b, weighed)
            found[f"{name}/share"] = means(way.share, weighed)
            found[f"{name}/place"] = found[f"{name}/{'share' if self._field.by_share else 'cost'}"]
        place = found[f"{POLICY}/place"] if self._own else None
        for name, walk in self._walks.items():
            for figure, values in self._ranker(walk, place, weighed).items():
                # The policy's own point is its way's, not its curve's.
                found.setdefault(f"{name}/{figure}", values)
        found |= self._bounds(place, weighed)
        return found

    def _ranker(self, walk: Trail, place: Floats | None, weighed: Floats) -> dict[str, Floats]:
        field = self._field
        quality = walked(walk, field.scores, weighed)
        costs = _never_falling(walked(walk, field.costs, weighed))
        found: dict[str, Floats] = {}
        if self._areas:
            found["aiq"] = _areas(costs, quality, *self._range(weighed))
        shares = walked(walk, field.shares, weighed) if field.pair else costs
        if place is not None:
            found["score"] = at(place, shares if field.by_share else costs, quality)
        if field.pair:
            recovered = pgr(quality)
            found["apgr"] = apgr(shares, recovered)
            found |= {name: cpt(level, shares, recovered) for name, level in LEVELS.items()}
        return found

    def _range(self, weighed: Floats) -> tuple[Floats, Floats]:
        """The cheapest and the dearest single model's mean cost, [b] each."""
        costs = means(self._field.costs, weighed)
        return costs.min(axis=1), costs.max(axis=1)

    def _bounds(self, place: Floats | None, weighed: Floats) -> dict[str, Floats]:
        """The Zero router and the oracle, and where the policy stands between them."""
        field = self._field
        quality = means(field.scores, weighed)
        found = self._bounding_areas(quality, weighed) if self._areas else {}
        if place is None:
            return found
        places = means(field.places, weighed)
        zero = [
            height(hull(*points), x)
            for *points, x in zip(places, quality, place, strict=True)
        ]  # fmt: skip
        single = [best_single(*point) for point in zip(places, quality, place, strict=True)]
        best = walked(self._best, field.scores, weighed)
        oracle = at(place, walked(self._best, field.places, weighed), best)
        own = means(self._ways[POLICY].score, weighed)
        ahead = oracle - np.asarray(single)
        found |= {
            f"{ZERO}/score": np.asarray(zero),
            f"{ORACLE}/score": oracle,
            f"{ORACLE}/most": best[:, -1],
            f"{POLICY}/single": np.asarray(single),
            f"{POLICY}/way": np.divide(
                own - single, ahead, out=np.full_like(own, np.nan), where=ahead > 0
            ),
        }
        return found

    def _bounding_areas(self, quality: Floats, weighed: Floats) -> dict[str, Floats]:
        low, high = self._range(weighed)
        best = self._cheapest_best
        walk = walked(best, self._field.costs, weighed), walked(best, self._field.scores, weighed)
        return {
            f"{ZERO}/aiq": _areas(means(self._field.costs, weighed), quality, low, high),
            f"{ORACLE}/aiq": _areas(*walk, low, high),
        }


def walk_of(field: Field, expected: Floats) -> Trail:
    """The walk of someone who expects these scores and knows what each model costs on average."""
    if field.pair:
        return ranked(expected[:, LARGE] - expected[:, 0])
    return trail(expected, np.broadcast_to(field.costs.mean(axis=0), expected.shape))


def _never_falling(costs: Floats) -> Floats:
    """A model that is dearer on average may have been cheaper on some rows."""
    return np.maximum.accumulate(costs, axis=1)


def _areas(costs: Floats, quality: Floats, low: Floats, high: Floats) -> Floats:
    """AIQ of each resample's points, [b, p] both."""
    kept = thinned(costs.shape[1])
    rows = zip(costs[:, kept], quality[:, kept], low, high, strict=True)
    return np.asarray([aiq(hull(xs, ys), *ends) for xs, ys, *ends in rows])


@dataclass(frozen=True, slots=True)
class Band:
    """A curve at `places` [GRID], with the ends of its 95 % interval there."""

    places: Floats
    quality: Floats
    low: Floats
    high: Floats


def band(field: Field, expected: Floats, draws: int, seed: int) -> Band:
    """The curve of a ranker, from the smallest place to the largest."""
    walk = walk_of(field, expected)

    def curves(weighed: Floats) -> Floats:
        along = _never_falling(walked(walk, field.places, weighed))
        quality = walked(walk, field.scores, weighed)
        rows: Sequence[Floats] = [
            np.interp(places, xs, ys) for xs, ys in zip(along, quality, strict=True)
        ]
        return np.asarray(rows)

    ends = field.places.mean(axis=0)
    places = np.linspace(ends.min(), ends.max(), GRID)
    point = curves(np.ones((1, len(field.scores))))[0]
    drawn = [curves(portion) for portion in weights(field.tasks, draws, seed)]
    if not drawn:
        return Band(places, point, point, point)
    low, high = np.percentile(np.concatenate(drawn), (2.5, 97.5), axis=0)
    return Band(places, point, low, high)


def bounds(field: Field) -> tuple[Band, Band]:
    """The hull of the single models, which lots between them give, and the oracle's."""
    once = np.ones((1, len(field.scores)))
    best = trail(field.scores, field.places, rising=True)
    along = walked(best, field.places, once)[0], walked(best, field.scores, once)[0]
    mixed = hull(field.places.mean(axis=0), field.scores.mean(axis=0))
    last = float(field.places.mean(axis=0).max())
    return _line(*mixed, last), _line(*along, last)


def _line(places: Floats, quality: Floats, last: float) -> Band:
    xs = np.linspace(float(places[0]), last, GRID)
    ys = np.interp(xs, places, quality)
    return Band(xs, ys, ys, ys)
