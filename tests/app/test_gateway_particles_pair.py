"""Particles of the pair's small model, with a judge that knows every right line.

What a step score is worth is the judge's matter; that a good one brings what it should is shown
here. Best of as many whole answers, chosen by the same judge, is what it must be better than.
"""

from __future__ import annotations

import re

import pytest

from deploy.pair.problems import Problem, is_correct, problems
from deploy.pair.steps import CLOSERS, OPENERS, SEQUELS
from tests.conftest import Started
from tests.running import config
from tests.scripted import Backend, Call, answers, usage
from tests.soak.servers import missing, started

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pair"), missing]

SEED, PROBLEMS = 1_520_000, 24
"""A seed for tuning: what is measured here is no report."""
FREE = re.compile("|".join((*OPENERS, *SEQUELS, *CLOSERS)))
"""Words that mean the same, of which a solution uses any."""
SCORE = {"by": "judge"}


def plain(text: str) -> str:
    return FREE.sub("-", text)


class Judge:
    """Scores answers to problems that it knows: high as long as all lines so far are right."""

    def __init__(self, known: list[Problem]) -> None:
        self._right = {problem.prompt: plain(problem.solution) for problem in known}

    async def __call__(self, call: Call) -> None:
        body = call.json
        right = self._right[body["text_1"]]
        rows = [
            {"index": at, "object": "score", "score": 0.95 if right.startswith(text) else 0.05}
            for at, text in enumerate(map(plain, body["text_2"]))
        ]
        await answers({"object": "list", "data": rows, "usage": usage()})(call)


async def test_a_judge_of_steps_brings_more_than_one_of_whole_answers(
    gateway: Started, large: Backend
) -> None:
    known = list(problems(SEED, PROBLEMS))
    large.serves = ("judge",)
    large.plays(Judge(known))
    policies = {
        "whole": {"use": "best_of", "small": "small", "score": SCORE, "stages": [4]},
        "steps": {
            "use": "particles",
            "small": "small",
            "score": SCORE,
            "separator": "\n",
            "effective": 1,
            "most_steps": 24,
        },
    }
    right = dict.fromkeys(policies, 0)
    async with started("small") as servers:
        running = await gateway(
            config({"small": servers[0].url, "judge": large}, policies=policies, default="small")
        )
        for policy in policies:
            for number, problem in enumerate(known):
                said = [{"role": "user", "content": problem.prompt}]
                answer = await running.post(
                    model=policy, messages=said, seed=number, max_tokens=320, temperature=1.0
                )
                assert answer.status_code == 200, answer.text
                text = answer.json()["choices"][0]["message"]["content"]
                right[policy] += is_correct(text, problem)
    assert right["steps"] > right["whole"], right
