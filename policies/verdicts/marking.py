"""Marking: what a verifier says of the samples that were drawn for one request.

A verifier gives each sample a mark, or none; the one with the highest is the best. How high is good
enough, and what happens then, is the policy's business. Samples are marked stage by stage: a
verifier that looks at each alone marks the new ones only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from policies.verdicts.checks import (
    Schema,
    asking_logprobs,
    mean_logprob,
    schema_for,
    schema_problem,
)
from policies.verdicts.grading import Grade, all_graded, likelihood
from policies.verdicts.scoring import Scoring, scores_of
from policies.verdicts.votes import Majority, votes
from router.fleet import Fleet
from router.phrases import Phrase, compute
from router.steps import UNCHANGED, Draft, Failed, Request


@dataclass(slots=True)
class Drawn:
    """The samples of one request so far, each with its mark once it has one.

    `best` is the place of the sample with the highest mark; None where no sample has any. `enough`
    once that is what the policy wants. `heated` if they were drawn at a higher temperature than the
    client asked for; `said` is the verifier's word, `why` what went wrong, if anything did. With a
    calibration, `bins` are those of the best marks so far, `handed` once the plan asks the large
    model, and `expected` the chance that each one's answer is right.
    """

    samples: list[Draft]
    marks: list[float | None]
    best: int | None = None
    enough: bool = False
    said: str = ""
    heated: bool = False
    why: str = ""
    bins: tuple[int, ...] = ()
    handed: bool = False
    expected: Mapping[str, float] = field(default_factory=lambda: UNCHANGED)

    @property
    def unmarked(self) -> list[Draft]:
        """Those that were drawn since the last look."""
        return self.samples[len(self.marks) :]


class Verifier(Protocol):
    """What marks samples. `name` is the setting's."""

    @property
    def name(self) -> str:
        """As the client is told it."""
        ...

    def asking(self, request: Request) -> Mapping[str, Any]:
        """The fields that a call for samples needs, so that they can be marked."""
        ...

    def mark(self, drawn: Drawn, request: Request, fleet: Fleet, total: int) -> Phrase[None]:
        """Mark the samples, of which `total` were asked for; say in `drawn.why` if it cannot."""
        ...


@dataclass(frozen=True, slots=True)
class ByVote:
    """The share of the samples that were asked for, come or not, with the same answer.

    One sample alone has all or nothing, by its log-probability; or, where such are judged `alone`,
    that itself.
    """

    majority: Majority
    name: str = "majority"
    alone: bool = False

    def asking(self, request: Request) -> Mapping[str, Any]:
        """Log-probabilities where one sample may do."""
        may = self.alone or self.majority.sure is not None
        return asking_logprobs(request) if may else UNCHANGED

    def mark(self, drawn: Drawn, request: Request, fleet: Fleet, total: int) -> Phrase[None]:
        """Marks are from 0 to 1."""
        del request, fleet
        counts = yield from compute(votes, drawn.samples, self.majority)
        drawn.marks = [count / total if count else None for count in counts]
        if total == 1:
            drawn.marks = [self._alone(drawn.samples[0]) if counts[0] else None]

    def _alone(self, sample: Draft) -> float | None:
        told, sure = mean_logprob(sample), self.majority.sure
        if self.alone:
            return told
        return None if told is None or sure is None else float(told >= sure)


@dataclass(frozen=True, slots=True)
class BySchema:
    """1 for JSON that the schema allows, 0 for anything else."""

    schema: Schema
    name: str = "json_schema"

    def asking(self, request: Request) -> Mapping[str, Any]:
        """Nothing but text."""
        del request
        return UNCHANGED

    def mark(self, drawn: Drawn, request: Request, fleet: Fleet, total: int) -> Phrase[None]:
        """Each alone."""
        del fleet, total
        schema = schema_for(self.schema, request)
        for sample in drawn.unmarked:
            problem = yield from compute(schema_problem, schema, sample.text)
            drawn.marks.append(float(problem is None))


@dataclass(frozen=True, slots=True)
class ByGrade:
    """How probable it is, 0 to 1, that the grader accepts."""

    grade: Grade
    name: str = "grade"

    def asking(self, request: Request) -> Mapping[str, Any]:
        """Nothing but text."""
        del request
        return UNCHANGED

    def mark(self, drawn: Drawn, request: Request, fleet: Fleet, total: int) -> Phrase[None]:
        """Every new sample is graded, all at once."""
        del total
        for verdict in (yield from all_graded(self.grade, request, fleet, drawn.unmarked)):
            if isinstance(verdict, Failed):
                drawn.why = f"{self.grade.by} did not grade: {verdict.fault.summary}"
                drawn.marks.append(None)
            else:
                drawn.marks.append(likelihood(self.grade, verdict))


@dataclass(frozen=True, slots=True)
class ByScore:
    """What a served reward model says; 0 to 1 or not, as it is served."""

    scoring: Scoring
    name: str = "score"

    def asking(self, request: Request) -> Mapping[str, Any]:
        """Nothing but text."""
        del request
        return UNCHANGED

    def mark(self, drawn: Drawn, request: Request, fleet: Fleet, total: int) -> Phrase[None]:
        """Every new sample is scored, by one step."""
        del fleet, total
        new = drawn.unmarked
        told = yield from scores_of(self.scoring, request, tuple(one.text for one in new))
        if isinstance(told, Failed):
            drawn.why = f"{self.scoring.by} did not score: {told.fault.summary}"
            drawn.marks += [None] * len(new)
        else:
            drawn.marks += told


@dataclass(frozen=True, slots=True)
class ByLogprob:
    """The mean natural log-probability per token, at most 0."""

    name: str = "mean_logprob"

    def asking(self, request: Request) -> Mapping[str, Any]:
        """Log-probabilities."""
        return asking_logprobs(request)

    def mark(self, drawn: Drawn, request: Request, fleet: Fleet, total: int) -> Phrase[None]:
        """None for those of which the backend told none."""
        del request, fleet, total
        drawn.marks = [mean_logprob(sample) for sample in drawn.samples]
        yield from ()
