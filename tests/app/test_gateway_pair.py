"""The gateway in front of the real embedded pair: as a new user meets it."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from app import embedded
from app.cli import main
from app.embedded import Pair
from policies import TABLE
from router.config import parse
from router.observe import RequestEnded
from router.steps import Surface
from tests.running import CHAT, Running, eventually, http, request, running, wire
from tests.scripted import PATIENCE

MODELS = Path(os.environ.get("TANDEM_PAIR_MODELS", embedded.MODELS))
QUESTION = "A shop has 36 pens. It sells 17 and then buys 25 more. How many pens are there now?"
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": QUESTION}],
    "temperature": 0,
    "max_tokens": 24,
}

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("pair"),  # its servers are started once
    pytest.mark.skipif(
        not (MODELS / "small" / "onnx" / "model.onnx").is_file(),
        reason=f"no exported models in {MODELS}: see deploy/pair/README.md",
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair() -> AsyncIterator[Pair]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "MODELS", MODELS)
        started = await embedded.start()
    yield started
    await started.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(pair: Pair) -> AsyncIterator[Running]:
    document = parse(pair.document, TABLE, "the embedded pair")
    async with running({**document.written.tree}) as it:
        yield it


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(gateway: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"{gateway.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


async def ended(gateway: Running, request_id: str) -> RequestEnded:
    """How this request ended, as soon as it has."""

    def found() -> list[RequestEnded]:
        return [s for s in gateway.seen if isinstance(s, RequestEnded) and s.id == request_id]

    await eventually(lambda: bool(found()))
    return found()[0]


async def test_probing_finds_what_the_pair_can_do(gateway: Running) -> None:
    for name in ("small", "large"):
        backend = gateway.backend(name)
        assert backend.state == "healthy"
        able = backend.abilities
        assert able.token_ids is True
        assert able.max_logprobs
        assert able.tokenizer is not None
    same = {gateway.backend(name).abilities.tokenizer for name in ("small", "large")}
    assert len(same) == 1


async def test_every_target_answers(gateway: Running) -> None:
    for target in gateway.rooms.revisions.runtime.targets:
        for stream in (False, True):
            answer = await gateway.post(model=target, stream=stream, **ASKED)
            assert answer.status_code == 200, (target, answer.text)
            assert answer.headers["x-tandem-policy"] == target
            over = await ended(gateway, answer.headers["x-request-id"])
            assert over.blame is None
            assert sum(over.completion_by_model.values()) > 0
    assert gateway.in_flight() == 0


@pytest.mark.parametrize(
    ("question", "kind", "expert"),
    [("What is 347 + 285 - 158?", "mixed", "small"), ("What is 347 * 16?", "product", "large")],
)
async def test_the_router_sends_what_is_hard_to_the_large_model(
    question: str, kind: str, expert: str, gateway: Running
) -> None:
    asked = {**ASKED, "messages": [{"role": "user", "content": question}]}
    answer = await gateway.post(model="experts", **asked)
    assert answer.status_code == 200
    assert answer.headers["x-tandem-models"].split("=")[0] == expert
    assert answer.headers["x-tandem-reason"].startswith(f"expert; {kind} ")


@pytest.mark.parametrize(("question", "writer"), [("47 + 12", "small"), ("347 * 16", "large")])
async def test_samples_that_agree_are_enough(question: str, writer: str, gateway: Running) -> None:
    """Tiny sums the small model gets right, long products hardly ever twice alike."""
    asked = [{"role": "user", "content": f"What is {question}?"}]
    reply = await gateway.post(model="sampled", messages=asked, temperature=0, seed=1)
    (choice,) = reply.json()["choices"]
    if writer == "small":
        assert choice["message"]["content"].endswith("Answer: 59")
    else:
        alone = await gateway.post(model="large", messages=asked, temperature=0, seed=1)
        assert choice["message"] == alone.json()["choices"][0]["message"]
    over = await ended(gateway, reply.headers["x-request-id"])
    assert reply.headers["x-tandem-models"].split("=")[0] == writer
    assert over.reason == ("sure" if writer == "small" else "unsure")
    sampled = over.attempts[0].usage
    assert sampled is not None
    assert sampled.completion > 2 * over.attempts[0].written


@pytest.mark.parametrize(
    ("question", "writers"), [("556 + 626", ["small"]), ("347 * 16", ["small", "large"])]
)
async def test_a_plan_needs_one_sample_where_it_is_sure(
    question: str, writers: list[str], gateway: Running
) -> None:
    asked = [{"role": "user", "content": f"How much is {question}?"}]
    reply = await gateway.post(model="staged", messages=asked, temperature=0)
    over = await ended(gateway, reply.headers["x-request-id"])
    assert [attempt.model for attempt in over.attempts] == writers, over.detail
    assert over.reason == ("unsure" if "large" in writers else "sure")
    assert " of 1 sample, expected " in over.detail


async def test_the_large_models_reward_head_chooses_among_samples(gateway: Running) -> None:
    asked = [{"role": "user", "content": "What is 347 * 16?"}]
    reply = await gateway.post(model="scored", messages=asked, seed=1)
    assert re.match(r"(un)?sure; score 0\.\d\d of [14] sample", reply.headers["x-tandem-reason"])
    over = await ended(gateway, reply.headers["x-request-id"])
    scorers = [attempt for attempt in over.attempts if attempt.surface is Surface.SCORE]
    assert scorers
    for scorer in scorers:
        assert (scorer.model, scorer.blame, scorer.answer) == ("large", None, False)
        assert scorer.usage is not None
        assert scorer.usage.prompt > 0
        assert scorer.cost > 0


async def test_two_models_may_answer_where_samples_do_not_agree(gateway: Running) -> None:
    """All of these are cut off, so that none has a vote."""
    block = {"use": "best_of", "small": "small", "large": "ead", "majority": {}, "bar": 1}
    await gateway.rooms.revisions.replace_policy("sampled-then-both", block)
    asked = {**ASKED, "messages": [{"role": "user", "content": "What is 347 * 16?"}]}
    reply = await gateway.post(model="sampled-then-both", seed=1, **asked)
    assert reply.headers["x-tandem-reason"].startswith("no_verdict; majority of 4 samples")
    assert " > in_engine; " in reply.headers["x-tandem-reason"]
    assert reply.json()["usage"]["completion_tokens"] <= 24


async def test_a_stream_of_samples_is_one_for_the_official_client(api: openai.AsyncOpenAI) -> None:
    stream = await api.chat.completions.create(
        model="sampled",
        messages=[{"role": "user", "content": "What is 47 + 12?"}],
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces = [piece async for piece in stream]
    choices = [choice for piece in pieces for choice in piece.choices]
    assert {choice.index for choice in choices} == {0}
    assert "".join(choice.delta.content or "" for choice in choices).endswith("Answer: 59")
    assert [c.finish_reason for c in choices if c.finish_reason] == ["stop"]
    counted = pieces[-1].usage
    assert counted is not None
    assert counted.completion_tokens > 2 * len(choices)


async def test_the_gateway_adds_and_loses_nothing(gateway: Running, pair: Pair) -> None:
    whole = {**ASKED, "model": "small", "return_token_ids": True, "stop": ["="], "top_k": 3}
    async with http(pair.urls["small"]) as direct:
        theirs = (await direct.post(CHAT, json=whole)).json()
        ours = (await gateway.post(**whole)).json()
    assert theirs["choices"][0]["token_ids"]
    for answer in (theirs, ours):
        answer.pop("id")
        answer.pop("created")
    assert ours == theirs


@pytest.mark.parametrize("target", ["small", "ead"])
async def test_the_official_client(api: openai.AsyncOpenAI, target: str) -> None:
    stream = await api.chat.completions.create(
        model=target,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=24,
        temperature=0,
        logprobs=True,
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces = [piece async for piece in stream]
    counted = pieces[-1].usage
    assert counted is not None
    assert counted.completion_tokens == sum(
        len(p.choices[0].logprobs.content or ())
        for p in pieces
        if p.choices and p.choices[0].logprobs
    )
    whole = await api.completions.create(model=target, prompt="1 + 1 =", max_tokens=4)
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 4
    with pytest.raises(openai.BadRequestError) as caught:
        await api.chat.completions.create(
            model=target, messages=[{"role": "user", "content": "x"}], top_logprobs=500,
            logprobs=True,
        )  # fmt: skip
    assert caught.value.code is not None or caught.value.message


async def test_who_wrote_which_token(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole, and in `tandem chat`'s stream: the same text of the same writers."""
    asked = {**ASKED, "model": "ead", "max_tokens": 400, "return_token_ids": True}
    explained = {"x-tandem-explain": "1"}
    reply = await gateway.client.post(CHAT, json=asked, headers=explained)
    whole = reply.json()
    (choice,), (told,) = whole["choices"], whole["tandem"]["choices"]
    assert "".join(token["text"] for token in told["tokens"]) == choice["message"]["content"]
    assert [token["id"] for token in told["tokens"]] == choice["token_ids"]
    wrote = Counter(token["model"] for token in told["tokens"])
    assert wrote.keys() == {"small", "large"}
    assert reply.headers["x-tandem-models"] == ", ".join(f"{m}={n}" for m, n in wrote.items())
    words = ["chat", "--url", gateway.url, "--model", "ead", "--temperature", "0", "--json"]
    assert await asyncio.to_thread(main, [*words, QUESTION]) == 0
    chat = json.loads(capsys.readouterr().out)
    assert chat["text"] == choice["message"]["content"]
    assert chat["tandem"]["models"] == wrote
    assert joined((p["model"], p["text"]) for p in chat["pieces"]) == joined(
        (token["model"], token["text"]) for token in told["tokens"]
    )


def joined(pieces: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbours of one writer as one."""
    return [(by, "".join(t for _, t in run)) for by, run in groupby(pieces, lambda piece: piece[0])]


async def test_a_client_that_leaves_stops_the_model(gateway: Running, pair: Pair) -> None:
    long = {**ASKED, "max_tokens": 2000, "ignore_eos": True, "model": "large", "stream": True}
    async with wire(gateway.url) as client, http(pair.urls["large"]) as direct:
        await client.send(request(long))
        await client.until(b"data: ")
        client.leave()
        await eventually(lambda: gateway.in_flight() == 0)
        for _ in range(int(PATIENCE * 1000)):
            if (await direct.get("/load")).json()["server_load"] == 0:
                return
    pytest.fail("the model writes on for a client that has left")
