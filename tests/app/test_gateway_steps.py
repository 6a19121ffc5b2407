"""Steps through the whole gateway: one answer without a seam, whoever wrote which line of it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app import embedded
from app.embedded import Pair
from policies import TABLE
from router import sse
from router.config import parse
from router.faults import Blame
from tests.conftest import Started
from tests.running import CHAT, Config, Running, config, eventually, running
from tests.scripted import (
    DONE,
    Backend,
    Script,
    answers,
    chat_answer,
    chunk,
    silent,
    streams,
    usage_event,
)

STEPS = {"use": "steps", "small": "small", "large": "large"}
SURE, UNSURE = [0.0], [math.log(0.25)] * 4
DEAD = answers({"error": {"message": "dead"}}, 500)


def two(small: Backend, large: Backend, **policy: Any) -> Config:
    return config({"small": small, "large": large}, policies={"auto": {**STEPS, **policy}})


def token(text: str, top: Sequence[float] = SURE, reason: str | None = None) -> bytes:
    """The event of one token, with what a look wants to see."""
    best = [{"token": f"{n}", "logprob": value, "bytes": []} for n, value in enumerate(top)]
    entry = {"token": text, "logprob": top[0], "bytes": [], "top_logprobs": best}
    return chunk({"content": text}, reason, logprobs={"content": [entry]})


def writes(*events: bytes, then: Script | None = None) -> Script:
    """A stream of these events; whole, or with something else after them."""
    if then is None:
        return streams(*events, chunk({}, "stop"), usage_event(), DONE)

    async def script(call: Any) -> None:
        await call.head()
        for event in events:
            await call.chunk(event)
        await then(call)

    return script


async def resets(call: Any) -> None:
    call.reset()


def chunks_of(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in sse.read(stream) if event.data != b"[DONE]"]


def text_of(stream: bytes) -> str:
    deltas = (choice["delta"] for said in chunks_of(stream) for choice in said["choices"])
    return "".join(delta.get("content") or "" for delta in deltas)


# ------------------------------------------------------------------------------ scripted backends


async def test_two_models_and_one_answer(gateway: Started, small: Backend, large: Backend) -> None:
    running = await gateway(two(small, large))
    small.plays(
        writes(token("It is.\n\n"), token("S", UNSURE), then=silent), writes(token("7", SURE))
    )
    large.plays(writes(token("So "), token("3.\n\n"), token("More"), then=silent))
    got = await running.streamed(stream_options={"include_usage": True}, temperature=0.5)
    assert text_of(got) == "It is.\n\nSo 3.\n\n7"
    said = chunks_of(got)
    assert len({chunk["id"] for chunk in said}) == 1
    assert {chunk["model"] for chunk in said} == {"auto"}
    assert [c["delta"].get("role") for s in said for c in s["choices"]].count("assistant") == 1
    ends = [c["finish_reason"] for s in said for c in s["choices"] if c["finish_reason"]]
    assert ends == ["stop"]
    assert b"top_logprobs" not in got
    assert said[-1]["usage"]["completion_tokens"] == 4
    assert said[-1]["usage"]["tandem"]["models"] == {"small": 2, "large": 2}
    assert "1 of 3 steps by large" in said[-1]["usage"]["tandem"]["reason"]
    handed = large.calls[0].json
    assert handed["messages"][-1] == {"role": "assistant", "content": "It is.\n\n"}
    assert (handed["continue_final_message"], handed["add_generation_prompt"]) == (True, False)
    assert (handed["temperature"], handed["model"]) == (0.5, "large")
    assert small.calls[1].json["messages"][-1]["content"] == "It is.\n\nSo 3.\n\n"
    await eventually(lambda: (small.cancelled, large.cancelled) == (1, 1))
    assert running.in_flight() == 0


async def test_one_body_without_a_stream(gateway: Started, small: Backend, large: Backend) -> None:
    running = await gateway(two(small, large))
    small.plays(writes(token("S", UNSURE), then=silent))
    large.plays(writes(token("So "), token("7")))
    answer = await running.post(logprobs=True)
    body = answer.json()
    assert body["choices"][0]["message"]["content"] == "So 7"
    assert [t["token"] for t in body["choices"][0]["logprobs"]["content"]] == ["So ", "7"]
    assert answer.headers["x-tandem-reason"] == "looked; 1 of 1 steps by large"
    assert answer.headers["x-tandem-models"] == "large=2"


@pytest.mark.parametrize(("mark", "text"), [("8", "It is."), ("2", "So 7")])
async def test_a_grade_decides(
    gateway: Started, small: Backend, large: Backend, mark: str, text: str
) -> None:
    running = await gateway(two(small, large, grade={"accept": 7}))
    small.plays(writes(token("It "), token("is.")))
    large.plays(answers(chat_answer(mark, "large")), writes(token("So 7")))
    answer = await running.post()
    assert answer.json()["choices"][0]["message"]["content"] == text
    asked = large.calls[0].json
    assert (asked["max_tokens"], asked["messages"][-2]["content"]) == (1, "It is.")
    assert answer.headers["x-tandem-reason"].startswith("graded; ")
    assert running.in_flight() == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_a_small_model_that_dies_is_continued(
    gateway: Started, small: Backend, large: Backend, stream: bool
) -> None:
    running = await gateway(two(small, large))
    small.plays(writes(token("It is "), token("th"), then=resets))
    large.plays(writes(token("ree.\n\n"), token("7")))
    answer = await running.post(stream=stream)
    body = answer.content
    text = text_of(body) if stream else answer.json()["choices"][0]["message"]["content"]
    assert text in ("It is three.\n\n7", "ree.\n\n7")  # a break may be seen before the bytes
    ended = await running.ended()
    assert (ended.blame, ended.reason) == (None, "small_failed")
    assert ended.attempts[0].blame is Blame.BACKEND
    assert running.in_flight() == 0


async def test_a_large_model_that_is_dead_is_done_without(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large))
    small.plays(writes(token("It.\n\n"), token("S", UNSURE), then=silent), writes(token("7\n\n8")))
    large.plays(DEAD)
    got = await running.streamed()
    assert text_of(got) == "It.\n\n7\n\n8"
    assert got.endswith(DONE)
    assert (await running.ended()).reason == "large_failed"


async def test_both_dead_is_an_honest_end(gateway: Started, small: Backend, large: Backend) -> None:
    running = await gateway(two(small, large))
    small.plays(writes(token("It.\n\n"), token("S", UNSURE), then=silent), DEAD)
    large.plays(DEAD)
    got = await running.streamed()
    assert b'"error"' in got
    assert DONE not in got
    assert running.in_flight() == 0


async def test_a_client_that_leaves_stops_both(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large))
    small.plays(writes(token("S", UNSURE), then=silent))
    large.plays(writes(token("So"), then=silent))
    async with running.client.stream("POST", CHAT, json=streamed_body()) as answer:
        async for part in answer.aiter_bytes():
            if b"So" in part:
                break
    await eventually(lambda: (small.cancelled, large.cancelled) == (1, 1))
    await eventually(lambda: running.in_flight() == 0)


def streamed_body() -> Mapping[str, Any]:
    return {"messages": [{"role": "user", "content": "?"}], "stream": True}


async def test_what_cannot_be_handed_over_is_relayed(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large))
    answer = await running.post(n=2)
    assert answer.headers["x-tandem-reason"].startswith("one_model; n")
    assert small.calls == []


# ------------------------------------------------------------------------------ the embedded pair

MODELS = Path(os.environ.get("TANDEM_PAIR_MODELS", embedded.MODELS))
QUESTION = "A shop has 36 pens. It sells 17 and then buys 25 more. How many pens are there now?"
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 200,
}  # fmt: skip
LINES = {**STEPS, "separator": "\n"}

on_the_pair = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("pair"),  # its servers are started once
    pytest.mark.skipif(
        not (MODELS / "small" / "onnx" / "model.onnx").is_file(),
        reason=f"no exported models in {MODELS}: see deploy/pair/README.md",
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair() -> AsyncIterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "MODELS", MODELS)
        started: Pair = await embedded.start()
    tree = {**parse(started.document, TABLE, "the embedded pair").written.tree}
    tree["policies"] = {
        "never": {**LINES, "threshold": 99},
        "always": {**LINES, "threshold": 0},
        "lines": {**LINES, "threshold": 0.3},
        "graded": {**LINES, "grade": {"accept": 9}},
        "rendered": {**LINES, "threshold": 0, "handoff": "prompt"},
    }
    tree["default"] = "lines"
    async with running(tree) as it:
        yield it
    await started.close()


class TestPair:
    """Real models, real templates, real tokens."""

    pytestmark = on_the_pair

    @pytest.mark.parametrize(
        ("policy", "alone"), [("never", "small"), ("always", "large"), ("rendered", "large")]
    )
    @pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
    async def test_a_hand_off_at_every_line_changes_nothing(
        self, pair: Running, policy: str, alone: str, path: str
    ) -> None:
        """The large model alone, and the large model called anew for every line: one text."""
        asked = ASKED
        if path != CHAT:
            asked = {"prompt": "First add 3+4:\n", "temperature": 0, "max_tokens": 60}
        choices = []
        for target in (policy, alone):
            answer = await pair.post(path, model=target, **asked)
            assert answer.status_code == 200, answer.text
            choices.append(answer.json()["choices"][0])
        for name in ("message", "text", "finish_reason"):
            ours, theirs = (choice.get(name) for choice in choices)
            if name == "message":
                ours, theirs = ours and ours["content"], theirs and theirs["content"]
            assert ours == theirs

    @pytest.mark.parametrize("policy", ["lines", "graded", "rendered"])
    async def test_streamed_or_not_it_is_the_same_answer(self, pair: Running, policy: str) -> None:
        whole = await pair.post(model=policy, **ASKED)
        stream = await pair.post(model=policy, stream=True, **ASKED)
        assert text_of(stream.content) == whole.json()["choices"][0]["message"]["content"]
        assert "Answer:" in text_of(stream.content)
        assert pair.in_flight() == 0

    async def test_the_usage_is_that_of_one_answer(self, pair: Running) -> None:
        alone = (await pair.post(model="large", **ASKED)).json()["usage"]
        handed = (await pair.post(model="always", **ASKED)).json()["usage"]
        assert handed["prompt_tokens"] == alone["prompt_tokens"]
        assert handed["completion_tokens"] == alone["completion_tokens"]

    async def test_the_length_and_the_stop_string_are_the_whole_answers(
        self, pair: Running
    ) -> None:
        short = (await pair.post(model="always", **{**ASKED, "max_tokens": 30})).json()
        assert short["usage"]["completion_tokens"] == 30
        assert short["choices"][0]["finish_reason"] == "length"
        text = (await pair.post(model="always", **ASKED)).json()["choices"][0]["message"]["content"]
        first, second, *_ = text.split("\n")
        stop = f"{first[-2:]}\n{second[:2]}"
        cut = (await pair.post(model="always", stop=stop, **ASKED)).json()["choices"][0]
        assert cut["message"]["content"] == text.partition(stop)[0]
        assert cut["finish_reason"] == "stop"
