"""Replay: a policy over rows of recorded outcomes, the same object that serves, with no model near.

Most policies decide by their first steps, and `router.decide` finds out where a row goes and with
which chance. A policy that reads answers first (a cascade) is driven to its end: it opens, waits
and relays as ever, and hears the recorded outputs. What rows do not hold is refused, never made up:
log-probabilities, token ids, answers to questions that a policy asks of its own.

Answers come at once here, so a hedge never hedges; backends never fail, so nothing falls back.
Everything that was opened and waited for is paid.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Any

import numpy as np

from policies.training.outcomes.requests import requests_of
from policies.training.outcomes.rows import Floats, Rows
from router.decide import Decision, decided
from router.fleet import Abilities, Fleet, ModelView, Price
from router.steps import (
    Attempt,
    Close,
    Compute,
    Delta,
    Emit,
    Ended,
    Event,
    Failed,
    Finished,
    Next,
    Note,
    Open,
    Policy,
    Relay,
    Request,
    Route,
    Step,
)

__all__ = ["Replayed", "ReplayError", "Stage", "fleet_of", "replayed"]

BACKEND = "recorded"
"""Where recorded answers come from, as policies see it."""
ON_THE_WAY = frozenset({"stream", "stream_options"})
"""Changes of a request that do not change the answer."""
AHEAD = 256
"""Rows that wait for a thread at any time."""


class ReplayError(Exception):
    """The rows cannot tell what this policy would have done; the message is one line."""


def fleet_of(models: Sequence[str], params_b: Sequence[float], prices: Sequence[Price]) -> Fleet:
    """All models of the rows, well and idle."""
    facts = zip(models, params_b, prices, strict=True)
    views = {
        name: ModelView(name, size, None, price, Abilities(), healthy=1, in_flight=0)
        for name, size, price in facts
    }
    return Fleet(MappingProxyType(views))


@dataclass(frozen=True, slots=True)
class Stage:
    """What a policy is replayed with: all targets by name (models are targets too), and a fleet."""

    targets: Mapping[str, Policy]
    fleet: Fleet


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of n rows with k models.

    `chances` [n, k]: of each model to be the one whose answer the client gets; rows sum to 1.
    `asked` [n, k]: how often it is asked on average, thrown-away answers included; cost is counted
    over these. `expected` [n, k] is what the policy said it expected of each, NaN where it did not.
    `reasons` counts what was noted.
    """

    chances: Floats
    asked: Floats
    expected: Floats
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Of one row, [k] each."""

    chances: Floats
    asked: Floats
    expected: Floats
    reason: str


def replayed(
    name: str,
    rows: Rows,
    stage: Stage,
    seed: int = 0,
    watch: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
) -> Replayed:
    """Replay `stage.targets[name]` over `rows`; raises `ReplayError` for what rows cannot tell.

    `seed` fixes the requests' draws. `watch` may pass the results through a progress bar. Rows are
    independent, so several are replayed at a time, each as one request is served.
    """
    requests = requests_of(rows, seed, name)
    replay = _Replay(name, rows, stage)
    found: Iterable[Any] = _in_order(replay.row, enumerate(requests))
    outcomes: list[_Outcome] = list(found if watch is None else watch(found))
    return Replayed(
        chances=np.stack([outcome.chances for outcome in outcomes]),
        asked=np.stack([outcome.asked for outcome in outcomes]),
        expected=np.stack([outcome.expected for outcome in outcomes]),
        reasons=Counter(outcome.reason for outcome in outcomes if outcome.reason),
    )


def _in_order(
    function: Callable[[tuple[int, Request]], _Outcome], given: Iterator[tuple[int, Request]]
) -> Iterator[_Outcome]:
    """As `map`, by a thread per core, with a bounded number of rows on their way."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        while portion := [*islice(given, AHEAD)]:
            yield from threads.map(function, portion)


class _Replay:
    """One policy over one table of rows; holds nothing that changes from row to row."""

    def __init__(self, name: str, rows: Rows, stage: Stage) -> None:
        self._name = name
        self._rows = rows
        self._stage = stage
        self._places = {model: place for place, model in enumerate(rows.models)}

    def row(self, numbered: tuple[int, Request]) -> _Outcome:
        """What comes of one row, over everything that chance may do with it."""
        number, request = numbered
        decision = self._decided(request)
        reason = decision.reason
        chances, asked = self._nothing(), self._nothing()
        for arm, chance in decision.chances.items():
            if arm in self._places:
                chances[self._places[arm]] += chance
                asked[self._places[arm]] += chance
                continue
            performance = self._performed(arm, number, request)
            chances += chance * performance.given
            asked += chance * performance.asked
            if arm == decision.arm:
                reason = performance.reason or reason
        expected = np.full(len(self._places), np.nan)
        for target, score in decision.expected.items():
            if target in self._places:
                expected[self._places[target]] = score
        return _Outcome(chances, asked, expected, reason)

    def _decided(self, request: Request) -> Decision:
        try:
            return decided(self._name, request, self._stage.targets, self._stage.fleet)
        except KeyError as error:
            named = str(error.args[0])
            if named in self._stage.targets:
                raise
            raise ReplayError(_missing(named)) from None

    def _performed(self, arm: str, number: int, request: Request) -> _Performance:
        if arm not in self._stage.targets or arm in self._stage.fleet.models:
            raise ReplayError(_missing(arm))
        performance = _Performance(self._rows, number, self._stage, request, self._nothing())
        performance.run(arm, request)
        return performance

    def _nothing(self) -> Floats:
        return np.zeros(len(self._places))


@dataclass(slots=True)
class _Performance:
    """One policy's whole answer to one row: every step performed with what was recorded."""

    rows: Rows
    number: int
    stage: Stage
    request: Request
    asked: Floats
    given: Floats = field(init=False)
    reason: str = ""
    _models: dict[Attempt, int] = field(default_factory=dict)
    _heard: dict[Attempt, int] = field(default_factory=dict)
    _written: str = ""
    _ended: bool = False

    def __post_init__(self) -> None:
        self.given = np.zeros_like(self.asked)

    def run(self, target: str, request: Request) -> None:
        """Drive it to its end, and find out whose answer it gave."""
        self._driven(target, request)
        if not self._ended:
            self.given[self._author(target)] = 1.0

    def _driven(self, target: str, request: Request) -> Ended:
        policy = self.stage.targets.get(target)
        if policy is None:
            raise ReplayError(_missing(target))
        steps = policy.route(request, self.stage.fleet)
        reply: Any = None
        try:
            while True:
                reply = self._reply(steps.send(reply), target)
        except StopIteration as stop:
            ended: Ended = stop.value
        finally:
            steps.close()
        if isinstance(ended, Failed):
            raise ReplayError(f"{target} failed on row {self.number + 1}: {ended.fault.message}")
        return ended

    def _reply(self, step: Step, target: str) -> Any:
        match step:
            case Open():
                return self._open(step, target)
            case Next():
                return self._next(step, target)
            case Relay():
                return self._relay(step.attempt)
            case Route():
                return self._driven(step.target, step.request)
            case Compute():
                return step.function(*step.arguments)
            case Emit():
                self._emit(step, target)
            case Note():
                self.reason = step.reason
            case Close():
                pass
            case _:
                kind = type(step).__name__
                raise ReplayError(f"{target} asks a backend for what rows do not hold ({kind})")
        return None

    def _open(self, step: Open, target: str) -> Attempt:
        self._check(step, target)
        try:
            model = self.rows.models.index(step.model)
        except ValueError:
            raise ReplayError(_missing(step.model)) from None
        attempt = Attempt(len(self._models), step.model, BACKEND)
        self._models[attempt] = model
        return attempt

    def _check(self, step: Open, target: str) -> None:
        """That the rows' answers are answers to what is asked here."""
        asked = step.request
        same = asked.surface is self.request.surface
        if not same or asked.body.get("messages") != self.request.body.get("messages"):
            raise ReplayError(
                f"{target} asks {step.model} a question of its own, such as a grade: rows hold no "
                "answer to it"
            )
        changed = sorted(step.changes.keys() - ON_THE_WAY)
        if changed:
            raise ReplayError(
                f"{target} asks {step.model} with {changed[0]} set: the rows' answers were not "
                "asked for so, and hold texts only"
            )

    def _next(self, step: Next, target: str) -> Event:
        """The first attempt's text in one piece, then its end."""
        for attempt in step.attempts:
            self._start(attempt)
        attempt = step.attempts[0]
        heard = self._heard[attempt]
        self._heard[attempt] += 1
        if heard:
            return Finished(attempt, "stop")
        outputs = self.rows.outputs
        text = None if outputs is None else outputs[self.number][self._models[attempt]]
        if text is None:
            raise ReplayError(
                f"{target} reads answers, and row {self.number + 1} holds none of "
                f"{attempt.model}: add the column output/{attempt.model}"
            )
        return Delta(attempt, text)

    def _start(self, attempt: Attempt) -> None:
        if attempt not in self._heard:
            self._heard[attempt] = 0
            self.asked[self._models[attempt]] += 1

    def _relay(self, attempt: Attempt) -> Finished:
        self._start(attempt)
        self.given[self._models[attempt]] = 1.0
        self._ended = True
        return Finished(attempt, "stop")

    def _emit(self, step: Emit, target: str) -> None:
        if step.choice or step.message is not None:
            raise ReplayError(f"{target} writes more than one text: rows hold a score for one")
        self._written += step.text

    def _author(self, target: str) -> int:
        """The model whose recorded answer was written out."""
        outputs = self.rows.outputs
        for model in dict.fromkeys(self._models.values()):
            if outputs is not None and outputs[self.number][model] == self._written:
                return model
        raise ReplayError(
            f"{target} writes an answer of its own: rows hold a score for each model's, none for it"
        )


def _missing(name: str) -> str:
    return (
        f"the policy asks {name}, for which the rows hold no score: map a column to it with "
        f"--as {name}=COLUMN"
    )
