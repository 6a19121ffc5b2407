"""The choice: from a judgement to an expert, by the rule that a policy's settings came to.

Three rules. By *quality*: the expert worth most at the rate that keeps the budget. By *margin*: the
cheapest that is expected to come close enough to the strongest, as a risk bound found it. By
*category*: the map that was solved for the budget. Each looks only at the experts that may be asked
now, and none speaks where the prompt is too uncertain. Pure; knows no request and no fleet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from policies.composition.artifact import Artifact, Map
from policies.composition.budget import Reals, Reference, at_margin, bound, chosen, rate_for
from policies.composition.judge import Judgement

SHARE = "share"
"""The unit in which the strongest expert costs 1 and every other one nothing."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How experts are chosen. `costs` [experts] in the unit that `rate` is a price of.

    At most one of `margin` and `by_category` is set; with neither, `rate` decides.
    """

    costs: Reals
    strong: int
    resident: frozenset[int]
    rate: float = 0.0
    margin: float | None = None
    by_category: tuple[int, ...] | None = None
    confidence: float = 0.0
    similarity: float = 0.0

    def uncertain(self, judgement: Judgement) -> str | None:
        """Why nothing can be said of this prompt; None if something can."""
        if judgement.similarity < self.similarity:
            return f"unlike what was trained on, {judgement.similarity:.2f} < {self.similarity:.2f}"
        if judgement.confidence < self.confidence:
            return f"confidence {judgement.confidence:.2f} < {self.confidence:.2f}"
        return None

    def choose(self, judgement: Judgement, losses: Sequence[float]) -> int | None:
        """The expert, or None if none of them may be asked.

        `losses` [experts] are what an expert's quality loses by circumstance (a server that must be
        woken); infinite for one that cannot be asked.
        """
        able = [lost < math.inf and at in self.resident for at, lost in enumerate(losses)]
        if not any(able):
            return None
        if self.by_category is not None and able[mapped := self.by_category[judgement.category]]:
            return mapped
        told = zip(judgement.quality, losses, able, strict=True)
        quality = np.array([[worth - lost if able else -math.inf for worth, lost, able in told]])
        if self.margin is not None and able[self.strong]:
            return int(at_margin(quality, self.costs, self.strong, self.margin)[0])
        return int(chosen(quality, self.costs, self.rate)[0])

    def worth(self, judgement: Judgement, expert: int) -> float:
        """What an expert is worth for this prompt, its cost at the rate taken off."""
        return judgement.quality[expert] - self.rate * float(self.costs[expert])


def costs_in(artifact: Artifact, unit: str) -> Reals:
    """What each expert costs a request, in `params_b`, `usd` or `share`. Raises ValueError."""
    card = artifact.card
    if unit == SHARE:
        costs: Reals = np.zeros(len(card.experts))
        costs[card.strong] = 1.0
        return costs
    values = [getattr(expert, unit) for expert in card.experts]
    unknown = [e.name for e, value in zip(card.experts, values, strict=True) if value is None]
    if unknown:
        raise ValueError(f"the artifact does not know {unit} of {', '.join(unknown)}")
    return np.array(values, dtype=float)


def order_of(artifact: Artifact) -> Reals:
    """What tells which of two experts is dearer: parameters, else USD, else the mean score."""
    for unit in ("params_b", "usd"):
        try:
            return costs_in(artifact, unit)
        except ValueError:
            continue
    means = np.nanmean(artifact.parts.reference.actual, axis=0)
    return np.argsort(np.argsort(means)).astype(float)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a policy's settings ask for. `budget` is a unit (`params_b`, `usd` or `share`) and how
    much of it; `risk` a share of worse answers and a confidence. At most one of the two is set.
    """

    by_category: bool = False
    budget: tuple[str, float] | None = None
    risk: tuple[float, float] | None = None
    confidence: float | None = None
    similarity: float | None = None


def rule_for(artifact: Artifact, wish: Wish) -> Rule:
    """The rule that does what is wished for. Raises ValueError where none can."""
    card = artifact.card
    rule = Rule(
        costs=order_of(artifact),
        strong=card.strong,
        resident=frozenset(card.resident),
        confidence=card.confidence if wish.confidence is None else wish.confidence,
        similarity=card.similarity if wish.similarity is None else wish.similarity,
    )
    if wish.by_category:
        return replace(rule, by_category=map_for(artifact, wish.budget).experts)
    resident, reference = list(card.resident), artifact.parts.reference
    if wish.budget is not None:
        unit, budget = wish.budget
        costs, predicted = costs_in(artifact, unit), reference.predicted[:, resident]
        return replace(rule, costs=costs, rate=rate_for(predicted, costs[resident], budget))
    if wish.risk is not None:
        here = Reference(reference.predicted[:, resident], reference.actual[:, resident])
        strong = resident.index(card.strong)
        found = bound(here, rule.costs[resident], strong, *wish.risk)
        return replace(rule, margin=found.margin)
    return rule


def map_for(artifact: Artifact, budget: tuple[str, float] | None) -> Map:
    """The best map within a budget, or the best of all. Raises ValueError."""
    unit, most = budget or (None, math.inf)
    maps = [one for one in artifact.card.maps if unit in (None, one.unit)]
    if not maps:
        units = ", ".join(dict.fromkeys(one.unit for one in artifact.card.maps))
        wanted = "large_share" if unit == SHARE else unit
        raise ValueError(f"the artifact's maps were solved for {units}, not for {wanted}")
    fitting = [one for one in maps if one.cost <= most * (1 + 1e-9)]
    if not fitting:
        least = min(one.cost for one in maps)
        raise ValueError(f"{most:g} is less than the cheapest map costs, {least:g}")
    return max(fitting, key=lambda one: one.quality)
