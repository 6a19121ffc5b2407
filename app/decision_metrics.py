"""Metrics of what is learnt from traffic: the log of decisions, feedback, and the shadow.

Kept apart from `app.metrics`, which owns the page and hands on what belongs here. A counter may
only rise, so there is none of differences: what was spent and what the shadow would have spent
stand side by side, over the same requests, and the difference is a query.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from app.families import Counts, Labels
from router.observe import Kept, Shadowed, ShadowFailed

__all__ = ["DecisionMetrics", "Learnt"]

Learnt: TypeAlias = Shadowed | ShadowFailed | Kept
"""The observations that are counted here."""

BOTH = ("policy", "shadow")


class DecisionMetrics:
    """Counts them. `count` declares a family: its name, its labels, what it counts."""

    def __init__(self, count: Callable[[str, Labels, str], Counts]) -> None:
        self._lines = {
            "decision": count(
                "tandem_decisions_total",
                ("outcome",),
                "Decisions for the log: logged, dropped for want of room, or failed.",
            ),
            "feedback": count(
                "tandem_feedback_total",
                ("outcome",),
                "Scores of answers for the log: logged or failed.",
            ),
        }
        self._compared = count(
            "tandem_shadow_decisions_total",
            (*BOTH, "agreed"),
            "Requests for which the shadow was asked, by whether it would have sent them alike.",
        )
        self._failures = count(
            "tandem_shadow_failures_total",
            (*BOTH, "why"),
            "Requests for which it was not: a policy raised an error, or there was no room.",
        )
        self._cost = count(
            "tandem_shadow_cost_usd_total",
            BOTH,
            "What the same tokens would have cost where the shadow would have sent the request.",
        )
        self._served_cost = count(
            "tandem_shadow_served_usd_total",
            BOTH,
            "What was spent on the same requests.",
        )
        self._unpriced = count(
            "tandem_shadow_unpriced_total",
            BOTH,
            "Comparisons without a cost: the shadow's arm is no model, or the tokens are unknown.",
        )
        self._score = count(
            "tandem_shadow_expected_score_total",
            BOTH,
            "Sum of the scores expected where the shadow would have sent the request.",
        )
        self._served_score = count(
            "tandem_shadow_served_expected_score_total",
            BOTH,
            "Sum of the scores expected where the same requests were sent.",
        )
        self._scored = count(
            "tandem_shadow_scored_total",
            BOTH,
            "Comparisons that are in these two sums: a policy expected something of both arms.",
        )

    def __call__(self, observation: Learnt) -> None:
        """Count one observation."""
        match observation:
            case Shadowed():
                self._shadowed(observation)
            case ShadowFailed(policy=policy, shadow=shadow, why=why):
                self._failures.add((policy, shadow, why))
            case Kept(kind, outcome, number):
                self._lines[kind].add((outcome,), number)

    def _shadowed(self, seen: Shadowed) -> None:
        both = (seen.policy, seen.shadow)
        self._compared.add((*both, "true" if seen.agreed else "false"))
        if seen.cost is None or seen.shadow_cost is None:
            self._unpriced.add(both)
        else:
            self._cost.add(both, seen.shadow_cost)
            self._served_cost.add(both, seen.cost)
        if seen.score is not None and seen.shadow_score is not None:
            self._score.add(both, seen.shadow_score)
            self._served_score.add(both, seen.score)
            self._scored.add(both)
