"""What `tandem eval` does with rows: replays the policy, fits the baselines, holds the contest.

Gives an `Evaluation`, which `app.evaluation_report` prints. Knows no option of the command line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from app.judged import Judged, Names
from policies.training.outcomes.costs import Unit, costs_of, idealised_of
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.rows import Rows
from policies.training.replay import Replayed, replayed
from policies.training.scoring.contest import LARGE, POLICY, Contest, Field, Result, Way, lots
from policies.training.scoring.neighbours import Embed, Neighbours, cross_fitted, folds
from policies.training.scoring.trails import Floats, Integers

__all__ = ["LENGTH", "NEAREST", "RANDOM", "Evaluation", "Method", "TaskResult", "evaluated"]

RANDOM, LENGTH, NEAREST = "random", "prompt length", "k-NN"
FEWEST = 30
"""Rows that a task needs to be looked at by itself."""
ABSTAINED = "abstained"
"""The reason that a policy gives when it does not trust itself."""

Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""A progress bar around something that takes long: what, called how, of which length."""


@dataclass(frozen=True, slots=True)
class Method:
    """How it is measured: resamples, their seed, the unit of cost (None: what the rows allow).

    `embed` makes the vectors for k-NN; without it that baseline is left out. `train` are the rows
    that it learns from, under the policy's names; without them it is cross-fitted.
    """

    draws: int = 1000
    seed: int = 0
    unit: Unit | None = None
    embed: Embed | None = None
    neighbours: int = 40
    train: Rows | None = None
    watch: Watch = lambda found, _about, _number: found


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One task's rows by themselves."""

    rows: int
    result: Result


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was found. `contest` holds what was measured, `result` the figures."""

    judged: Judged
    method: Method
    rows: Rows
    left_out: int
    unit: Unit
    contest: Contest
    result: Result
    tasks: Mapping[str, TaskResult]
    reasons: Mapping[str, int]
    said: float
    """The share of the rows for which the policy said what it expects."""
    few: Sequence[str] = field(default=())
    """Tasks with too few rows to be looked at."""
    idealised: Mapping[Unit, Mapping[str, float]] = field(default_factory=dict)
    """What an answer takes served alone, on average, by way, in the units in which it is known."""

    @property
    def abstained(self) -> float | None:
        """The share of the rows on which the policy did not trust itself; None if it never says."""
        if ABSTAINED not in self.reasons:
            return None
        return self.reasons[ABSTAINED] / (len(self.rows) + self.left_out)

    @property
    def rankers(self) -> Sequence[str]:
        """Who has a curve."""
        return tuple(self.contest.rankers)


Replaying: TypeAlias = Callable[[Rows], Replayed]
"""What a policy does with rows, if that is not found by `replayed`."""


def evaluated(
    judged: Judged, held: Rows, method: Method, replaying: Replaying | None = None
) -> Evaluation:
    """Judge the policy on `held`; raises `RowsError` or `ReplayError`."""
    names = judged.names
    rows = names.of(held)
    if names.chosen or replaying:
        rows = _complete(rows)
    bar = _bar(method, "replaying", len(rows))
    if replaying is not None:
        replay = replaying(rows)
    else:
        replay = replayed(judged.name, rows, judged.stage, method.seed, bar)
    order = _order(names, rows, _models(names, replay))
    rows = rows.of([rows.models[place] for place in order])
    replay = _columns(replay, order)
    known = np.flatnonzero(~np.isnan(rows.scores).any(axis=1))
    if not len(known):
        raise RowsError(
            "no row holds a score of every model: name some that belong together with --models"
        )
    left_out = len(held) - len(known)
    rows, replay = rows.at(known), _rows(replay, known)
    params_b = np.asarray([names.params_b[place] for place in order])
    prices = [names.prices[place] for place in order]
    alone = [names.idealised[place] for place in order] if names.idealised else []
    costs = costs_of(rows, params_b.tolist(), prices, method.unit, alone)
    number = np.unique(rows.tasks or ("",) * len(rows), return_inverse=True)[1]
    by_share = len(rows.models) == 2 and bool(np.allclose(replay.asked.sum(axis=1), 1))
    field_ = Field(
        rows.models, rows.scores, costs.values, params_b, number.astype(np.intp), by_share
    )
    rankers = dict(_rankers(field_, rows, replay, method))
    contest = Contest(field_, _ways(field_, replay), rankers)
    tasks = dict(_tasks(rows, contest, replay, method))
    few = [task for task, found in tasks.items() if found is None]
    return Evaluation(
        judged=judged,
        method=method,
        rows=rows,
        left_out=left_out,
        unit=costs.unit,
        contest=contest,
        result=contest.held(method.draws, method.seed),
        tasks={task: found for task, found in tasks.items() if found is not None},
        reasons=replay.reasons,
        said=float((~np.isnan(replay.expected)).any(axis=1).mean()),
        few=few,
        idealised={
            unit: _alone(field_, replay, seconds)
            for unit, seconds in idealised_of(rows, alone).items()
        },
    )


def _alone(field_: Field, replay: Replayed, each: Floats) -> Mapping[str, float]:
    """Means over rows, by way, of what each answer takes [n, k]."""
    means = dict(zip(field_.models, each.mean(axis=0).tolist(), strict=True))
    policy = float((replay.asked * each).sum(axis=1).mean())
    lot = float((each @ _shares(field_, replay)).mean())
    return {**means, POLICY: policy, RANDOM: lot}


def _complete(rows: Rows) -> Rows:
    if not len(complete := rows.complete()):
        named = ", ".join(rows.models)
        raise RowsError(f"no row holds a score of every one of {named}")
    return complete


def _bar(
    method: Method, about: str, number: int
) -> Callable[[Iterable[Any]], Iterable[Any]]:  # fmt: skip
    return lambda found: method.watch(found, about, number)


def _models(names: Names, replay: Replayed) -> Sequence[int]:
    """Places of the models that take part: all that were named, or those that the policy ranks."""
    everybody = range(replay.chances.shape[1])
    if names.chosen:
        return everybody
    told = np.asarray((~np.isnan(replay.expected)).any(axis=0)).tolist()
    taken = np.asarray((replay.chances > 0).any(axis=0)).tolist()
    if sum(told) < 2:
        return everybody
    return [number for number in everybody if told[number] or taken[number]]


def _order(names: Names, rows: Rows, places: Sequence[int]) -> Sequence[int]:
    """Of two models the small one first: the smaller, else the cheaper, else the worse."""
    if len(places) != 2 or names.pair:
        return places
    sizes = [names.params_b[place] for place in places]
    prices = [names.prices[place] for place in places]
    by: Sequence[float] = np.nanmean(rows.scores[:, list(places)], axis=0).tolist()
    if not any(map(math.isnan, sizes)) and sizes[0] != sizes[1]:
        by = sizes
    elif None not in prices and prices[0] != prices[1]:
        by = [price.output for price in prices if price is not None]
    return places if by[0] <= by[1] else places[::-1]


def _columns(replay: Replayed, places: Sequence[int]) -> Replayed:
    chosen = list(places)
    return replace(
        replay,
        chances=replay.chances[:, chosen],
        asked=replay.asked[:, chosen],
        expected=replay.expected[:, chosen],
    )


def _rows(replay: Replayed, rows: Integers) -> Replayed:
    return Replayed(replay.chances[rows], replay.asked[rows], replay.expected[rows], replay.reasons)


def _ways(field_: Field, replay: Replayed) -> Mapping[str, Way]:
    """The policy as it is set, and lots with the same shares."""
    rows = len(field_.scores)
    return {
        POLICY: Way(
            (replay.chances * field_.scores).sum(axis=1),
            (replay.asked * field_.costs).sum(axis=1),
            replay.asked @ field_.params_b,
            (replay.asked * field_.shares).sum(axis=1),
        ),
        RANDOM: lots(field_, np.tile(_shares(field_, replay), (rows, 1))),
    }


def _shares(field_: Field, replay: Replayed) -> Floats:
    """With which chances lots are drawn, [k], so that the large model has its share."""
    if not field_.pair:
        return np.asarray(replay.chances.mean(axis=0), dtype=np.float64)
    share = min(1.0, float(replay.asked[:, LARGE].mean()))
    return np.asarray([1 - share, share])


def _rankers(
    field_: Field, rows: Rows, replay: Replayed, method: Method
) -> Iterator[tuple[str, Floats]]:
    told = ~np.isnan(replay.expected)
    if len(field_.models) > 1 and told.any(axis=0).all():
        usual = np.nanmean(replay.expected, axis=0)
        yield POLICY, np.where(told, replay.expected, usual)
    if field_.pair:
        lengths = np.asarray([len(prompt) for prompt in rows.prompts], dtype=np.float64)
        yield LENGTH, np.stack([np.zeros_like(lengths), lengths], axis=1)
    if method.embed is not None and len(field_.models) > 1:
        yield NEAREST, _nearest(rows, method, method.embed)


def _nearest(rows: Rows, method: Method, embed: Embed) -> Floats:
    """Expected scores of the k-NN baseline."""
    if method.train is not None:
        train = method.train.of(rows.models)
        return Neighbours(
            np.asarray(embed(train.prompts), dtype=np.float64), train.scores, method.neighbours
        ).expected(np.asarray(embed(rows.prompts), dtype=np.float64))
    vectors = np.asarray(embed(rows.prompts), dtype=np.float64)
    fold = folds(rows.prompts, method.seed)
    return cross_fitted(vectors, rows.scores, fold, method.neighbours)


def _tasks(
    rows: Rows, contest: Contest, replay: Replayed, method: Method
) -> Iterator[tuple[str, TaskResult | None]]:
    """Each task by itself, without areas: its lots have the policy's shares there.

    None for a task of few rows.
    """
    names = np.asarray(rows.tasks or ())
    kinds = np.unique(names)
    if len(kinds) < 2:
        return
    for task in method.watch(kinds.tolist(), "tasks", len(kinds)):
        mine = np.flatnonzero(names == task)
        if len(mine) < FEWEST:
            yield task, None
            continue
        alone = contest.field.of(mine)
        rankers = {name: expected[mine] for name, expected in contest.rankers.items()}
        held = Contest(alone, _ways(alone, _rows(replay, mine)), rankers, areas=False)
        yield task, TaskResult(len(mine), held.held(method.draws, method.seed))
