"""What it is worth to choose by likely tasks: LaRA's table, read by choices instead of by columns.

A row's way is what the table expects most of, over its task's probabilities as told by a head that
had not seen its document. A model's value is the mean over tasks of the mean over that task's rows
of the table's score for the way chosen; the value is the mean over models. Every task weighs the
same, and every model. Between the best fixed choice and an oracle that knows each row's task, it
says how much of the way was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from app.bench.context_tasks import ALONE, DRAWS, MEASURED, groups
from app.bench.figures import Figure, Target, summary
from policies.reading.documents import TASKS
from policies.reading.table import Known, Table, published
from policies.training.scoring.resampling import interval, resampled

if TYPE_CHECKING:
    from app.bench.context_tasks import Judged
    from policies.training.calibrate import Interval
    from policies.training.experts.fit import Reals

__all__ = ["placing", "sent", "values"]

SHARE = Target(90.0)
TWINS = ("Llama-3.3-70B", "Llama-3.3-70B-Q8")
"""One model in two precisions: who leaves one out leaves out both."""


def values(found: Judged) -> Iterator[Figure]:
    """The value at both lengths, with the model's own row of the table and without."""
    table = published()
    for at, length in enumerate(table.lengths):
        named = f"{length / 1024:.0f}k"
        if at:
            named += " (tasks told on 32k)"
        scores = {each.name: each.scores[at] for each in table.models}
        fixed = np.mean([each.mean(axis=0) for each in scores.values()], axis=0)
        oracle = float(np.mean([each.max(axis=1).mean() for each in scores.values()]))
        yield _plain(f"value, {named}: always passages", 100 * fixed[0])
        yield _plain(f"value, {named}: always whole", 100 * fixed[1])
        yield _plain(f"value, {named}: oracle that knows the task", 100 * oracle)
        for known in (True, False):
            tables = {name: table if known else without(table, name) for name in scores}
            about = "" if known else ", model left out"
            certain = _value(scores, _chosen(tables, np.eye(len(TASKS)), length), _one_each())
            yield _plain(f"value, {named}{about}: told tasks that are true", 100 * certain)
            for name in (ALONE, MEASURED):
                chosen = _chosen(tables, found.heads[name].unseen, length)
                value, share = _with_intervals(found, scores, chosen, max(fixed), oracle)
                target = SHARE if known and not at and name == MEASURED else None
                what = f"value, {named}{about}, {name}"
                yield Figure(what, value.value, value.low, value.high)
                yield Figure(f"{what}: of the gap", share.value, share.low, share.high, "%", target)


def without(table: Table, name: str) -> Table:
    """The table as if this model had never been measured."""
    return table.without(*(TWINS if name in TWINS else (name,)))


def _params(name: str) -> float | None:
    known = published().known(name)
    return None if known is None else known.params_b


def _chosen(tables: Mapping[str, Table], likely: Reals, length: float) -> dict[str, Reals]:
    """Which rows are read whole, by model, [rows]: where more is expected of it."""
    expected = {
        name: likely @ table.by_task(_called(table, name), length, params_b=_params(name))
        for name, table in tables.items()
    }
    return {name: (each[:, 1] > each[:, 0]).astype(float) for name, each in expected.items()}


def _called(table: Table, name: str) -> str:
    """A model's name where it is in the table; else none, lest one be taken for its relative."""
    return name if any(each.name == name for each in table.models) else ""


def _one_each() -> Reals:
    """Weights of four rows, one of each task, by task."""
    return np.eye(len(TASKS))


def _value(scores: Mapping[str, Reals], chosen: Mapping[str, Reals], of_task: Reals) -> float:
    """The mean over models and tasks; `of_task` [tasks, rows] are each task's rows, weighted."""
    shares = of_task / of_task.sum(axis=1, keepdims=True)
    worth = [
        (score[:, 0] + (score[:, 1] - score[:, 0]) * (shares @ chosen[name])).mean()
        for name, score in scores.items()
    ]
    return float(np.mean(worth))


def _with_intervals(
    found: Judged,
    scores: Mapping[str, Reals],
    chosen: Mapping[str, Reals],
    fixed: float,
    oracle: float,
) -> tuple[Interval, Interval]:
    """The value and its share of the gap, in percent, over resampled documents."""
    of = groups(found.rows, np.arange(len(found.rows)))
    is_task = np.eye(len(TASKS))[found.labels].T

    def measure(weights: Reals) -> Mapping[str, Reals]:
        value = np.array([_value(scores, chosen, is_task * each) for each in weights])
        return {"value": 100 * value, "share": 100 * (value - fixed) / (oracle - fixed)}

    known, draws = resampled(measure, of, DRAWS // 4, found.seed, clusters=of)
    value, share = (interval(known[name], draws[name]) for name in ("value", "share"))
    return value, share


def placing() -> Iterator[Figure]:
    """How far off a model is that is placed by its size, each left out in its turn."""
    table = published()
    apart = [_placed(table, each) - each.scores for each in table.models]
    gaps = [each[:, :, 1] - each[:, :, 0] for each in apart]
    scores = np.stack([each.scores for each in table.models])
    noise, error = float((scores * (1 - scores)).mean()), float(np.square(apart).mean())
    yield _plain("placing: error of a score (RMS)", 100 * error**0.5)
    yield _plain(
        "placing: error of whole minus passages (RMS)", 100 * np.square(gaps).mean() ** 0.5
    )
    note = f"p(1 - p) {noise:.4f} over a squared error of {error:.4f}"
    yield summary("placing: outcomes that weigh as much", [noise / error], "", note=note)


def _placed(table: Table, model: Known) -> Reals:
    return without(table, model.name).placed("", params_b=model.params_b)


def sent(found: Judged, likely: Reals) -> Sequence[float]:
    """Tokens of documents sent per row by choosing for each model of the table, its mean."""
    table = published()
    whole, passages = np.array(found.whole, float), np.array(found.passages, float)
    tables = {each.name: table for each in table.models}
    chosen = _chosen(tables, likely, table.lengths[0])
    by_model: list[float] = [
        float(np.where(each > 0, whole, passages).mean()) for each in chosen.values()
    ]
    return by_model


def _plain(name: str, value: float) -> Figure:
    return Figure(name, float(value), float(value), float(value))
