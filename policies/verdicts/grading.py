"""Grading: a model's verdict on a draft, in one token.

Two ways to read it: the word that it said, or the probability of all the words that would accept
(as in G-Eval, arXiv 2303.16634), where its log-probabilities are known. The question comes first in
the default prompt, so that a prefix cache still holds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.fleet import Fleet
from router.phrases import Phrase, draft, together
from router.steps import UNCHANGED, Draft, Failed, ModelName, Request

QUESTION = "{question}"
DRAFT = "{draft}"
GRADE_PROMPT = f"{QUESTION}\n\nSolution:\n{DRAFT}\n\nIs this solution right? Say only yes or no."
"""One word to answer."""
STEP_PROMPT = (
    f"{QUESTION}\n\nSolution so far:\n{DRAFT}\n\nIs this right so far? Say only yes or no."
)
"""The same about a beginning."""
TOP = 20
"""Alternatives that a probability is read from; fewer where a backend returns fewer."""


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

    def accepts(self, word: str) -> bool:
        """Whether this first token is one of those that accept."""
        return word.strip().lower() in {accepted.strip().lower() for accepted in self.accept}


@dataclass(frozen=True, slots=True)
class StepGrade(Grade):
    """A model's verdict on an answer that is still being written, in one token."""

    prompt: str = STEP_PROMPT
    """What it is asked; {question} is the last user message, {draft} the answer so far."""


def graded(
    grade: Grade, request: Request, drafted: Draft, asking: Mapping[str, Any] = UNCHANGED
) -> Phrase[Draft | Failed]:
    """The grader's one token on a draft for `request`; `asking` adds to what it is asked with."""
    prompt = grade.prompt.replace(QUESTION, question_of(request)).replace(DRAFT, drafted.text)
    messages = [{"role": "user", "content": prompt}]
    asked = request.asking({"messages": messages, "max_tokens": 1, "temperature": 0, **asking})
    return (yield from draft(grade.by, asked))


def all_graded(
    grade: Grade, request: Request, fleet: Fleet, drafts: Sequence[Draft]
) -> Phrase[list[Draft | Failed]]:
    """The grader's one token on each of these drafts, asked all at once, with its probabilities."""
    asking = asking_top(fleet.models[grade.by].abilities.max_logprobs)
    return (yield from together([graded(grade, request, one, asking) for one in drafts]))


def asking_top(most: int | None) -> Mapping[str, Any]:
    """What to ask a grader with whose probabilities are wanted, and that returns this many."""
    top = TOP if most is None else min(TOP, most)
    return {"logprobs": True, "top_logprobs": top} if top else UNCHANGED


def likelihood(grade: Grade, verdict: Draft) -> float:
    """The probability, 0 to 1, that the grader accepts; without any, what it said decides."""
    top = verdict.tokens[0].top if verdict.tokens else ()
    if not top:
        return float(grade.accepts(verdict.text))
    return min(math.fsum(math.exp(one.logprob) for one in top if grade.accepts(one.text)), 1.0)


def question_of(request: Request) -> str:
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
