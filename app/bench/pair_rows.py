"""A row of `tandem bench pair`: what one policy was worth on the problems, and what it cost.

Pure sums over a run, and the table. Must not know how the run came about.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from app.trial import Run
from deploy.pair.problems import Problem, is_correct
from policies.training.calibrate import ratio
from router.cost import active_params
from router.idealised import together

LARGE = "large"
"""The model that idealised costs are parts of."""
Z95 = 1.959964
"""Standard normal quantile of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Row:
    """One policy: `avg_params` in millions per token of the answer, `seconds` of wall time.

    `setting` is what was varied for the curve, None where nothing was; `line` is what the row is
    drawn as a point of, the same for all points of one curve. `idealised_seconds` is what an answer
    takes alone (`router.idealised`) on average, `idealised_cost` that as a part of what it takes
    the large model alone: both run on the same hardware. None where it was not measured.
    `right` says of each problem whether it was answered right; `kept` is the part of the large
    model's accuracy, with its 95 % interval over problems, None where the large model was left out.
    """

    policy: str
    line: str
    setting: float | None
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    large_share: float
    avg_params: float
    handoffs_per_100: float
    seconds: float
    idealised_seconds: float | None = None
    idealised_cost: float | None = None
    right: tuple[bool, ...] = ()
    kept: tuple[float, float, float] | None = None


def row(
    policy: str,
    run: Run,
    asked: Sequence[Problem],
    params_b: Mapping[str, float],
) -> Row:
    """What `run` was worth on these problems."""
    pairs = zip(run.answers, asked, strict=True)
    right = tuple(is_correct(answered.text, problem) for answered, problem in pairs)
    correct = sum(right)
    low, high = wilson(correct, len(asked))
    ideal = together(each.ideal for each in run.attempts if each.usage is not None)
    return Row(
        policy=policy,
        line=policy,
        setting=None,
        accuracy=correct / len(asked),
        accuracy_low=low,
        accuracy_high=high,
        large_share=run.share("large"),
        avg_params=active_params(run.attempts, params_b) * 1000,
        handoffs_per_100=run.handoffs_per_100,
        seconds=run.seconds,
        idealised_seconds=None if ideal is None else ideal.seconds / len(asked),
        right=right,
    )


def related(rows: Sequence[Row]) -> list[Row]:
    """The rows as parts of the large model alone, if it is among them."""
    large = next((r for r in rows if r.policy == LARGE), None)
    if large is None:
        return [*rows]
    return [
        replace(r, kept=kept(r.right, large.right), idealised_cost=_part(r, large)) for r in rows
    ]


def _part(row: Row, large: Row) -> float | None:
    """The idealised cost in those of the large model, where both are known."""
    if row.idealised_seconds is None or not large.idealised_seconds:
        return None
    return row.idealised_seconds / large.idealised_seconds


def kept(right: Sequence[bool], large: Sequence[bool]) -> tuple[float, float, float] | None:
    """The part of the large model's right answers, with the 95 % interval over problems.

    The same problems are drawn for both (bootstrap), since both answer the same ones well. None
    where the large model is never right.
    """
    if not any(large):
        return None
    found = ratio(right, large)
    return found.value, found.low, found.high


def table(rows: Sequence[Row]) -> str:
    """The rows for people, as Markdown; the points of curves come in a table of their own."""
    points = [row for row in rows if row.setting is not None]
    tables = [_table([row for row in rows if row.setting is None])]
    return "\n\n".join([*tables, _table(points)] if points else tables)


def _table(rows: Iterable[Row]) -> str:
    head = (
        "| policy | accuracy (95 %) | of large (95 %) | large tokens | active params (M) "
        "| hand-offs/100 | s "
        "| idealised s/answer | idealised cost |"
    )
    lines = [
        f"| {r.policy} | {r.accuracy:.1%} ({r.accuracy_low:.1%} to {r.accuracy_high:.1%}) "
        f"| {_kept(r)} | {r.large_share:.1%} | {r.avg_params:.3f} | {r.handoffs_per_100:.1f} "
        f"| {r.seconds:.0f} | {_known(r.idealised_seconds, '.4f')} "
        f"| {_known(r.idealised_cost, '.0%')} |"
        for r in rows
    ]
    return "\n".join([head, "|---" * 9 + "|", *lines])


def _kept(row: Row) -> str:
    if row.kept is None:
        return "-"
    part, low, high = row.kept
    return f"{part:.1%} ({low:.1%} to {high:.1%})"


def _known(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927)."""
    p, z2 = successes / n, Z95 * Z95
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)
