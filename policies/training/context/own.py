"""Answers of one's own as they were read from files, and the outcomes that they become.

A file may come long before the judge that says which tasks its questions were: what is wrong with
it is told before anything is trained. Knows no file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from policies.reading.documents import Way
from policies.reading.table import WAYS, Outcome

__all__ = ["Answered", "Judged", "Own"]

Judged: TypeAlias = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""From questions to how likely each task is, [questions, tasks]."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer: who gave it, the tokens of the documents, what was read of them, a score (0 to
    1), and either a `question` that is yet to be judged or how likely each task is, [tasks].
    """

    model: str
    tokens: float
    way: Way
    score: float
    question: str | None = None
    tasks: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Own:
    """Answers, of how many `lines`; and why others are left out, with how many there are."""

    answers: Sequence[Answered] = ()
    lines: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Own) -> Own:
        left_out = Counter(self.left_out) + Counter(other.left_out)
        return Own([*self.answers, *other.answers], self.lines + other.lines, left_out)

    def outcomes(self, judged: Judged) -> list[Outcome]:
        """What a table learns from, questions judged."""
        asked = dict.fromkeys(one.question for one in self.answers if one.question is not None)
        likely = dict(zip(asked, judged([*asked]), strict=True)) if asked else {}
        found = []
        for one in self.answers:
            tasks = one.tasks if one.question is None else tuple(map(float, likely[one.question]))
            found.append(Outcome(one.model, one.tokens, tasks, one.way, one.score))
        return found

    @property
    def counts(self) -> Mapping[str, Mapping[Way, int]]:
        """How many answers there are of each model, by way."""
        counted = Counter((one.model, one.way) for one in self.answers)
        models = sorted({one.model for one in self.answers})
        return {model: {way: counted[model, way] for way in WAYS} for model in models}
