"""The four stages that ask the models, one after the other.

Knows their order and what each needs of those before. Must not know how a stage does its work. All
that the models were asked lies in the work folder, so a run goes on where it stopped, a larger file
of prompts asks only for what is new, and several gates can be trained from one folder.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx

from policies.training.token_gate import stage, verdicts
from policies.training.token_gate.answers import Answered, Answering, end_tokens
from policies.training.token_gate.continuations import Continuing, Fork, forks
from policies.training.token_gate.endpoint import Endpoint
from policies.training.token_gate.errors import TrainingError
from policies.training.token_gate.journal import Journal, Row, same_settings
from policies.training.token_gate.prompts import Prompt
from policies.training.token_gate.results import ResultFinder
from policies.training.token_gate.traces import Tracing

Item = TypeVar("Item")

_COMPARED = 8
"""Prompts on which the two tokenizers are compared."""
_CONNECTING = 10.0
"""Seconds to connect."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a model is; without a name it is the only one there."""

    url: str
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Asking:
    """Whom to ask, and how; `key` is a bearer token for all of them, `patience` seconds a call."""

    small: Address
    large: Address
    judge: Address | None = None
    judge_prompt: Path = verdicts.JUDGE_PROMPT
    results: ResultFinder = field(default_factory=ResultFinder)
    max_tokens: int = 4096
    at_once: int = 8
    key: str | None = None
    patience: float = 600.0


@dataclass(frozen=True, slots=True)
class Found:
    """What the stages found out; `wrong` answers of the large model took no part."""

    answers: list[Answered]
    traces: Journal
    verdicts: Journal
    wrong: int
    small: str
    small_root: str | None


async def collect(asking: Asking, prompts: list[Prompt], work: Path, traces: Path) -> Found:
    """Ask the models for all that is not known yet. Raises TrainingError."""
    async with AsyncExitStack() as stack:
        small = await _endpoint(stack, "small", asking.small, asking)
        large = await _endpoint(stack, "large", asking.large, asking)
        judge = None
        if asking.judge is not None:
            judge = await _endpoint(stack, "judge", asking.judge, asking)
        if judge is None and any(prompt.answer is None for prompt in prompts):
            raise TrainingError(
                'there are prompts without an "answer": only a judge can tell what matters in '
                "theirs, so name one with --judge (the large model itself will do)"
            )
        same_settings(work / "settings.json", _settings(asking, small, large, judge))
        await _same_tokenizer(small, large, prompts[:_COMPARED])
        return await _Stages(asking, work, traces, {p.id: p for p in prompts}).run(
            small, large, judge
        )


@dataclass(frozen=True, slots=True)
class _Stages:
    asking: Asking
    work: Path
    traces: Path
    prompts: dict[str, Prompt]

    async def run(self, small: Endpoint, large: Endpoint, judge: Endpoint | None) -> Found:
        answers = await self._answers(small, large)
        usable = [each for each in answers if each.usable]
        if not usable:
            raise TrainingError(
                "the large model answered no prompt rightly: is the result found at all? "
                "(--result, now " + self.asking.results.rule + ")"
            )
        traced = self._journal("traces")
        tracing = Tracing(small, self.traces)
        await self._stage("traces", {each.id: each for each in usable}, traced, tracing.find)
        divided = [
            fork
            for each in usable
            for fork in forks(each, traced[each.id]["predicted"], to_the_end=each.right is not None)
        ]
        continued = self._journal("continuations")
        continuing = Continuing(large, end_tokens(answers), self.asking.max_tokens)
        await self._stage(
            "continuations", {fork.id: fork for fork in divided}, continued, continuing.find
        )
        judged = await self._verdicts(divided, continued, judge)
        wrong = len(answers) - len(usable)
        return Found(usable, traced, judged, wrong, small.model, await small.root())

    async def _answers(self, small: Endpoint, large: Endpoint) -> list[Answered]:
        journal = self._journal("answers")
        answering = Answering(small, large, self.asking.results, self.asking.max_tokens)
        await self._stage("answers", self.prompts, journal, answering.find)
        return [Answered.of(journal[id_]) for id_ in self.prompts]

    async def _verdicts(
        self, divided: list[Fork], continued: Journal, judge: Endpoint | None
    ) -> Journal:
        journal = self._journal("verdicts")
        template = verdicts.read_template(self.asking.judge_prompt)

        async def find(id_: str, fork: Fork) -> Row:
            prompt, row = self.prompts[fork.answered.id], continued[id_]
            if prompt.answer is not None:
                return verdicts.exact(row, prompt.answer, self.asking.results)
            assert judge is not None
            return await verdicts.Judging(judge, template).find(row, prompt)

        await self._stage("verdicts", {fork.id: fork for fork in divided}, journal, find)
        return journal

    def _journal(self, name: str) -> Journal:
        return Journal(self.work / f"{name}.jsonl")

    async def _stage(
        self,
        name: str,
        items: Mapping[str, Item],
        journal: Journal,
        find: Callable[[str, Item], Awaitable[Row]],
    ) -> None:
        await stage.run(name, items, journal, find, self.asking.at_once)


async def _endpoint(stack: AsyncExitStack, role: str, address: Address, asking: Asking) -> Endpoint:
    headers = {"authorization": f"Bearer {asking.key}"} if asking.key else {}
    # One connection for each call at a time; a model may think long, connecting may not.
    client = httpx.AsyncClient(
        base_url=address.url.rstrip("/").removesuffix("/v1"),
        headers=headers,
        timeout=httpx.Timeout(asking.patience, connect=_CONNECTING),
        limits=httpx.Limits(max_connections=asking.at_once),
    )
    return await Endpoint.find(role, await stack.enter_async_context(client), address.model)


def _settings(
    asking: Asking, small: Endpoint, large: Endpoint, judge: Endpoint | None
) -> dict[str, object]:
    """What the rows depend on; a folder holds rows of one such setting only."""
    return {
        "small": small.model,
        "large": large.model,
        "judge": judge and judge.model,
        "judge_prompt": judge and verdicts.digest(asking.judge_prompt),
        "result": asking.results.rule,
        "max_tokens": asking.max_tokens,
    }


async def _same_tokenizer(small: Endpoint, large: Endpoint, prompts: list[Prompt]) -> None:
    for prompt in prompts:
        one, other = [await each.text_ids(prompt.question) for each in (small, large)]
        if one != other:
            raise TrainingError(
                f"the models' tokenizers differ: {prompt.question[:60]!r} is {list(one[:8])} for "
                f"{small.model} and {list(other[:8])} for {large.model}, and a token gate needs "
                "one vocabulary"
            )
