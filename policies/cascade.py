"""Cascade: the small model drafts; the large one answers only if a check on the draft says so.

The client sees one answer: an accepted draft is relayed byte for byte, a rejected one is dropped
unseen. Checks (FrugalGPT, arXiv 2305.05176, uses a learned one; these need no training): the
draft's mean token log-probability, a regular expression, a JSON schema, and the verdict of a model
in one token. All that are set must pass. What they cost is counted: the draft, the grade, the wait.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
QUESTION = "{question}"
DRAFT = "{draft}"
GRADE_PROMPT = f"{QUESTION}\n\nSolution:\n{DRAFT}\n\nIs this solution right? Say only yes or no."
"""One word to answer, and the question first, so that a prefix cache still holds it."""


@dataclass(frozen=True, slots=True)
class Grade:
    """A model's verdict on the draft, in one token."""

    by: ModelName
    """Who judges; the small model itself is cheapest."""
    prompt: str = GRADE_PROMPT
    """What it is asked; {question} is the last user message, {draft} the draft's text."""
    accept: tuple[str, ...] = ("yes",)
    """First tokens that accept the draft; case and surrounding space do not count."""

    def __post_init__(self) -> None:
        if DRAFT not in self.prompt:
            raise ValueError("grade.prompt: must contain {draft}")
        if not self.accept:
            raise ValueError("grade.accept: name at least one word")


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
        if isinstance(self.json_schema, Mapping):
            import jsonschema_rs  # only here: vLLM, which loads the gate from beside, has it not

            try:
                jsonschema_rs.meta.validate(dict(self.json_schema))
            except jsonschema_rs.ValidationError as error:
                raise ValueError(f"json_schema: not a JSON schema: {error.message}") from None

    def route(self, request: Request, fleet: Fleet) -> Steps:
        """Relay the draft, or the large model's answer."""
        if request.surface not in DRAFTED:
            yield from note("no_draft", f"{request.surface.value} answers hold no text to check")
            return (yield from route(self.large, request))
        changes = UNCHANGED if self.mean_logprob is None else _asking_logprobs(request)
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
            mean = _mean_logprob(draft)
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
            if problem := (yield from compute(_schema_problem, self._schema(request), draft.text)):
                return False, problem
            said.append("schema holds")
        if self.grade is not None:
            verdict = yield from _graded(self.grade, request, draft)
            said.append(f"grade {verdict!r}")
            if verdict.strip().lower() not in {word.strip().lower() for word in self.grade.accept}:
                return False, f"grade {verdict!r}"
        return True, ", ".join(said)

    def _schema(self, request: Request) -> Mapping[str, Any] | None:
        """The schema in force; None if the request was to bring one and did not."""
        if self.json_schema != "request":
            return self.json_schema
        form = request.body.get("response_format")
        stated = form.get("json_schema") if isinstance(form, dict) else None
        schema = stated.get("schema") if isinstance(stated, dict) else None
        return schema if isinstance(schema, dict) else None


def _asking_logprobs(request: Request) -> Mapping[str, Any]:
    """Chat wants a switch, completions a number of alternatives; 0 of them cost least."""
    if request.body.get("logprobs"):
        return UNCHANGED
    return {"logprobs": 0 if request.surface is Surface.COMPLETIONS else True}


def _mean_logprob(draft: Draft) -> float | None:
    known = [token.logprob for token in draft.tokens if token.logprob is not None]
    return sum(known) / len(known) if known else None


def _schema_problem(schema: Mapping[str, Any] | None, text: str) -> str | None:
    """What is wrong with `text` as JSON of this schema; None if nothing is."""
    try:
        value = json.loads(text)
    except ValueError:
        return "the draft is not JSON"
    if schema is None:
        return None
    import jsonschema_rs

    try:
        jsonschema_rs.validate(dict(schema), value, offline=True)  # the schema may be a client's
    except jsonschema_rs.ValidationError as error:  # its text quotes the draft: only say where
        place = "/".join(str(step) for step in error.instance_path) or "the top"
        return f"the draft does not fit the schema at {place}"
    except ValueError:
        return "the schema is no JSON schema"
    return None


def _graded(grade: Grade, request: Request, drafted: Draft) -> Generator[Step, Any, str]:
    """The grader's one token; empty if it could not be asked."""
    prompt = grade.prompt.replace(QUESTION, _question(request)).replace(DRAFT, drafted.text)
    asked = request.asking(
        {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 1,
            "temperature": 0,
        }
    )
    verdict = yield from draft(grade.by, asked)
    return "" if isinstance(verdict, Failed) else verdict.text


def _question(request: Request) -> str:
    """The last user message as text, or the prompt of a completion."""
    messages: Any = request.body.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                parts = (part.get("text") for part in content if isinstance(part, dict))
                return "\n".join(text for text in parts if isinstance(text, str))
            return content if isinstance(content, str) else ""
    prompt = request.body.get("prompt")
    return prompt if isinstance(prompt, str) else ""
