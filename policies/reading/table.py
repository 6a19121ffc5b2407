"""What each way of reading is worth, by model, length and task: the expected score, 0 to 1.

What is believed before anything was seen here are the results that LaRA published for eleven models
(`published.json`). Outcomes of one's own count beside them. A model that is not among the eleven is
placed between those of its size. Knows numbers and names: must not know documents, requests, or how
tasks are told.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from policies.reading.documents import TASKS, Way

__all__ = [
    "STRENGTH",
    "WAYS",
    "Known",
    "Outcome",
    "Table",
    "published",
    "read_table",
    "stated",
]

Reals: TypeAlias = npt.NDArray[np.float64]

WAYS: tuple[Way, ...] = ("passages", "whole")
"""In the order in which arrays hold them."""
FILE = Path(__file__).with_name("published.json")

EVERYTHING = 3000
"""Tokens of the passages that LaRA's models were given: five of 600. A text of so many or fewer is
its own passages, so here both ways are one."""
STRENGTH = 12.6
"""Outcomes of one's own that weigh as much as what was published: the variance of one score (0.202,
the mean of p(1 - p) over the table) in units of the squared error of a model's placing (0.0160,
found by leaving each model out). `tandem bench context` finds both."""
OCTAVES = 2.0
"""How alike models of different sizes count: the standard deviation of a Gaussian over log2 of
active parameters, so that four times as many weigh 0.61."""
ANY = 0.2
"""What a model of any size, or of a size that nobody knows, weighs beside one of the same size."""
_SIGNS = re.compile(r"[^a-z0-9]")


@dataclass(frozen=True, slots=True)
class Known:
    """A model of the table: active parameters in billions, and mean scores [lengths, tasks, ways].

    `also` are other spellings of its name.
    """

    name: str
    params_b: float | None
    scores: Reals
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer of one's own: the tokens of the documents, how likely each task was, the score."""

    model: str
    tokens: float
    tasks: tuple[float, ...]
    way: Way
    score: float


@dataclass(frozen=True, slots=True)
class Table:
    """Expected scores, by `knots` of length: `EVERYTHING`, and those that were published.

    Between knots it is interpolated in the logarithm of the tokens, beyond them nothing changes.
    At the lowest knot both ways are worth the better of what they are at the next: a shorter text
    makes nothing worse, and the ways become one there. Nobody has measured that. `own` holds sums
    and counts [2, knots, tasks, ways] of own outcomes by model, as it was called.
    """

    models: tuple[Known, ...]
    lengths: tuple[float, ...]
    source: str
    strength: float = STRENGTH
    own: Mapping[str, Reals] = field(default_factory=dict)

    def value(
        self,
        model: str,
        tokens: float,
        probabilities: Sequence[float],
        *,
        like: str | None = None,
        params_b: float | None = None,
    ) -> dict[Way, float]:
        """The expected score of each way for documents of so many `tokens`, over likely tasks.

        `like` names a model of the table that this one is taken for; `params_b` are its active
        parameters, for one that is not in it. Raises ValueError for a `like` that is not there.
        """
        by_task = self.by_task(model, tokens, like=like, params_b=params_b)
        passages, whole = (np.asarray(probabilities, float) @ by_task).tolist()
        return {"passages": passages, "whole": whole}

    def by_task(
        self, model: str, tokens: float, *, like: str | None = None, params_b: float | None = None
    ) -> Reals:
        """As `value`, of each task, [tasks, ways]."""
        prior = self.placed(model, like=like, params_b=params_b)
        believed = np.concatenate([prior[:1].max(axis=2, keepdims=True).repeat(2, 2), prior])
        sums, counts = self.own.get(_spelled(model), np.zeros((2, *believed.shape)))
        believed = (self.strength * believed + sums) / (self.strength + counts)
        return np.tensordot(self._near(tokens), believed, 1)

    def placed(
        self, model: str, *, like: str | None = None, params_b: float | None = None
    ) -> Reals:
        """What is believed of a model before its own outcomes, [lengths, tasks, ways]."""
        if like is not None and self.known(like) is None:
            names = ", ".join(each.name for each in self.models)
            raise ValueError(f"the table has no model {like}: it has {names}")
        if (found := self.known(model if like is None else like)) is not None:
            return found.scores
        weights = np.array([ANY + _alike(params_b, each.params_b) for each in self.models])
        scores = np.stack([each.scores for each in self.models])
        return np.tensordot(weights / weights.sum(), scores, 1)

    def known(self, model: str) -> Known | None:
        """The entry of a model: the longest spelling that the name without its owner begins with.

        Case and signs count for nothing: `meta-llama/Llama-3.1-8B-Instruct` is `Llama-3.1-8B`.
        """
        called = _spelled(model.rsplit("/", 1)[-1])
        best: tuple[int, Known | None] = (0, None)
        for each in self.models:
            for name in map(_spelled, (each.name, *each.also)):
                if len(name) > best[0] and called.startswith(name):
                    best = (len(name), each)
        return best[1]

    def without(self, *names: str) -> Table:
        """The same without some models of the table."""
        return replace(self, models=tuple(each for each in self.models if each.name not in names))

    def learned(self, outcomes: Sequence[Outcome]) -> Table:
        """The same, knowing these too. A row counts for every task as far as that was likely, and
        for both knots that it lies between. Raises ValueError for a score that is not 0 to 1.
        """
        own = {name: counted.copy() for name, counted in self.own.items()}
        for each in outcomes:
            if not 0 <= each.score <= 1:
                raise ValueError(f"a score of {each.score:g}: scores are 0 to 1")
            counted = own.setdefault(_spelled(each.model), np.zeros(self._shape))
            share = np.outer(self._near(each.tokens), each.tasks)
            way = WAYS.index(each.way)
            counted[0, :, :, way] += share * each.score
            counted[1, :, :, way] += share
        return replace(self, own=own)

    def having(self, own: Mapping[str, Reals]) -> Table:
        """The same with these for its `own`. Raises ValueError for arrays of another shape."""
        if strange := [name for name, counted in own.items() if counted.shape != self._shape]:
            raise ValueError(f"the outcomes of {strange[0]} are of another shape")
        return replace(self, own=own)

    @property
    def _shape(self) -> tuple[int, ...]:
        return (2, len(self.lengths) + 1, len(TASKS), len(WAYS))

    def _near(self, tokens: float) -> Reals:
        """How much each knot counts at this length; they sum to 1."""
        knots = np.log([EVERYTHING, *self.lengths])
        at = math.log(max(tokens, 1.0))
        return np.array([np.interp(at, knots, one) for one in np.eye(len(knots))])


def _alike(one: float | None, other: float | None) -> float:
    if not one or not other:
        return 0.0
    return math.exp(-0.5 * (math.log2(one / other) / OCTAVES) ** 2)


def _spelled(name: str) -> str:
    return _SIGNS.sub("", name.lower())


def read_table(said: Mapping[str, Any]) -> Table:
    """The table that a JSON object states. Raises KeyError, TypeError or ValueError."""
    lengths = tuple(map(float, said["lengths"]))
    models = tuple(_known(name, of, len(lengths)) for name, of in said["models"].items())
    if not models or not lengths:
        raise ValueError("a table of no models or no lengths")
    return Table(models, lengths, str(said["source"]), float(said.get("strength", STRENGTH)))


def _known(name: str, of: Mapping[str, Any], lengths: int) -> Known:
    scores = np.array([of[way] for way in WAYS], float).transpose(1, 2, 0) / 100
    if scores.shape != (lengths, len(TASKS), len(WAYS)):
        raise ValueError(f"the scores of {name} are not of {lengths} lengths, {len(TASKS)} tasks")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"the scores of {name} are not 0 to 100")
    return Known(name, of["params_b"], scores, tuple(of["also"]))


def stated(table: Table) -> dict[str, Any]:
    """What `read_table` reads, without the outcomes of one's own."""
    models = {
        each.name: {
            "params_b": each.params_b,
            "also": list(each.also),
            **{way: _percent(each.scores[:, :, at]) for at, way in enumerate(WAYS)},
        }
        for each in table.models
    }
    about = {"source": table.source, "strength": table.strength, "lengths": list(table.lengths)}
    return {**about, "models": models}


def _percent(scores: Reals) -> list[list[float]]:
    return [[round(100 * score, 4) for score in row] for row in scores.tolist()]


@cache
def published() -> Table:
    """LaRA's results, and nothing of one's own."""
    return read_table(json.loads(FILE.read_text(encoding="utf-8")))
