"""Deciding: what a policy would do with a request, found out without doing it.

A policy decides by its first steps: it computes, notes why, and hands on (`Route`) until somebody
asks a model. Those steps cost nothing, so they can be performed for a second policy beside the one
that serves (a shadow), for the record of what else could have been chosen (propensities), and for
rows of recorded outcomes. `decide` performs them; only the CPU work it leaves to its caller, who
knows where that may run. It must never reach a backend.

Three things that a policy may tell beside: the chances of a draw, what it thinks of many requests
at once, and how many prompts it was learned from.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

from router.fleet import Fleet
from router.steps import (
    UNCHANGED,
    Attempt,
    Compute,
    Note,
    Open,
    Policy,
    Relay,
    Request,
    Route,
)

__all__ = ["Deciding", "Decision", "Drawing", "Foretelling", "Learned", "decide", "decided"]


@runtime_checkable
class Drawing(Protocol):
    """A policy that draws lots. Who learns from its traffic must know what else could have come."""

    def chances(self, request: Request) -> Mapping[str, float]:
        """The chance of each target to be drawn for `request`; they sum to 1."""
        ...


@runtime_checkable
class Foretelling(Protocol):
    """A policy that can say what it thinks of many requests at once, for tables and replays."""

    def foretold(self, requests: Sequence[Request]) -> Sequence[Mapping[str, str | float]]:
        """What it thinks of each request, by the name of a column; the same names for all."""
        ...


@runtime_checkable
class Learned(Protocol):
    """A policy that was learned from prompts. On those its figures flatter."""

    def trained_on(self, prompts: Sequence[str]) -> int:
        """How many of these prompts it was learned from."""
        ...


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a request goes. `arm` is a model, or the policy that asks models itself (a cascade).

    `chances` holds every arm that could have come, with its probability; they sum to 1. `expected`
    is the score, 0 to 1, that the policy expects of each target, empty if it said nothing. `reason`
    and `detail` are those of the innermost policy that gave any.
    """

    arm: str
    chances: Mapping[str, float]
    expected: Mapping[str, float] = field(default_factory=lambda: UNCHANGED)
    reason: str = ""
    detail: str = ""


Deciding: TypeAlias = Generator[Compute, Any, Decision]


def decide(name: str, request: Request, targets: Mapping[str, Policy], fleet: Fleet) -> Deciding:
    """What `targets[name]` does with `request`. Yields the CPU work it needs, hears its results.

    Raises KeyError for a target that is not in `targets`, and whatever a policy raises.
    """
    policy = targets[name]
    here, handed = yield from _first_steps(name, policy, request, fleet)
    if handed is None:
        return here
    there = yield from decide(handed.target, handed.request, targets, fleet)
    chances = there.chances
    if isinstance(policy, Drawing):
        chances = yield from _mixed(policy, handed, there, targets, fleet)
    return Decision(
        arm=there.arm,
        chances=chances,
        expected=there.expected or here.expected,
        reason=there.reason or here.reason,
        detail=there.detail if there.reason else here.detail,
    )


def decided(name: str, request: Request, targets: Mapping[str, Policy], fleet: Fleet) -> Decision:
    """As `decide`, with the CPU work done here and now: for threads and for rows."""
    deciding = decide(name, request, targets, fleet)
    reply: Any = None
    while True:
        try:
            step = deciding.send(reply)
        except StopIteration as stop:
            decision: Decision = stop.value
            return decision
        reply = step.function(*step.arguments)


def _first_steps(
    name: str, policy: Policy, request: Request, fleet: Fleet
) -> Generator[Compute, Any, tuple[Decision, Route | None]]:
    """As far as the policy goes before it needs somebody: what it said, and whom it handed to."""
    said = Decision(name, {name: 1.0})
    opened: Attempt | None = None
    steps = policy.route(request, fleet)
    reply: Any = None
    try:
        while True:
            step = steps.send(reply)
            reply = None
            match step:
                case Note():
                    expected = step.expected or said.expected
                    said = replace(said, expected=expected, reason=step.reason, detail=step.detail)
                case Compute():
                    reply = yield step
                case Route():
                    return said, step
                case Open() if opened is None:
                    reply = opened = Attempt(0, step.model, "")
                case Relay() if step.attempt == opened:  # a model's answer, as it is
                    arm = step.attempt.model
                    return replace(said, arm=arm, chances={arm: 1.0}), None
                case _:
                    return said, None
    except StopIteration:
        return said, None
    finally:
        steps.close()


def _mixed(
    policy: Drawing,
    handed: Route,
    there: Decision,
    targets: Mapping[str, Policy],
    fleet: Fleet,
) -> Generator[Compute, Any, Mapping[str, float]]:
    """The chances of all arms behind a draw."""
    mixed: dict[str, float] = {}
    for target, chance in policy.chances(handed.request).items():
        if target == handed.target:
            behind = there
        else:
            behind = yield from decide(target, handed.request, targets, fleet)
        for arm, share in behind.chances.items():
            mixed[arm] = mixed.get(arm, 0.0) + chance * share
    return mixed
