"""What a plan is worth on rows that it was not fitted on, beside what is easy to have.

Rows are split into parts; for each a table is fitted on the others, planned with, and followed on
that part: no prompt is judged by a table that has seen it. Beside the plan stand the small model,
the large one, a fixed number of samples, and stages with a bar. Costs are in mean large answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.training.calibrate import Interval, ratio
from policies.training.sampling.bins import USUAL, Fineness
from policies.training.sampling.fit import binned, stages_of
from policies.training.sampling.orders import Floats, Looks
from policies.training.sampling.rows import Origin
from policies.verdicts.calibrated import Calibrated, Cap, Judging
from policies.verdicts.plan import Action, Plan, Prices, planned

PARTS = 5
REPEATS = 4
"""Times that the rows are split anew: how they happen to be split moves a figure less then."""
ACTIONS = (Action.STOP, Action.LARGE, Action.MORE)
STOP, LARGE, MORE = range(3)

Decide = Callable[[int, Looks], npt.NDArray[np.intp]]
"""What to do after a stage, [n, o], as a place in `ACTIONS`; at the last stage never `MORE`."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What a way of answering is worth on n prompts: right [n], 0 to 1; cost [n], in mean large
    answers; how often the large model answers [n].
    """

    right: Floats
    cost: Floats
    handed: Floats

    @property
    def accuracy(self) -> Interval:
        """The mean, with its interval."""
        return ratio(self.right.tolist(), [1.0] * len(self.right))

    @property
    def mean_cost(self) -> Interval:
        """As `accuracy`."""
        return ratio(self.cost.tolist(), [1.0] * len(self.cost))

    def kept(self, large: Worth) -> Interval:
        """The accuracy as a part of the large model's, prompts drawn in pairs."""
        return ratio(self.right.tolist(), large.right.tolist())


@dataclass(frozen=True, slots=True)
class Making:
    """What a calibration is made with beside the rows' looks."""

    origin: Origin
    cap: Cap
    data: Mapping[str, Any]
    fineness: Fineness = USUAL


def calibrated_of(looks: Looks, making: Making) -> Calibrated:
    """The calibration that these prompts give."""
    prompt, completion = looks.judged.mean(axis=0)
    origin = making.origin
    return Calibrated(
        small=origin.small,
        large=origin.large,
        verifier=dict(origin.verifier),
        temperature=origin.temperature,
        prompt_tokens=round(float(looks.prompt_tokens.mean()), 3),
        large_tokens=round(float(looks.large_tokens.mean()), 3),
        stages=stages_of(looks, making.fineness),
        cap=making.cap,
        judging=Judging(round(float(prompt), 3), round(float(completion), 3)) if prompt else None,
        data=dict(making.data),
    )


def cross_fitted(
    looks: Looks, making: Making, prices: Prices, worths: Sequence[float], seed: int = 0
) -> list[Worth]:
    """What the plan for each of `worths` comes to, every prompt judged by tables without it."""
    sums = [Worth(*(np.zeros(len(looks)) for _ in range(3))) for _ in worths]
    unit = float(_large(looks, prices).mean())
    rng = np.random.default_rng(seed)
    for part in (part for _ in range(REPEATS) for part in _parts(len(looks), rng)):
        rest = np.setdiff1d(np.arange(len(looks)), part)
        calibrated = calibrated_of(looks.at(rest), making)
        own = looks.at(part)
        for worth, whole in zip(worths, sums, strict=True):
            found = followed(own, by_plan(planned(calibrated, prices, worth)), prices, unit)
            whole.right[part] += found.right / REPEATS
            whole.cost[part] += found.cost / REPEATS
            whole.handed[part] += found.handed / REPEATS
    return sums


def _parts(count: int, rng: np.random.Generator) -> list[npt.NDArray[np.intp]]:
    return np.array_split(rng.permutation(count), PARTS)


def by_plan(plan: Plan) -> Decide:
    """Deciding by a plan."""
    stages = plan.calibrated.stages

    def decide(stage: int, looks: Looks) -> npt.NDArray[np.intp]:
        table = np.array(
            [[ACTIONS.index(step.action) for step in row] for row in plan.steps[stage]]
        )
        now = binned(looks.marks[:, :, stage], stages[stage].cuts)
        if not stage:
            return np.asarray(table[0][now])
        before = binned(looks.marks[:, :, stage - 1], stages[stage - 1].cuts)
        return np.asarray(table[before, now])

    return decide


def by_bars(bars: Sequence[float | None]) -> Decide:
    """Deciding by a bar a stage; without one nothing is good enough."""

    def decide(stage: int, looks: Looks) -> npt.NDArray[np.intp]:
        bar = bars[stage]
        good = looks.marks[:, :, stage] >= (np.inf if bar is None else bar)
        return np.where(good, STOP, LARGE if stage + 1 == len(bars) else MORE)

    return decide


def always(last: int) -> Decide:
    """All samples, then this."""

    def decide(stage: int, looks: Looks) -> npt.NDArray[np.intp]:
        marks = looks.marks[:, :, stage]
        return np.full(marks.shape, last if stage + 1 == len(looks.totals) else MORE)

    return decide


def followed(looks: Looks, decide: Decide, prices: Prices, unit: float) -> Worth:
    """What these decisions come to; `unit` is what a mean large answer costs."""
    shape = looks.marks.shape[:2]
    on = np.ones(shape, bool)
    right, cost, handed = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    judged = looks.judged @ (prices.judge.input, prices.judge.output)
    before = 0
    for stage, total in enumerate(looks.totals):
        call = looks.prompt_tokens * prices.small.input + (total - before) * judged
        cost += on * (call[:, None] + looks.tokens[:, :, stage] * prices.small.output)
        action = decide(stage, looks)
        stops, asks = on & (action == STOP), on & (action == LARGE)
        right += stops * looks.right[:, :, stage] + asks * looks.large[:, None]
        cost += asks * _large(looks, prices)[:, None]
        handed += asks
        on &= action == MORE
        before = total
    return Worth(right.mean(axis=1), cost.mean(axis=1) / unit, handed.mean(axis=1))


def large_alone(looks: Looks, prices: Prices) -> Worth:
    """The large model and nothing else."""
    cost = _large(looks, prices)
    return Worth(looks.large, cost / cost.mean(), np.ones(len(looks)))


def samples_alone(looks: Looks, prices: Prices) -> Worth:
    """All samples of all stages, and never the large model."""
    return followed(looks, always(STOP), prices, float(_large(looks, prices).mean()))


def by_bar(looks: Looks, bars: Sequence[float | None], prices: Prices) -> Worth:
    """The stages with a bar, as the policy has it without a calibration."""
    return followed(looks, by_bars(bars), prices, float(_large(looks, prices).mean()))


def _large(looks: Looks, prices: Prices) -> Floats:
    price = prices.large
    return looks.prompt_tokens * price.input + looks.large_tokens * price.output
