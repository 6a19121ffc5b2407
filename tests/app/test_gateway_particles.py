"""Particles over real sockets: what the backends are asked, and one answer for the client."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest

from router import sse
from tests.conftest import Started
from tests.running import Config, config, eventually
from tests.scripted import (
    DONE,
    Backend,
    Call,
    answers,
    chat_answer,
    chunk,
    event,
    stalls,
    streams,
    usage,
    usage_event,
)

POLICY = {
    "use": "particles",
    "small": "small",
    "grade": {"by": "large"},
    "particles": 3,
    "separator": "\n",
}


def two(small: Backend, large: Backend, **policy: Any) -> Config:
    return config({"small": small, "large": large}, policies={"auto": {**POLICY, **policy}})


def token(text: str, choice: int, written: int) -> bytes:
    """The event of one token, with its choice's own count beside it."""
    entry = {"token": text, "logprob": -0.1, "bytes": [], "top_logprobs": []}
    said = {"index": choice, "delta": {"content": text}, "logprobs": {"content": [entry]}}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "small"}
    return event({**head, "choices": [said], "usage": usage(10, written)})


def says(*texts: str) -> list[bytes]:
    """All choices' tokens by turns; a token is a word with what is behind it."""
    split = [text.replace("\n", "\n\0").replace(" ", " \0").split("\0") for text in texts]
    longest = max(map(len, split))
    return [
        token(parts[at], choice, at + 1)
        for at in range(longest)
        for choice, parts in enumerate(split)
        if at < len(parts) and parts[at]
    ]


def ends(*reasons: str, prompt: int = 10, completion: int) -> list[bytes]:
    return [
        *(chunk({}, reason, index=choice) for choice, reason in enumerate(reasons)),
        usage_event(prompt=prompt, completion=completion),
        DONE,
    ]


def grades(chance: float) -> dict[str, Any]:
    """A verdict with so much probability of a yes."""
    best = [
        {"token": "yes", "logprob": math.log(chance), "bytes": []},
        {"token": "no", "logprob": math.log(1 - chance), "bytes": []},
    ]
    entry = {"token": "yes", "logprob": math.log(chance), "bytes": [], "top_logprobs": best}
    return chat_answer("yes", "large", {"logprobs": {"content": [entry]}})


async def by_sight(call: Call) -> None:
    """Grades by what it is shown, in whatever order that comes."""
    good = "a = 3" in call.body.decode()
    await answers(grades(0.9 if good else 0.02))(call)


def text_of(got: bytes) -> str:
    chunks = [json.loads(e.data) for e in sse.read(got) if e.data != b"[DONE]"]
    deltas = (choice["delta"] for said in chunks for choice in said["choices"])
    return "".join(delta.get("content") or "" for delta in deltas)


FIRST = ("a = 2\nthen", "a = 3\nor else", "a = 2\nso")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_good_beginning_is_copied_and_written_on(
    gateway: Started, small: Backend, large: Backend, *, stream: bool
) -> None:
    running = await gateway(two(small, large))
    small.plays(
        stalls(*says(*FIRST)),
        streams(*says("It is 7", "So 7", "7"), *ends("stop", "stop", "stop", completion=6)),
    )
    large.plays(by_sight)
    told: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
    answer = await running.post(stream=stream, seed=4, **told)
    first, second = (call.json for call in small.calls)
    assert (first["n"], first["seed"], first["stream"], first["max_tokens"]) == (3, 4, True, 512)
    assert first["stream_options"]["continuous_usage_stats"] is True
    assert (second["n"], second["messages"][-1]["content"]) == (3, "a = 3\n")
    assert second["continue_final_message"] is True
    assert len(large.calls) == 5, "two beginnings, of which one is another's twin, and three ends"
    assert "so far" in large.calls[0].json["messages"][0]["content"]
    # three choices of 3 tokens and what had come before the call was closed, and 6
    if stream:
        assert text_of(answer.content) == "a = 3\nIt is 7"
        said = [json.loads(e.data) for e in sse.read(answer.content) if e.data != b"[DONE]"]
        counts = said[-1]["usage"]
    else:
        assert answer.json()["choices"][0]["message"]["content"] == "a = 3\nIt is 7"
        counts = answer.json()["usage"]
        why = "sure; grade 0.90 of 3 particles, 2 steps, resampled 1x, 3.0 effective"
        assert answer.headers["x-tandem-reason"] == why
        assert answer.headers["x-tandem-models"] == "small=6"
    assert counts["prompt_tokens"] == 10
    assert 9 + 6 <= counts["completion_tokens"] <= 13 + 6
    assert counts["tandem"]["models"] == {"small": 6}
    await eventually(lambda: small.cancelled == 1)
    assert running.in_flight() == 0
    ended = await running.ended()
    assert [a.written for a in ended.attempts if a.written] == [3, 3]
    assert ended.delivered.completion == 6


async def test_a_client_that_leaves_closes_every_call(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large))
    small.plays(stalls(*says(*FIRST)[:4]))
    asking = asyncio.create_task(running.post(stream=True))
    await small.call()
    await eventually(lambda: running.in_flight() == 1)
    asking.cancel()
    await asyncio.wait([asking])
    await eventually(lambda: small.cancelled == 1)
    assert running.in_flight() == 0
    assert large.calls == []


async def test_a_grader_that_is_broken_leaves_the_best_so_far(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large))
    small.plays(
        streams(*says("It is 7", "6", "8"), *ends("stop", "stop", "stop", completion=5)),
    )
    large.plays(answers({"error": {"message": "dead"}}, 500))
    answer = await running.post()
    assert answer.json()["choices"][0]["message"]["content"] == "It is 7"
    assert answer.headers["x-tandem-reason"].startswith("no_verdict; grade of 3 particles, 1 step")
    assert "large did not grade: 502 backend_error in step 1" in answer.headers["x-tandem-reason"]


async def test_a_server_that_cannot_go_on_is_asked_for_all_of_it(
    gateway: Started, small: Backend, large: Backend
) -> None:
    async def strict(call: Call) -> None:
        if "continue_final_message" in call.json:
            await answers({"error": {"message": "Extra inputs are not permitted"}}, 400)(call)
        elif call.json.get("n"):
            await stalls(*says(*FIRST))(call)
        else:
            await answers(chat_answer("It is 7"))(call)

    running = await gateway(two(small, large))
    small.plays(strict)
    large.plays(by_sight)
    answer = await running.post()
    assert answer.json()["choices"][0]["message"]["content"] == "It is 7"
    assert answer.headers["x-tandem-reason"].startswith("not_sampled; no step goes on: 400")
    assert "n" not in small.calls[-1].json
