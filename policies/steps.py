"""Steps: the small model writes; a step that looks hard, or turns out badly, is the large model's.

A step ends with a separator, such as an empty line. Two ways to tell who writes it:

    look    the entropy of the small model's first token of the step (GlimpRouter, arXiv 2601.05110)
    grade   the large model grades the drafted step in one token (SpecReason, arXiv 2504.07891)

The hand-off is text: the two may have different tokenizers, and their engines need no gate. The
small model's call runs on from step to step and is closed when the large one takes over. Separators
and stop strings are looked for here, in the text of both, and not by the backends: few servers say
at which of several strings they stopped, and none sees one that began in the other model's text.
The price is the tokens that are on their way when a call is closed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from policies.duet.asked import asked_as_text
from policies.duet.handoff import Handoff
from policies.duet.pen import Pen
from policies.duet.sheet import Border, Piece, Sheet, refuse_no_border
from router.fleet import Fleet
from router.phrases import Phrase, close, draft, note, route
from router.steps import (
    Alternative,
    Ended,
    Failed,
    Fault,
    Finished,
    ModelName,
    Request,
    Steps,
    Surface,
    TargetName,
)

TOP = 20
"""Alternatives that a look takes in, as in the paper; fewer where a backend returns fewer."""
GRADE_PROMPT = (
    "Grade the last step of this solution. Say only one digit from 0 (wrong) to 9 (right)."
)


@dataclass(frozen=True, slots=True)
class Grade:
    """The large model's mark for a drafted step, in one token."""

    accept: int = 7
    """The lowest digit that accepts; 7 of 9 in the paper."""
    prompt: str = GRADE_PROMPT
    """What it is asked, in a message after the answer so far, which ends with the drafted step."""

    def __post_init__(self) -> None:
        if not 0 <= self.accept <= 9:
            raise ValueError("grade.accept: a digit from 0 to 9")
        if not self.prompt:
            raise ValueError("grade.prompt: ask for a digit")


@dataclass(frozen=True, slots=True)
class Stepwise:
    """The small model writes, step by step; the large one where a look or a grade demands it."""

    reasons: ClassVar[tuple[str, ...]] = (
        "looked",
        "graded",
        "one_model",
        "small_failed",
        "large_failed",
    )

    small: ModelName
    """The model that begins every step."""
    large: ModelName
    """The model that writes the hard ones."""
    threshold: float = 0.9
    """Entropy of a step's first token, in nats over its 20 likeliest alternatives as if there were
    no others, from which on the large model writes the step; 0.9 in the paper. Not for `grade`."""
    grade: Grade | None = None
    """Let the large model grade the small one's whole step, and write it anew if it is bad."""
    separator: str = "\n\n"
    """What ends a step, where white space alone is none. Not a space at its end: tokens begin with
    spaces, and a prompt that ends in one is a poor prompt."""
    longest: int = 512
    """Tokens after which a step ends without a separator."""
    final: str | None = None
    """Text after which the large model writes all the rest, such as `</think>`."""
    handoff: Literal["message", "prompt"] = "message"
    """How a chat is handed over: as a last message to continue, or as the prompt that the model's
    chat template makes of it. Models that think need `prompt`, which in turn needs vLLM."""
    alone: TargetName | None = None
    """Who answers what cannot be handed over as text; default: the large model."""

    def __post_init__(self) -> None:
        if self.small == self.large:
            raise ValueError("large: must be another model than small")
        if not self.threshold >= 0:
            raise ValueError("threshold: an entropy is at least 0 nats")
        refuse_no_border(self.separator, self.longest)
        if self.final == "":
            raise ValueError("final: must not be empty")

    def route(self, request: Request, fleet: Fleet) -> Steps:
        """Write the answer with both models."""
        asked = asked_as_text(request)
        if isinstance(asked, str):
            yield from note("one_model", asked)
            return (yield from route(self.alone or self.large, request))
        sheet = Sheet(request, asked)
        renders = self.handoff == "prompt" and request.surface is Surface.CHAT
        small, large = (
            Pen(Handoff(model, renders, fleet.models[model].context), looks)
            for model, looks in ((self.small, self._looks(fleet)), (self.large, 0))
        )
        yield from note("graded" if self.grade else "looked")
        ended = yield from self._write(sheet, small, large)
        yield from small.drop()
        yield from large.drop()
        return ended

    def _looks(self, fleet: Fleet) -> int:
        """How many alternatives per token to ask the small model for."""
        known = fleet.models[self.small].abilities.max_logprobs
        return 0 if self.grade else TOP if known is None else min(TOP, known)

    def _write(self, sheet: Sheet, small: Pen, large: Pen) -> Steps:
        """Step after step, until the answer ends or only one model is left to write."""
        while True:
            if small.lost or large.lost or sheet.final:
                pen, other = (small, large) if large.lost else (large, small)
                yield from other.drop()
                ended = yield from pen.pour(sheet)
            else:
                ended = yield from self._step(sheet, small, large)
            if isinstance(ended, Finished):
                yield from self._told(small, large)
                return ended
            if isinstance(ended, Failed):
                pen, other = (small, large) if ended.attempt.model == self.small else (large, small)
                if not (ended.fault.elsewhere or sheet.begun):
                    return ended
                pen.lost = True
                yield from self._told(small, large, ended.fault)
                if other.lost:
                    return replace(ended, sent=ended.sent or sheet.begun, spare=False)
                if not sheet.begun:
                    yield from other.drop()
                    return (yield from route(other.model, sheet.request))

    def _step(self, sheet: Sheet, small: Pen, large: Pen) -> Phrase[Ended | None]:
        """One step; None if the answer goes on."""
        step = self._border(sheet)
        judge = self._look if self.grade is None else self._draft
        good = yield from judge(sheet, small, large)
        if isinstance(good, Failed):
            return None if small.moves(good) else good
        if good:
            small.steps += 1
            return (yield from small.pour(sheet, step))
        yield from small.drop()
        large.steps += 1
        ended = yield from large.pour(sheet, step, self.longest)
        if not sheet.final:
            yield from large.drop()
        return ended

    def _look(self, sheet: Sheet, small: Pen, large: Pen) -> Phrase[bool | Failed]:
        """Whether the small model is sure how the step begins; it has written no more than that."""
        nats, held = 0.0, list[Piece]()
        while True:
            heard = yield from small.hear(sheet)
            if isinstance(heard, Failed):
                return heard
            if isinstance(heard, Finished):
                break
            held.append(heard)
            if heard.text.isspace():
                continue
            if not small.sees:
                return (yield from small.refuse("it tells no log-probabilities", "no_logprobs"))
            if heard.tokens and heard.tokens[0].top:
                nats = entropy(heard.tokens[0].top)
                break
        small.put_back(held)
        return nats < self.threshold

    def _draft(self, sheet: Sheet, small: Pen, large: Pen) -> Phrase[bool | Failed]:
        """Whether the large model likes the small one's step. The small one meanwhile writes on."""
        step, held = self._border(sheet), list[Piece]()
        while not step.over:
            heard = yield from small.hear(sheet)
            if isinstance(heard, Failed):
                return heard
            if isinstance(heard, Finished):
                break
            kept, rest = step.take(heard)
            held.append(kept)
            small.put_back(rest)
        small.put_back(held)
        if self.grade is None or not step.text.strip():
            return True
        asked = _grading(sheet, step.text, self.grade)
        mark = yield from draft(large.model, asked)
        if isinstance(mark, Failed):
            large.lost = True
            return True
        yield from close(mark.attempt)
        digit = re.search(r"\d+", mark.text)
        return digit is not None and int(digit[0]) >= self.grade.accept

    def _border(self, sheet: Sheet) -> Border:
        before = sheet.tail(len(self.final) - 1) if self.final else ""
        return Border(self.separator, self.longest, self.final, before)

    def _told(self, small: Pen, large: Pen, fault: Fault | None = None) -> Phrase[None]:
        """Say who wrote how many steps, and whether one of the two was lost."""
        reason = "graded" if self.grade else "looked"
        if small.lost or large.lost:
            reason = "small_failed" if small.lost else "large_failed"
        steps = small.steps + large.steps
        said = f"{large.steps} of {steps} steps by {large.model}"
        yield from note(reason, f"{said}, {fault.summary}" if fault else said)


def entropy(top: Sequence[Alternative]) -> float:
    """In nats, of the likeliest `TOP` alternatives as if there were no others."""
    logprobs = sorted((alternative.logprob for alternative in top), reverse=True)[:TOP]
    chances = [math.exp(logprob) for logprob in logprobs]
    whole = math.fsum(chances)
    if not whole > 0:  # logprobs of -inf, or none
        return math.inf
    return -math.fsum(p / whole * math.log(p / whole) for p in chances if p > 0)


def _grading(sheet: Sheet, step: str, grade: Grade) -> Request:
    """The request for a grade: the conversation, the answer with the drafted step, the question."""
    body = sheet.request.body
    asked = body.get("messages") or [{"role": "user", "content": body.get("prompt")}]
    said = {"role": "assistant", "content": sheet.text + step}
    kept = {name: body[name] for name in ("chat_template_kwargs",) if name in body}
    messages = [*asked, said, {"role": "user", "content": grade.prompt}]
    return sheet.request.asking({**kept, "messages": messages, "max_tokens": 1, "temperature": 0})
