"""Policies over real sockets: who is asked, who is let go of, and that the bytes stay the bytes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from router.faults import Blame
from router.steps import Surface
from tests.conftest import Started
from tests.running import Config, config, eventually
from tests.scripted import (
    DONE,
    Backend,
    answers,
    chat_answer,
    chat_events,
    chunk,
    hangs_up,
    logprobs,
    pauses,
    stalls,
    streams,
    usage_event,
)

DEAD = answers({"error": {"message": "dead"}}, 500)
SURE, UNSURE = logprobs(-0.0123, -0.0234), logprobs(-0.5, -1.5)


def two(small: Backend, large: Backend, policy: dict[str, Any], **sections: Any) -> Config:
    tree = config({"small": small, "large": large}, policies={"auto": policy}, **sections)
    tree["models"]["large"]["price"] = {"input": 10.0, "output": 20.0}
    return tree


FALLBACK = {"use": "fallback", "targets": ["small", "large"]}
CASCADE = {"use": "cascade", "small": "small", "large": "large"}
HEDGE = {"use": "hedge", "model": "small", "backup": "large", "delay": 0.05}

# ------------------------------------------------------------------------------------- fallback


@pytest.mark.parametrize("stream", [True, False])
async def test_fallback_before_the_first_byte(
    gateway: Started, small: Backend, large: Backend, stream: bool
) -> None:
    running = await gateway(two(small, large, FALLBACK))
    small.plays(DEAD)
    answer = await running.post(stream=stream)
    assert answer.status_code == 200
    assert answer.headers["x-tandem-policy"] == "auto"
    assert answer.headers["x-tandem-models"].split("=")[0] == "large"
    assert answer.headers["x-tandem-reason"].startswith("fell_back; from small")
    assert b'"model": "large"' in answer.content
    ended = await running.ended()
    assert [(a.model, a.blame) for a in ended.attempts] == [
        ("small", Blame.BACKEND), ("large", None),
    ]  # fmt: skip


async def test_fallback_never_after_the_first_byte(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large, FALLBACK))
    small.plays(streams(chunk({"content": "Hel"})))
    got = await running.streamed()
    assert b'"code":"truncated"' in got
    assert DONE not in got
    assert large.calls == []


async def test_fallback_does_not_follow_a_clients_mistake(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large, FALLBACK))
    small.plays(answers({"error": {"message": "too long"}}, 400))
    assert (await running.post()).status_code == 400
    assert large.calls == []


@pytest.mark.parametrize("stream", [True, False])
async def test_a_silent_first_target_leaves_time_for_the_second(
    gateway: Started, small: Backend, large: Backend, stream: bool
) -> None:
    running = await gateway(two(small, large, FALLBACK, limits={"deadline": 2}))
    small.plays(stalls())
    answer = await running.post(stream=stream)
    assert answer.status_code == 200
    assert b'"model": "large"' in answer.content
    await eventually(lambda: small.cancelled == 1)


async def test_when_all_targets_fail_the_last_one_is_told_of(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large, FALLBACK))
    small.plays(DEAD)
    large.plays(hangs_up)
    answer = await running.post()
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "hung_up")


# ---------------------------------------------------------------------------------------- split


async def test_a_session_stays_where_it_began(
    gateway: Started, small: Backend, large: Backend
) -> None:
    halves = {"use": "split", "weights": {"small": 1, "large": 1}}
    running = await gateway(two(small, large, halves))
    by_session = {}
    for session in ("a", "b", "c", "h", "j"):
        answered = set()
        for _ in range(3):
            answer = await running.post(user=session)
            assert answer.headers["x-tandem-reason"].startswith("sticky; ")
            answered.add(answer.headers["x-tandem-models"].split("=")[0])
        assert len(answered) == 1
        by_session[session] = answered.pop()
    assert set(by_session.values()) == {"small", "large"}


# ---------------------------------------------------------------------------------------- hedge


@pytest.mark.parametrize("stream", [True, False])
async def test_the_slower_of_two_is_cancelled(
    gateway: Started, small: Backend, large: Backend, stream: bool
) -> None:
    running = await gateway(two(small, large, HEDGE))
    small.plays(stalls())
    answer = await running.post(stream=stream)
    assert answer.status_code == 200
    assert answer.headers["x-tandem-reason"].startswith("hedged")
    await eventually(lambda: small.cancelled == 1)
    ended = await running.ended()
    assert [(a.model, a.answer, a.blame) for a in ended.attempts] == [
        ("small", False, Blame.GONE), ("large", True, None),
    ]  # fmt: skip
    assert running.in_flight() == 0


async def test_the_first_may_still_win(gateway: Started, small: Backend, large: Backend) -> None:
    running = await gateway(two(small, large, HEDGE))
    asked_twice = asyncio.Event()
    events = chat_events(["Hello"])
    small.plays(pauses(asked_twice, b": waiting\n\n", streams_on(*events)))
    large.plays(stalls())
    sent = asyncio.create_task(running.streamed())
    await large.call()
    asked_twice.set()
    got = await sent
    assert got.startswith(b"".join(events[:3]))
    await eventually(lambda: large.cancelled == 1)
    assert (await running.ended()).reason == "first"


async def test_a_quick_first_is_never_hedged(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large, {**HEDGE, "delay": 600}))
    answer = await running.post()
    assert answer.headers["x-tandem-reason"] == "first"
    assert large.calls == []


async def test_a_first_that_fails_does_not_wait_for_the_delay(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large, {**HEDGE, "delay": 600}))
    small.plays(DEAD)
    answer = await running.post()
    assert answer.status_code == 200
    assert answer.headers["x-tandem-reason"].startswith("first_failed")


def streams_on(*events: bytes) -> Any:
    async def script(call: Any) -> None:
        for event in events:
            await call.chunk(event)
        await call.end()

    return script


# -------------------------------------------------------------------------------------- cascade


async def test_an_accepted_draft_is_the_backends_own_bytes(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large, {**CASCADE, "pattern": "Hello"}))
    odd = b'{ "choices":[{"index":0,"message":{"content":"Hello \\u00e9"},"x":1.50}],"big":1e-0}\n'
    events = [chunk({"content": "He"}), b": odd\n\n", chunk({"content": "llo"}, "stop", extra=1.5)]
    small.plays(answers(odd), streams(*events, usage_event(), DONE))
    assert (await running.post()).content == odd
    got = await running.streamed()
    assert got.startswith(b"".join(events) + b": tandem ")
    assert large.calls == []
    assert b"logprobs" not in small.calls[0].body + small.calls[1].body


@pytest.mark.parametrize("stream", [True, False])
async def test_log_probabilities_that_nobody_asked_for_are_hidden(
    gateway: Started, small: Backend, large: Backend, stream: bool
) -> None:
    running = await gateway(two(small, large, {**CASCADE, "mean_logprob": -0.1}))
    events = [chunk({"content": "Hello"}, logprobs=SURE), chunk({}, "stop"), usage_event(), DONE]
    small.plays(streams(*events) if stream else answers(chat_answer(said={"logprobs": SURE})))
    answer = await running.post(stream=stream)
    assert small.calls[0].json["logprobs"] is True
    assert b"-0.0123" not in answer.content
    if stream:
        assert [said["choices"] for said in chunks_of(answer.content)] == [
            said["choices"] for said in chunks_of(chunk({"content": "Hello"}) + chunk({}, "stop"))
        ]
    else:
        assert answer.json() == chat_answer()
    assert (await running.ended()).reason == "draft_accepted"


@pytest.mark.parametrize("stream", [True, False])
async def test_log_probabilities_that_were_asked_for_are_shown(
    gateway: Started, small: Backend, large: Backend, stream: bool
) -> None:
    running = await gateway(two(small, large, {**CASCADE, "mean_logprob": -0.1}))
    event = chunk({"content": "Hello"}, logprobs=SURE)
    whole = chat_answer(said={"logprobs": SURE})
    small.plays(streams(event, usage_event(), DONE) if stream else answers(whole))
    answer = await running.post(stream=stream, logprobs=True, top_logprobs=2)
    assert answer.content.startswith(event if stream else json.dumps(whole).encode())


def chunks_of(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(said[6:]) for said in stream.split(b"\n\n") if said.startswith(b"data: {")]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_rejected_draft_is_paid_for_and_never_seen(
    gateway: Started, small: Backend, large: Backend, stream: bool
) -> None:
    running = await gateway(two(small, large, {**CASCADE, "mean_logprob": -0.1}))
    events = [chunk({"content": "secret"}, logprobs=UNSURE), usage_event(), DONE]
    small.plays(
        streams(*events) if stream else answers(chat_answer("secret", said={"logprobs": UNSURE}))
    )
    answer = await running.post(stream=stream)
    assert b"secret" not in answer.content
    assert b'"model": "large"' in answer.content
    assert answer.headers["x-tandem-reason"] == "draft_rejected; mean logprob -1.000 < -0.1"
    assert "logprobs" not in large.calls[0].json
    ended = await running.ended()
    assert ended.cost == pytest.approx((10 * 1 + 2 * 2 + 10 * 10 + 2 * 20) / 1e6)
    assert ended.baseline == pytest.approx((10 * 10 + 2 * 20) / 1e6)
    assert ended.completion_by_model == {"large": 2}


async def test_a_draft_that_fails_or_leads_nowhere(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(two(small, large, {**CASCADE, "mean_logprob": -0.1}))
    small.plays(DEAD, streams(chunk({"content": "half"}, logprobs=SURE)), answers(chat_answer()))
    reasons = ((False, "draft_failed"), (True, "draft_failed"), (False, "draft_rejected"))
    for stream, reason in reasons:
        answer = await running.post(stream=stream)
        assert answer.status_code == 200
        assert b'"model": "large"' in answer.content
        assert answer.headers["x-tandem-reason"].startswith(reason)


@pytest.mark.parametrize(("verdict", "wrote"), [("Yes", "small"), ("no", "large")])
async def test_a_grade_is_one_token_of_a_model(
    gateway: Started, small: Backend, large: Backend, verdict: str, wrote: str
) -> None:
    running = await gateway(two(small, large, {**CASCADE, "grade": {"by": "large"}}))
    large.plays(answers(chat_answer(verdict, "large")), answers(chat_answer("Hi", "large")))
    answer = await running.post()
    assert answer.headers["x-tandem-models"] == f"{wrote}=2"
    grading = large.calls[0].json
    assert (grading["max_tokens"], grading["temperature"]) == (1, 0)
    assert grading["messages"][0]["content"].startswith("What is 3 + 4?\n\nSolution:\nHello\n\n")


@pytest.mark.parametrize(("text", "wrote"), [('{"n": 7}', "small"), ('{"n": "7"}', "large")])
async def test_the_clients_own_schema_decides(
    gateway: Started, small: Backend, large: Backend, text: str, wrote: str
) -> None:
    running = await gateway(two(small, large, {**CASCADE, "json_schema": "request"}))
    small.plays(answers(chat_answer(text)))
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    answer = await running.post(response_format=form)
    assert answer.headers["x-tandem-models"] == f"{wrote}=2"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_silent_draft_leaves_time_for_the_large_model(
    gateway: Started, small: Backend, large: Backend, stream: bool
) -> None:
    running = await gateway(two(small, large, {**CASCADE, "pattern": "x"}, limits={"deadline": 2}))
    small.plays(stalls())
    answer = await running.post(stream=stream)
    assert answer.status_code == 200
    assert b'"model": "large"' in answer.content


async def test_a_model_without_the_api_is_not_asked(gateway: Started, small: Backend) -> None:
    tree = config({"small": small})
    tree["models"]["small"]["surfaces"] = [Surface.EMBEDDINGS]
    running = await gateway(tree)
    answer = await running.post()
    error = answer.json()["error"]
    assert answer.status_code == 404
    assert (error["code"], error["param"]) == ("unsupported_endpoint", "model")
    assert small.calls == []
