"""Cascade: the small model drafts; the large one answers only if a check on the draft says so.

The client sees one answer: an accepted draft is relayed byte for byte, a rejected one is dropped
unseen. Checks (FrugalGPT, arXiv 2305.05176, uses a learned one; these need no training): the
draft's mean token log-probability, a regular expression, a JSON schema, and the verdict of a model
in one token. All that are set must pass. What they cost is counted: the draft, the grade, the wait.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from policies.verdicts.checks import (
    asking_logprobs,
    mean_logprob,
    refuse_no_schema,
    schema_for,
    schema_problem,
)
from policies.verdicts.grading import Grade, graded
from router.fleet import Fleet
from router.phrases import compute, draft, note, relay, route
from router.steps import (
    UNCHANGED,
    Draft,
    Failed,
    ModelName,
    Request,
    Step,
    Steps,
    Surface,
    TargetName,
)

DRAFTED = frozenset({Surface.CHAT, Surface.COMPLETIONS, Surface.RESPONSES, Surface.MESSAGES})
"""Surfaces whose answers are text. Vectors and scores of two models must not even be mixed."""


@dataclass(frozen=True, slots=True)
class Cascade:
    """Small first, large if the draft fails a check."""

    reasons: ClassVar[tuple[str, ...]] = (
        "draft_accepted",
        "draft_rejected",
        "draft_failed",
        "no_draft",
    )

    small: ModelName
    """The model that drafts."""
    large: TargetName
    """The model or policy that answers if the draft is rejected."""
    mean_logprob: float | None = None
    """Accept from this mean natural log-probability per token upwards: -0.1 is sure, -1 is not."""
    pattern: str | None = None
    """Accept if this regular expression is found in the draft."""
    json_schema: Mapping[str, Any] | Literal["request"] | None = None
    """Accept JSON that this schema allows; `request` takes the schema of `response_format`."""
    grade: Grade | None = None
    """Accept if this model says so."""

    def __post_init__(self) -> None:
        checks = (self.mean_logprob, self.pattern, self.json_schema, self.grade)
        if all(check is None for check in checks):
            raise ValueError("set one of mean_logprob, pattern, json_schema, grade")
        if self.mean_logprob is not None and not self.mean_logprob <= 0:
            raise ValueError("mean_logprob: the logarithm of a probability is at most 0")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern: not a regular expression: {error}") from None
        refuse_no_schema(self.json_schema)

    def route(self, request: Request, fleet: Fleet) -> Steps:
        """Relay the draft, or the large model's answer."""
        if request.surface not in DRAFTED:
            yield from note("no_draft", f"{request.surface.value} answers hold no text to check")
            return (yield from route(self.large, request))
        changes = UNCHANGED if self.mean_logprob is None else asking_logprobs(request)
        drafted = yield from draft(self.small, request, changes)
        if isinstance(drafted, Failed):
            if not drafted.fault.elsewhere:
                return drafted
            yield from note("draft_failed", drafted.fault.summary)
            return (yield from route(self.large, request))
        accepted, why = yield from self._judge(request, drafted)
        if accepted:
            yield from note("draft_accepted", why)
            return (yield from relay(drafted.attempt))
        yield from note("draft_rejected", why)
        return (yield from route(self.large, request))

    def _judge(self, request: Request, draft: Draft) -> Generator[Step, Any, tuple[bool, str]]:
        """Cheap checks first; the first that fails decides. Says whether, and why."""
        said = []
        if self.mean_logprob is not None:
            mean = mean_logprob(draft)
            if mean is None:
                return False, "the draft came without log-probabilities"
            said.append(f"mean logprob {mean:.3f}")
            if mean < self.mean_logprob:
                return False, f"mean logprob {mean:.3f} < {self.mean_logprob:g}"
        if self.pattern is not None:
            if not (yield from compute(re.search, self.pattern, draft.text)):
                return False, "the pattern is not in the draft"
            said.append("pattern found")
        if self.json_schema is not None:
            schema = schema_for(self.json_schema, request)
            if problem := (yield from compute(schema_problem, schema, draft.text)):
                return False, problem
            said.append("schema holds")
        if self.grade is not None:
            heard = yield from graded(self.grade, request, draft)
            verdict = "" if isinstance(heard, Failed) else heard.text
            said.append(f"grade {verdict!r}")
            if not self.grade.accepts(verdict):
                return False, f"grade {verdict!r}"
        return True, ", ".join(said)
