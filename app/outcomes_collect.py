"""What `tandem outcomes` does: every model answers every prompt, and each answer gets its mark.

Through a gateway in this process (`app.trial`), greedily. What the models say is kept in a journal
at once, under a name that follows from everything it depends on (model, prompt, limit, judge): a
run that was broken off goes on, a longer file asks only for what is new, and no answer is taken for
another's. Marks by exact results cost nothing and are made anew each time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import numpy as np
import orjson

from app.trial import Trial, TrialError
from policies.training.outcomes.marks import Marking, asking, digit_score
from policies.training.outcomes.questions import Questions
from policies.training.outcomes.rows import Floats, Rows
from policies.training.token_gate import stage
from policies.training.token_gate.journal import Journal, Row
from policies.training.token_gate.prompts import Prompt
from router.config import Config
from router.cost import cost
from router.fleet import Price
from router.steps import Usage

MOST_IN_A_ROW = 10
"""Failures of one model, with no answer between them, that end a run: it is not there."""
MOST_LOGPROBS = 20
"""Alternatives that a judge is asked for: every digit is among them, and no API gives more."""
_DIGITS = 32
Body: TypeAlias = dict[str, Any]


class OutcomesError(Exception):
    """The rows cannot be made; the message is one line and says what to do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked, of which models, and how it is marked; `template` is what the judge reads."""

    questions: Questions
    models: tuple[str, ...]
    marking: Marking
    judge: str | None
    template: str


@dataclass(frozen=True, slots=True)
class Collected:
    """The rows, and shares per model: of answers `cut` short by the limit, of those with an exact
    answer beside them in which no result was found (`unread`). `failures` are answers that did not
    come, by model, each with a reason; `unjudged` those without a verdict.
    """

    rows: Rows
    cut: Mapping[str, float]
    unread: Mapping[str, float]
    failures: Mapping[str, tuple[int, str]]
    unjudged: int


@dataclass(frozen=True, slots=True)
class Call:
    """One thing to find out: who is asked, and with which body; `judges` says what for."""

    model: str
    body: Body
    judges: bool = False


@dataclass(slots=True)
class Failures:
    """Answers that did not come, by model."""

    count: Counter[str] = field(default_factory=Counter)
    in_a_row: Counter[str] = field(default_factory=Counter)
    reason: dict[str, str] = field(default_factory=dict)

    def failed(self, model: str, reason: str) -> None:
        """Count one. Raises `OutcomesError` if there is nobody to be asked."""
        self.count[model] += 1
        self.in_a_row[model] += 1
        if self.in_a_row[model] == 1:
            self.reason[model] = reason  # after a few the gateway's own breaker answers
        if self.in_a_row[model] >= MOST_IN_A_ROW:
            raise OutcomesError(
                f"{self.reason[model]} ({MOST_IN_A_ROW} times in a row); what came so far is kept: "
                "see to the model, or leave it out with --models, and give the command again"
            )

    def went_well(self, model: str) -> None:
        """The model is there."""
        self.in_a_row[model] = 0


def models_of(config: Config, stated: str | None, judge: str | None) -> tuple[str, ...]:
    """The models that are asked: those stated, or all. Raises `OutcomesError` for unknown ones."""
    chosen = [name.strip() for name in stated.split(",")] if stated else list(config.models)
    named = [("--models", name) for name in chosen] + [("--judge", judge)] * (judge is not None)
    for option, name in named:
        if name not in config.models:
            held = ", ".join(config.models)
            raise OutcomesError(f"{option}: there is no model {name}; there are {held}")
    return tuple(dict.fromkeys(chosen))


@dataclass(slots=True)
class Collecting:
    """One run of the command, on a gateway that runs."""

    trial: Trial
    plan: Plan
    journal: Journal
    failures: Failures = field(default_factory=Failures)

    async def run(self) -> Collected:
        """Ask for everything that is missing. Raises `OutcomesError`."""
        answers = self._answers()
        await self._ask("answers", answers)
        verdicts = self._verdicts()
        if verdicts:
            await self._ask("verdicts", verdicts)
        return self._collected()

    # ------------------------------------------------------------------------------------ calls

    def _answers(self) -> dict[str, Call]:
        """By the name of each answer, the models in turns."""
        plan = self.plan
        rows = range(len(plan.questions))
        return dict(self._answer(row, model) for row, model in product(rows, plan.models))

    def _answer(self, row: int, model: str) -> tuple[str, Call]:
        body = {
            "model": model,
            "messages": list(self.plan.questions.messages(row)),
            "temperature": 0,
            "max_tokens": self.trial.asking.max_tokens,
        }
        return self._name(body), Call(model, body)

    def _verdicts(self) -> dict[str, Call]:
        plan = self.plan
        unknown = [row for row, answer in enumerate(plan.questions.answers) if answer is None]
        return {
            named[0]: named[1]
            for row, model in product(unknown, plan.models)
            if (named := self._verdict(row, model)) is not None
        }

    def _verdict(self, row: int, model: str) -> tuple[str, Call] | None:
        """Where there is a judge, and an answer for it."""
        judge, (answer, _) = self.plan.judge, self._answer(row, model)
        if judge is None or answer not in self.journal:
            return None
        question = Prompt("", tuple(map(dict, self.plan.questions.messages(row)))).question
        text = asking(self.plan.template, question, self.journal[answer]["text"])
        body = {
            "model": judge,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 1,
        }
        return self._name(body), Call(judge, body, judges=True)

    def _name(self, body: Body) -> str:
        """What the answer to this depends on, in few letters: also what its backends call it."""
        served = self.trial.rooms.revisions.runtime.config.models[body["model"]].served_as
        content = orjson.dumps([served, body], option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(content).hexdigest()[:_DIGITS]

    # ----------------------------------------------------------------------------------- asking

    async def _ask(self, label: str, calls: Mapping[str, Call]) -> None:
        """Make every call whose result the journal lacks, a few at a time."""
        await stage.run(label, calls, self.journal, self._one, self.trial.asking.at_once)

    async def _one(self, name: str, call: Call) -> Row | None:
        """What came of it; None where it failed, which is counted."""
        try:
            row = await (self._judged(call) if call.judges else self._said(call))
        except (TrialError, httpx.HTTPError) as error:
            self.failures.failed(call.model, str(error) or type(error).__name__)
            return None
        self.failures.went_well(call.model)
        return {"id": name, **row}

    async def _said(self, call: Call) -> Row:
        told, ended = await self.trial.told(call.body)
        choice = told["choices"][0]
        return {
            "model": call.model,
            "text": choice["message"].get("content") or "",
            "cut": choice.get("finish_reason") == "length",
            "prompt_tokens": ended.delivered.prompt,
            "completion_tokens": ended.delivered.completion,
        }

    async def _judged(self, call: Call) -> Row:
        """With log-probabilities where its server gives them, else as it is said."""
        known = self.trial.rooms.revisions.runtime.snapshot().models[call.model].abilities
        most = min(
            MOST_LOGPROBS, MOST_LOGPROBS if known.max_logprobs is None else known.max_logprobs
        )
        more = {"logprobs": True, "top_logprobs": most}
        try:
            told, _ = await self.trial.told({**call.body, **(more if most > 0 else {})})
        except TrialError:
            told, _ = await self.trial.told(call.body)
        choice = told["choices"][0]
        said = choice["message"].get("content") or ""
        return {"judge": call.model, "said": said, "score": digit_score(choice)}

    # ------------------------------------------------------------------------------ what came of it

    def _collected(self) -> Collected:
        questions, models = self.plan.questions, self.plan.models
        shape = (len(questions), len(models))
        found = _Found(*(np.full(shape, np.nan) for _ in range(5)))
        outputs: list[tuple[str | None, ...]] = []
        unjudged = 0
        for row in range(len(questions)):
            said = [self.journal.rows.get(self._answer(row, model)[0]) for model in models]
            outputs.append(tuple(None if one is None else one["text"] for one in said))
            for at, one in enumerate(said):
                if one is not None:
                    unjudged += not self._fill(found, (row, at), one)
        rows = replace(
            questions.rows,
            models=models,
            scores=found.scores,
            costs=found.costs if self._priced() else None,
            lengths=found.lengths,
            outputs=tuple(outputs),
        )
        failures = self.failures
        return Collected(
            rows,
            _means(models, found.cut),
            _means(models, found.unread),
            {model: (n, failures.reason[model]) for model, n in failures.count.items()},
            unjudged,
        )

    def _fill(self, found: _Found, place: tuple[int, int], said: Row) -> bool:
        """What is known of one answer; False if a judge was to say and said nothing."""
        row, at = place
        answer, model = self.plan.questions.answers[row], self.plan.models[at]
        price = self.trial.rooms.revisions.runtime.snapshot().models[model].price
        usage = Usage(said["prompt_tokens"], said["completion_tokens"])
        found.lengths[place] = len(said["text"])
        found.costs[place] = cost(usage, price)
        found.cut[place] = said["cut"]
        if answer is not None:
            mark = self.plan.marking.mark(said["text"], answer)
            found.scores[place], found.unread[place] = mark.score, not mark.read
            return True
        named = self._verdict(row, model)
        verdict = self.journal.rows.get(named[0]) if named else None
        if verdict is not None and verdict["score"] is not None:
            found.scores[place] = verdict["score"]
        return verdict is None or verdict["score"] is not None

    def _priced(self) -> bool:
        models = self.trial.rooms.revisions.runtime.config.models
        prices = [models[name].charge for name in self.plan.models]
        return any(price != Price() for price in prices)


@dataclass(frozen=True, slots=True)
class _Found:
    """Arrays [rows, models], NaN where nobody knows."""

    scores: Floats
    costs: Floats
    lengths: Floats
    cut: Floats
    unread: Floats


def _means(models: Sequence[str], values: Floats) -> dict[str, float]:
    """By model, over what is known; a model of which nothing is known is left out."""
    known = ~np.isnan(values)
    return {
        model: float(values[known[:, at], at].mean())
        for at, model in enumerate(models)
        if known[:, at].any()
    }


def journal_beside(out: Path) -> Path:
    """Where the answers for this file of rows are kept."""
    return out.with_suffix(".journal.jsonl")
