"""What `tandem calibrate best-of` finds on rows: the calibration, the worth of a right answer that
keeps a wanted quality, and what the plan then comes to on prompts that it was not fitted on.

Knows rows, a policy and prices. The fit itself and the sums are `policies.training.sampling`'s;
files and the command line are `app.calibrate_samples`'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.calibration import CalibrationError
from policies import TABLE
from policies.training.sampling.cap import Bar, capped
from policies.training.sampling.orders import Looks, looked
from policies.training.sampling.rows import Row, Rows, Sample
from policies.training.sampling.trial import (
    Making,
    Worth,
    by_bar,
    calibrated_of,
    cross_fitted,
    large_alone,
    samples_alone,
)
from policies.training.token_gate.results import ResultFinder
from policies.verdicts.calibrated import Calibrated, Cap, Rate
from policies.verdicts.plan import Prices, prices_of
from router.config import Document
from router.runtime import build

WORTHS = tuple(float(f"{worth:.3g}") for worth in np.geomspace(0.5, 500, 61))
"""What a right answer may be worth, in large answers: from where nobody would ask the large model
to where hardly anybody would not."""
FEWEST = 50
"""Prompts from which on a table can be fitted, and something be said of what it is worth."""


_LARGEST = 64
_NONE = Rate(0.0, 0.0, 0.0)
_NO_CAP = Cap(1.0, _LARGEST, (0.0,) * _LARGEST, (0.0,) * _LARGEST, _NONE, _NONE)
"""Before there is one."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is looked for: the part of the large model's accuracy to be kept, `target`, or the best
    for a `worth`; among `schedules` of stages. `bars` are the policy's own, one a stage of `own`;
    None where it has none.
    """

    schedules: Sequence[tuple[int, ...]]
    own: tuple[int, ...]
    bars: tuple[float | None, ...]
    bar: float
    target: float | None = None
    worth: float = 20.0
    orders: int = 8
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """The calibration and the `worth` to use it with; `held_out` is what that comes to, and
    `curve` what other worths would, by the same tables. `beside` is what is easy to have.
    """

    calibrated: Calibrated
    worth: float
    held_out: Worth
    curve: Mapping[float, Worth]
    beside: Mapping[str, Worth]
    prices: Prices

    @property
    def large(self) -> Worth:
        """The large model alone."""
        return self.beside[LARGE]


SMALL, LARGE = "small alone", "large alone"


@dataclass(frozen=True, slots=True)
class Marking:
    """Whether answers are right: by the reference, or without one by the large model's answer."""

    results: ResultFinder

    def right(self, row: Row, sample: Sample) -> bool:
        """Whether the sample states the same result."""
        wanted = row.reference
        if wanted is None:
            wanted = self.results.find(row.large.text)
        return wanted is not None and self.results.right(sample.text, wanted)


@dataclass(frozen=True, slots=True)
class Calibrating:
    """Rows, and how to tell right from wrong in them."""

    rows: Rows
    marking: Marking
    prices: Prices
    wish: Wish

    def found(self) -> Found:
        """The best calibration. Raises `CalibrationError` if there is none."""
        if len(self.rows) < FEWEST:
            raise CalibrationError(
                f"{len(self.rows)} rows are too few: {FEWEST} at least, some hundreds to be sure"
            )
        tried = [self._of(totals) for totals in self.wish.schedules]
        good = [found for found in tried if self._good_enough(found)]
        if not good:
            best = max(worth.kept(found.large).value for found in tried for worth in _all(found))
            raise CalibrationError(
                f"no plan keeps {self.wish.target:.1%} of the large model's accuracy; the best "
                f"keeps {best:.1%}: allow less, take more rows, other --stages or another verifier"
            )
        return max(good, key=self._merit)

    def _of(self, totals: tuple[int, ...]) -> Found:
        """With these stages, or as many of them as the cap leaves."""
        cap = _NO_CAP
        while True:
            looks = self._looked(totals)
            making = Making(self.rows.origin, cap, self._data())
            worths = WORTHS if self.wish.target is not None else (self.wish.worth,)
            curve = dict(
                zip(
                    worths,
                    cross_fitted(looks, making, self.prices, worths, self.wish.seed),
                    strict=True,
                )
            )
            large = large_alone(looks, self.prices)
            worth = self._chosen(curve, large)
            bar = Bar(self.wish.bar, self.wish.own[-1])
            cap = capped(self.rows.rows, self.marking.right, bar, self.prices, worth)
            kept = tuple(total for total in totals if total <= cap.most) or totals[:1]
            if kept == totals:
                break
            totals = kept
        making = Making(self.rows.origin, cap, self._data())
        beside = {LARGE: large, **self._beside()}
        return Found(calibrated_of(looks, making), worth, curve[worth], curve, beside, self.prices)

    def _looked(self, totals: tuple[int, ...]) -> Looks:
        most = self.rows.most + (totals[0] == 1)
        if totals[-1] > most:
            raise CalibrationError(
                f"stages of {totals[-1]} samples, and the rows have {most}: draw more, or fewer "
                "--stages"
            )
        wish = self.wish
        return looked(self.rows.rows, totals, self.marking.right, wish.orders, wish.seed)

    def _chosen(self, curve: Mapping[float, Worth], large: Worth) -> float:
        """The worth that keeps the target at least cost, else the one that keeps most."""
        target = self.wish.target
        if target is None:
            return self.wish.worth
        kept = {worth: _kept(found, large) for worth, found in curve.items()}
        good = [worth for worth in curve if kept[worth] >= target]
        if not good:
            return max(curve, key=lambda worth: kept[worth])
        return min(good, key=lambda worth: float(curve[worth].cost.mean()))

    def _good_enough(self, found: Found) -> bool:
        target = self.wish.target
        return target is None or _kept(found.held_out, found.large) >= target

    def _merit(self, found: Found) -> float:
        """Of several schedules: the cheapest that keeps the target, or what is worth most."""
        cost = float(found.held_out.cost.mean())
        if self.wish.target is not None:
            return -cost
        return found.worth * float(found.held_out.right.mean()) - cost

    def _beside(self) -> dict[str, Worth]:
        """What is easy to have on the same rows."""
        wish = self.wish
        found = {SMALL: samples_alone(self._looked((1,)), self.prices)}
        for number in sorted({*wish.own, self.rows.most} - {1}):
            found[f"{number} samples"] = samples_alone(self._looked((number,)), self.prices)
        if any(bar is not None for bar in wish.bars):
            stages = ", ".join(map(str, wish.own))
            name = f"the bar {wish.bar:g}, stages {stages}"
            found[name] = by_bar(self._looked(wish.own), wish.bars, self.prices)
        return found

    def _data(self) -> dict[str, Any]:
        rows = self.rows.rows
        return {
            "prompts": len(rows),
            "samples": self.rows.most,
            "references": sum(row.reference is not None for row in rows),
            "orders": self.wish.orders,
        }


def of_origin(rows: Rows, policy: Any) -> None:
    """Raises `CalibrationError` unless the rows are of this policy's models and verifier."""
    origin = rows.origin
    wanted = {
        "small": policy.small,
        "large": policy.large,
        "verifier": policy.facts,
        "temperature": policy.temperature,
    }
    for name, value in wanted.items():
        if (found := getattr(origin, name)) != value:
            raise CalibrationError(
                f"the rows were drawn with {name}: {found}, and the policy has {value}: draw rows "
                "for it, into another file"
            )


def offered(document: Document, policy: Any) -> Prices:
    """What answers cost by the configuration, as serving would have it."""
    fleet = build(document, TABLE, 1).snapshot()
    return prices_of(fleet, policy.small, policy.large, policy.judge)


def bars_of(policy: Any) -> tuple[float | None, ...]:
    """What is good enough after each of the policy's stages without a calibration."""
    bar = policy.bar if policy.mean_logprob is None else policy.mean_logprob
    alone = policy.majority is not None and policy.totals[0] == 1
    first = policy.majority.sure if alone else bar
    return (first, *(bar for _ in policy.totals[1:]))


def _all(found: Found) -> Sequence[Worth]:
    return [*found.curve.values()]


def _kept(found: Worth, large: Worth) -> float:
    whole = float(large.right.sum())
    return float(found.right.sum()) / whole if whole else 0.0
