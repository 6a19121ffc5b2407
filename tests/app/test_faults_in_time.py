"""Backends that never finish: what a client is promised while another one lives comes in time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from tests.conftest import Started
from tests.running import config
from tests.scripted import (
    DONE,
    Backend,
    Call,
    Script,
    answers,
    chat_answer,
    chat_events,
    chunk,
    scripted,
    stalls,
    streams,
)

DEADLINE = {"deadline": 1.5, "idle": 0.2, "first_token": 0.3}
CASCADE = {"use": "cascade", "small": "small", "large": "large", "pattern": "no such words"}
GATE = {"use": "token_gate", "small": "small", "large": "large", "rule": "entropy", "threshold": 1}


def drips(*before: bytes) -> Script:
    """A stream that goes on, byte by byte, with an event that never ends."""

    async def script(call: Call) -> None:
        await call.head()
        for piece in before:
            await call.chunk(piece)
        await call.chunk(b"data: ")
        while not call.gone.is_set():
            await call.chunk(b" ")
            await asyncio.sleep(0.02)

    return script


async def chatters(call: Call) -> None:
    """A stream that goes on for ever."""
    await call.head()
    while not call.gone.is_set():
        await call.chunk(chunk({"content": "and "}))
        await asyncio.sleep(0.01)


async def test_half_an_event_is_silence(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}, limits=DEADLINE))
    small.plays(drips(chunk({"content": "first"})))
    got = await running.streamed()
    assert b"first" in got
    assert b'"code":"idle_timeout"' in got
    assert DONE not in got


@pytest.mark.parametrize("fault", [drips(chunk({"content": "first"})), chatters])
async def test_a_draft_that_never_ends_leaves_time_for_an_answer(
    gateway: Started, small: Backend, large: Backend, fault: Script
) -> None:
    tree = config({"small": small, "large": large}, policies={"auto": CASCADE}, limits=DEADLINE)
    running = await gateway(tree)
    small.plays(fault)
    large.plays(streams(*chat_events(["four"], "large")))
    got = await running.streamed()
    assert b"four" in got
    assert got.endswith(DONE)
    assert (await running.ended()).reason == "draft_failed"


@pytest.mark.slow
async def test_a_draft_that_takes_too_long_is_not_asked_for_again(
    gateway: Started, small: Backend, large: Backend
) -> None:
    async with scripted("small") as other:
        models: Mapping[str, Any] = {"small": [small, other], "large": large}
        running = await gateway(config(models, policies={"auto": CASCADE}, limits=DEADLINE))
        small.plays(chatters)
        other.plays(chatters)
        assert (await running.streamed()).endswith(DONE)
        ended = await running.ended()
        assert [attempt.model for attempt in ended.attempts] == ["small", "large"]


async def test_a_stream_is_over_once(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    said = b"".join(chat_events(["four"]))
    small.plays(streams(said + DONE + said))
    got = await running.streamed()
    assert got.count(DONE) == 1
    assert got.endswith(DONE)
    assert got.count(b": tandem ") == 1
    assert got.count(b"four") == 1


async def test_a_tokenizer_that_says_nothing_leaves_time_for_an_answer(
    gateway: Started, small: Backend, large: Backend
) -> None:
    tree = config(
        {"small": small, "large": large},
        policies={"auto": GATE},
        limits=DEADLINE,
        breaker={"failures": 2},
    )
    running = await gateway(tree)
    small.plays(stalls())
    large.plays(answers(chat_answer("four", "large")))
    for _ in range(2):
        answer = await running.post(model="auto")
        assert answer.status_code == 200, answer.text
        assert "four" in answer.text
    assert running.backend("small").state == "open", "whoever is silent is to blame"


async def test_another_backend_tells_the_tokens(gateway: Started) -> None:
    async with scripted("small") as one, scripted("small") as two, scripted("large") as large:
        models: Mapping[str, Any] = {"small": [one, two], "large": large}
        running = await gateway(config(models, policies={"auto": GATE}, limits=DEADLINE))
        running.backend("small", 1).heard(60.0)  # the first one is asked first
        one.plays(stalls())
        two.plays(answers({"tokens": [1, 2, 3]}))
        await running.post(model="auto")
        assert one.calls[0].path == two.calls[0].path == "/tokenize"
