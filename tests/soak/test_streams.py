"""Sixty-four answers at once, each written by two models: every one is what it would be alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import product

import pytest

from tests.running import config, eventually, running
from tests.soak.asking import BY_CHANCE, POLICIES, Asked, policies, prompts, rendered
from tests.soak.hearing import Heard, Said, ask, session
from tests.soak.judging import Judge
from tests.soak.servers import by_model, missing, started

QUESTIONS = 4
AT_ONCE = 64
MOST = 32
"""Tokens of each answer: enough for several hand-offs."""

pytestmark = [missing, pytest.mark.xdist_group("pair")]


def told(heard: Heard) -> list[Said]:
    """The choices of an answer that is complete, with its tokens counted right."""
    assert heard.complete, heard
    assert heard.usage is not None
    said = [choice for _, choice in sorted(heard.choices.items())]
    written = Counter(writer for choice in said for writer, _ in choice.tokens)
    assert heard.usage["completion_tokens"] == written.total()
    assert heard.usage["tandem"]["models"] == written
    return said


@pytest.mark.slow
async def test_many_at_once_are_each_as_alone() -> None:
    questions = prompts(QUESTIONS)
    pairs = product(range(QUESTIONS), POLICIES)
    asked = [Asked(question, policy, MOST) for question, policy in pairs]
    crowd = [asked[number % len(asked)] for number in range(AT_ONCE)]
    async with (
        started("small", "large") as servers,
        running(config(by_model(servers), policies=policies())) as gateway,
        session(gateway.url) as client,
    ):
        prompt = await rendered(servers[0], questions)
        alone = {each: told(await ask(client, each.body(questions))) for each in asked}
        heard = await asyncio.gather(*(ask(client, each.body(questions)) for each in crowd))
        await eventually(lambda: gateway.in_flight() == 0)
        assert all([await server.idle() for server in servers])
    judge = Judge()
    for each, answer in zip(crowd, heard, strict=True):
        (said,) = told(answer)
        assert answer.reason.startswith("in_engine")
        if each.policy == BY_CHANCE:
            assert judge.wrong(prompt[each.question], said) is None
        else:
            assert [said] == alone[each], each
        assert said.text == judge.text(said.ids)
    writers = Counter(writer for answer in heard for writer, _ in answer.choice(0).tokens)
    assert min(writers["small"], writers["large"]) > AT_ONCE  # both, in earnest
