"""Best of N over real sockets: what the backend is asked, and one honest answer for the client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router import sse
from tests.conftest import Started
from tests.running import Config, config
from tests.scripted import (
    DONE,
    Backend,
    answers,
    chat_answer,
    chunk,
    event,
    logprobs,
    silent,
    streams,
    usage,
    usage_event,
)

POLICY = {
    "use": "best_of",
    "small": "small",
    "large": "large",
    "stages": [3],
    "bar": 0.6,
    "majority": {},
}
ALONE = {name: value for name, value in POLICY.items() if name != "large"}
TEXTS = ("8", "It is 7", "So 7")


def two(small: Backend, large: Backend, **policy: Any) -> Config:
    block = {name: value for name, value in {**POLICY, **policy}.items() if value is not None}
    return config({"small": small, "large": large}, policies={"auto": block})


def whole(*texts: str, completion: int = 30, **said: Any) -> dict[str, Any]:
    """An answer of several choices, each with a thought, in `completion` tokens together."""
    choices = [
        {
            "index": number,
            "message": {"role": "assistant", "content": text, "reasoning_content": f"hm {number}"},
            "logprobs": None,
            "finish_reason": "stop",
            **said,
        }
        for number, text in enumerate(texts)
    ]
    counts = usage(10, completion)
    return {**chat_answer(), "choices": choices, "usage": counts}


def streamed(*texts: str, completion: int = 30) -> list[bytes]:
    """The same as a stream: the choices' pieces by turns, as an engine's batch gives them."""
    numbered = list(enumerate(texts))
    pieces = [chunk({"role": "assistant", "content": ""}, index=number) for number, _ in numbered]
    for half in (0, 1):
        for number, text in numbered:
            middle = len(text) // 2
            said = (text[:middle], text[middle:])[half]
            pieces.append(chunk({"content": said}, index=number, logprobs=logprobs(-0.1)))
    ends = [chunk({}, "stop", index=number) for number, _ in numbered]
    return [*pieces, *ends, usage_event(prompt=10, completion=completion), DONE]


def decoded(got: bytes) -> list[Any]:
    return [json.loads(e.data) for e in sse.read(got) if e.data != b"[DONE]"]


async def test_the_chosen_sample_is_the_only_one_and_all_are_counted(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large))
    small.plays(answers(whole(*TEXTS)))
    answer = await running.post(temperature=0)
    sent = small.calls[0].json
    assert (sent["n"], sent["temperature"]) == (3, 0.7)
    told = answer.json()
    assert [choice["index"] for choice in told["choices"]] == [0]
    message = told["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("It is 7", "hm 1")
    assert told["usage"] == usage(10, 30)
    why = "sure; majority 0.67 of 3 samples, stage 1 of 1, drawn at temperature 0.7"
    assert answer.headers["x-tandem-reason"] == why
    assert answer.headers["x-tandem-models"] == "small=18"  # 7 of 12 characters of 30 tokens
    assert large.calls == []
    ended = await running.ended()
    assert [(a.usage.completion, a.written) for a in ended.attempts if a.usage] == [(30, 18)]


async def test_a_stream_is_the_chosen_samples_own(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large))
    small.plays(streams(*streamed(*TEXTS)))
    got = await running.streamed(stream_options={"include_usage": True})
    assert got.endswith(DONE)
    chunks = decoded(got)
    choices = [choice for one in chunks for choice in one["choices"]]
    assert {choice["index"] for choice in choices} == {0}
    assert [c["delta"].get("role") for c in choices] == ["assistant", None, None, None]
    assert "".join(c["delta"].get("content", "") for c in choices) == "It is 7"
    assert [c["finish_reason"] for c in choices] == [None, None, None, "stop"]
    assert chunks[-1]["usage"]["completion_tokens"] == 30
    assert chunks[-1]["usage"]["tandem"]["models"] == {"small": 18}
    assert chunks[-1]["usage"]["tandem"]["reason"].startswith("sure; majority 0.67 of 3 samples")


@pytest.mark.parametrize("stream", [True, False])
async def test_log_probabilities_that_only_the_verifier_wanted_are_not_told(
    gateway: Started, small: Backend, large: Backend, stream: bool
) -> None:
    running = await gateway(two(small, large, majority=None, mean_logprob=-0.5))
    script = streams(*streamed(*TEXTS)) if stream else answers(whole(*TEXTS, logprobs=logprobs(-1)))
    small.plays(script)
    answer = await running.post(stream=stream)
    assert small.calls[0].json["logprobs"] is True
    assert b'"token"' not in answer.content
    small.plays(script)
    answer = await running.post(stream=stream, logprobs=True)
    if stream:
        assert b'"token"' in answer.content


async def test_the_usage_of_all_stages_is_told_and_the_prompt_once(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large, stages=[2, 4], bar=0.75))
    small.plays(answers(whole("8", "7")), answers(whole("7", "7", completion=9)))
    answer = await running.post(seed=5)
    assert [(c.json["n"], c.json["seed"]) for c in small.calls] == [(2, 5), (2, 7)]
    assert answer.json()["usage"] == usage(10, 39)
    assert answer.json()["choices"][0]["message"]["content"] == "7"
    assert answer.headers["x-tandem-models"] == "small=15"
    ended = await running.ended()
    assert ended.delivered.completion == 15
    assert answer.headers["x-tandem-reason"].endswith("of 4 samples, stage 2 of 2")


@pytest.mark.parametrize("stream", [True, False])
async def test_the_large_ones_answer_is_untouched(
    gateway: Started, small: Backend, large: Backend, stream: bool
) -> None:
    running = await gateway(two(small, large, bar=0.9))
    small.plays(streams(*streamed(*TEXTS)) if stream else answers(whole(*TEXTS)))
    answer = await running.post(stream=stream)
    assert b'"model": "large"' in answer.content
    assert b"Hel" in answer.content
    assert "n" not in large.calls[0].json
    assert (await running.ended()).reason == "unsure"


@pytest.mark.slow
async def test_a_verifier_that_is_silent_leaves_time_for_the_large_one(
    gateway: Started, small: Backend, large: Backend
) -> None:
    tree = two(small, large, majority=None, grade={"by": "small"})
    tree["limits"] = {**tree.get("limits", {}), "deadline": 2.0}
    running = await gateway(tree)
    small.plays(answers(whole(*TEXTS)), silent, silent, silent)
    answer = await running.post()
    assert answer.json()["model"] == "large"
    ended = await running.ended()
    assert ended.reason == "no_verdict"
    assert "small did not grade: " in ended.detail


async def test_a_backend_that_refuses_n_gives_one_sample(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway({**two(small, large), "policies": {"auto": ALONE}})
    small.plays(answers({"error": {"message": "n must be 1"}}, 400), answers(whole("7")))
    answer = await running.post()
    assert answer.json()["choices"][0]["message"]["content"] == "7"
    assert "n" not in small.calls[1].json
    why = "best; majority 0.33 of 1 sample, stage 1 of 1, n=3 was refused: 400"
    assert answer.headers["x-tandem-reason"] == why


async def test_a_wrong_request_is_told_in_the_backends_words(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large))
    wrong = {"error": {"message": "too long", "type": "odd"}}
    small.plays(answers(wrong, 400), answers(wrong, 400))
    answer = await running.post()
    assert (answer.status_code, answer.json()) == (400, wrong)
    assert large.calls == []


async def test_an_error_in_the_middle_of_the_samples_is_answered_by_the_large_one(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large))
    broken = event({"error": {"message": "out of memory", "code": 500}})
    small.plays(streams(*streamed(*TEXTS)[:4], broken))
    got = await running.streamed()
    assert b'"model": "large"' in got
    assert (await running.ended()).reason == "draft_failed"
