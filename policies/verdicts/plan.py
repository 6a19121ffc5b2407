"""What to do after each stage of samples: stop, draw more, or ask the large model.

By backward induction over the cells of a calibration, with everything in one unit, the cost of a
mean large answer:

    stop    right * worth
    large   large * worth - what the large answer costs
    more    what the next stage's cells are worth, by their chances - what its samples cost

and the best of them is what a cell is worth. Compute-optimal test-time scaling (arXiv 2408.03314)
for one request at a time: not how many samples, but whether the next ones are worth their price.

Pure sums over a small table: must not know a request, a fleet's health or a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from policies.verdicts.calibrated import Calibrated, Cell, Judging, Stage
from router.fleet import Fleet, ModelView, Price

FREE = Price()
"""Of a verifier that asks no model."""
UNASKED = Judging(0.0, 0.0)


class Action(StrEnum):
    """What may follow a stage."""

    STOP = "stop"
    MORE = "more"
    LARGE = "large"


@dataclass(frozen=True, slots=True)
class Prices:
    """What a token costs to read and to write, in any one unit; `judge` is the verifier's model."""

    small: Price
    large: Price
    judge: Price = FREE


@dataclass(frozen=True, slots=True)
class Costs:
    """What things cost in mean large answers: `unit` is what one of these costs, `judged` the
    verifier's own call about one sample.
    """

    calibrated: Calibrated
    prices: Prices
    unit: float = field(init=False)
    judged: float = field(init=False)

    def __post_init__(self) -> None:
        unit = self._large(self.calibrated.large_tokens)
        asked, price = self.calibrated.judging or UNASKED, self.prices.judge
        judged = asked.prompt * price.input + asked.completion * price.output
        object.__setattr__(self, "unit", unit)
        object.__setattr__(self, "judged", judged / unit)

    def large(self, cell: Cell) -> float:
        """The large model's answer to a request in this cell."""
        return self._large(cell.large_tokens) / self.unit

    def more(self, cell: Cell, samples: int) -> float:
        """The next stage's call for so many samples, and what the verifier asks about them."""
        price, prompt = self.prices.small, self.calibrated.prompt_tokens
        drawn = prompt * price.input + cell.next_tokens * price.output
        return drawn / self.unit + samples * self.judged

    def _large(self, tokens: float) -> float:
        price, prompt = self.prices.large, self.calibrated.prompt_tokens
        return prompt * price.input + tokens * price.output


def prices_of(fleet: Fleet, small: str, large: str, judge: str | None) -> Prices:
    """Those of the fleet; where the large model has none, a token costs its model's parameters."""
    views = [fleet.models[name] for name in (small, large)]
    views += [fleet.models[judge]] if judge is not None else []
    priced = bool(views[1].price.output)
    return Prices(*(view.price if priced else _parameters(view) for view in views))


def _parameters(view: ModelView) -> Price:
    """Of every token that is written, as in `router.cost.active_params`."""
    return Price(0.0, view.params_b)


@dataclass(frozen=True, slots=True)
class Step:
    """What is done in one cell, and what that is expected to be worth in mean large answers."""

    action: Action
    value: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The best step in every cell: `steps` [stage, bin before, bin now], as in the calibration."""

    calibrated: Calibrated
    steps: tuple[tuple[tuple[Step, ...], ...], ...]

    def at(self, bins: tuple[int, ...]) -> tuple[Action, Cell]:
        """What to do for a request that went through these bins, one a stage, and its cell."""
        stage, before = len(bins) - 1, bins[-2] if len(bins) > 1 else 0
        cell = self.calibrated.stages[stage].cells[before][bins[-1]]
        return self.steps[stage][before][bins[-1]].action, cell


def planned(calibrated: Calibrated, prices: Prices, worth: float) -> Plan:
    """The best plan where a right answer is worth so many mean large answers.

    At equal worth it stops rather than asks, and asks rather than draws.
    """
    costs = Costs(calibrated, prices)
    later: tuple[tuple[Step, ...], ...] = ()
    found: list[tuple[tuple[Step, ...], ...]] = []
    for stage, samples in reversed([*_growth(calibrated)]):
        later = tuple(
            tuple(
                _best(cell, later[now] if later else (), costs, (worth, samples))
                for now, cell in enumerate(row)
            )
            for row in stage.cells
        )
        found.append(later)
    return Plan(calibrated, tuple(reversed(found)))


def _growth(calibrated: Calibrated) -> Iterator[tuple[Stage, int]]:
    """Every stage with the number of samples that the next one adds."""
    totals = calibrated.totals
    for stage, after in zip(calibrated.stages, (*totals[1:], totals[-1]), strict=True):
        yield stage, after - stage.samples


def _best(cell: Cell, later: tuple[Step, ...], costs: Costs, given: tuple[float, int]) -> Step:
    worth, samples = given
    ways = [
        Step(Action.STOP, cell.right * worth),
        Step(Action.LARGE, cell.large * worth - costs.large(cell)),
    ]
    if later:
        ahead = sum(chance * step.value for chance, step in zip(cell.next, later, strict=True))
        ways.append(Step(Action.MORE, ahead - costs.more(cell, samples)))
    return max(ways, key=lambda step: step.value)
