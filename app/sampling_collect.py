"""What `tandem calibrate best-of --prompts` does: samples, marks and a large answer to each prompt.

Through a gateway in this process (`app.trial`); the verifier is the policy's own code, performed
(`app.performing`). A prompt's row is kept in the file at once, under a name that follows from all
that it depends on: a run that was broken off goes on, a longer file asks only for what is new.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import orjson

from app.calibration import CalibrationError
from app.performing import Performance, performing
from app.trial import Trial, TrialError
from policies.training.sampling.rows import Origin, Row, Rows, Sample, line_of, rows_of
from policies.training.token_gate import stage
from policies.training.token_gate.journal import Journal
from policies.training.token_gate.prompts import Prompt
from policies.verdicts.checks import asking_logprobs, mean_logprob
from policies.verdicts.marking import ByVote, Drawn, Verifier
from policies.verdicts.votes import vote_of
from router.fleet import Fleet
from router.phrases import Phrase, collect, collect_all, unseen
from router.steps import UNCHANGED, Draft, Failed, Request, Surface, Usage

PAUSES = (1.0, 5.0)
"""Seconds before a call that failed is made again: hours of drawing should not end with one."""
_DIGITS = 32
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is drawn: `samples` of the small model of `origin` and an answer of its large one, by
    this verifier; `judge` is the model that the verifier asks, if it asks one.
    """

    origin: Origin
    verifier: Verifier
    samples: int
    judge: str | None = None


@dataclass(frozen=True, slots=True)
class Collecting:
    """One run of the command, on a gateway that runs."""

    trial: Trial
    plan: Plan
    journal: Journal

    async def run(self, prompts: Sequence[Prompt]) -> Rows:
        """A row for every prompt. Raises `TrialError`; what came before it is kept."""
        named = {self._name(prompt): prompt for prompt in prompts}
        await stage.run("samples", named, self.journal, self._line, self.trial.asking.at_once)
        return rows_of([self.journal[name] for name in named], str(self.journal.file))

    def _name(self, prompt: Prompt) -> str:
        """What the row depends on, in few letters: also what its backends call the models."""
        models = self.trial.rooms.revisions.runtime.config.models
        origin = self.plan.origin
        served = [models[name].served_as for name in (origin.small, origin.large)]
        means = [self.plan.samples, self.trial.asking.max_tokens, origin.temperature]
        content = [served, dict(origin.verifier), means, list(prompt.messages), prompt.answer]
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[
            :_DIGITS
        ]

    async def _line(self, name: str, prompt: Prompt) -> dict[str, Any]:
        return line_of(self.plan.origin, await self._row(name, prompt))

    async def _row(self, name: str, prompt: Prompt) -> Row:
        origin, asked = self.plan.origin, self._asked(prompt)
        more = self._logprobs(asked)
        several = {"n": self.plan.samples, "temperature": origin.temperature, **more}
        async with performing(self.trial, asked) as drawing:
            small = partial(unseen, origin.small, asked)
            first = await _heard(drawing, partial(small, collect, more))
            drafts = await _heard(drawing, partial(small, collect_all, several))
            large = await _heard(drawing, partial(unseen, origin.large, asked, collect))
        if len(drafts) < self.plan.samples:
            raise TrialError(f"{origin.small} gave {len(drafts)} of {self.plan.samples} samples")
        async with performing(self.trial, asked) as judging:
            samples = await self._marked((first, *drafts), asked, judging)
            read = judging.usage(self.plan.judge or "")
        return Row(
            id=name,
            reference=prompt.answer,
            prompt_tokens=float(_usage(first).prompt),
            first=samples[0],
            samples=tuple(samples[1:]),
            large=_sample(large, _usage(large).completion),
            judged=(read.prompt / len(samples), read.completion / len(samples)),
        )

    def _asked(self, prompt: Prompt) -> Request:
        body = {
            "model": self.plan.origin.small,
            "messages": list(prompt.messages),
            "temperature": 0,
            "max_tokens": self.trial.asking.max_tokens,
        }
        return Request(Surface.CHAT, self.plan.origin.small, body, orjson.dumps(body))

    def _logprobs(self, asked: Request) -> Mapping[str, Any]:
        """Log-probabilities wherever there are any: they also tell how long each sample is."""
        known = self._fleet.models[self.plan.origin.small].abilities.max_logprobs
        return UNCHANGED if known == 0 else asking_logprobs(asked)

    @property
    def _fleet(self) -> Fleet:
        return self.trial.rooms.revisions.runtime.snapshot()

    async def _marked(
        self, drafts: Sequence[Draft], asked: Request, judging: Performance
    ) -> list[Sample]:
        """All samples with what the verifier says of them."""
        lengths = _lengths(drafts[:1]) + _lengths(drafts[1:])
        if isinstance(self.plan.verifier, ByVote):
            majority = self.plan.verifier.majority
            answers = [await asyncio.to_thread(vote_of, one, majority) for one in drafts]
            return [
                _sample(one, length, answer=answer)
                for one, length, answer in zip(drafts, lengths, answers, strict=True)
            ]
        drawn = Drawn([*drafts], [])
        await judging.of(self.plan.verifier.mark(drawn, asked, self._fleet, len(drafts)))
        if drawn.why:
            raise TrialError(drawn.why)
        return [
            _sample(one, length, mark=mark)
            for one, length, mark in zip(drafts, lengths, drawn.marks, strict=True)
        ]


def plan_of(policy: Any, models: Collection[str], samples: int) -> Plan:
    """What to draw for a policy of `use: best_of`. Raises `CalibrationError`."""
    for setting in ("small", "large"):
        if (name := getattr(policy, setting)) not in models:
            raise CalibrationError(
                f"{setting}: {name or 'none'}: a plan weighs what a small and a large model cost; "
                "name one of each in the policy"
            )
    origin = Origin(policy.small, policy.large, policy.facts, policy.temperature)
    return Plan(origin, policy.verifier, samples, policy.judge)


async def _heard(by: Performance, phrase: Callable[[], Phrase[T | Failed]]) -> T:
    """What the phrase brings; said again, after a pause, where it failed and may not the next time.

    Raises `TrialError`.
    """
    pauses = iter(PAUSES)
    while isinstance(heard := await by.of(phrase()), Failed):
        pause = next(pauses, None)
        if pause is None or not heard.fault.elsewhere:
            raise TrialError(f"{heard.attempt.model} failed: {heard.fault.message}")
        await asyncio.sleep(pause)
    return heard


def _usage(draft: Draft) -> Usage:
    return draft.finished.usage or Usage()


def _lengths(drafts: Sequence[Draft]) -> list[float]:
    """In tokens: counted where each is told, else their call's, by their characters."""
    if all(draft.tokens for draft in drafts):
        return [float(len(draft.tokens)) for draft in drafts]
    whole = sum(len(draft.text) for draft in drafts) or 1
    return [_usage(draft).completion * len(draft.text) / whole for draft in drafts]


def _sample(
    draft: Draft, tokens: float, answer: str | None = None, mark: float | None = None
) -> Sample:
    return Sample(draft.text, tokens, draft.finished.reason, mean_logprob(draft), answer, mark)
