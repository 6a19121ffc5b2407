"""One call, read part by part or event by event: what is held, what is counted, what it costs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Any

import pytest

from router.alarms import Alarms
from router.backend import Backend as Watched
from router.breaker import BreakerSettings
from router.call import Call, Limits, Outgoing
from router.faults import Blame, FaultError
from router.fleet import Price
from router.ledger import Tally
from router.steps import Alternative, Attempt, Delta, Finished, Surface, Token, Usage
from router.upstream import Upstream
from tests.running import eventually
from tests.scripted import (
    DONE,
    Backend,
    answers,
    chat_answer,
    chunk,
    chunks,
    event,
    pauses,
    silent,
    stalls,
    streams,
    usage,
    usage_event,
)

ATTEMPT = Attempt(0, "small", "small")
LIMITS = Limits(first=60, idle=60, answer=1 << 20, hold=1 << 20, event=1 << 20)
Placed = Callable[..., Call]


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    it = Upstream(connect=3)
    yield it
    await it.close()


@pytest.fixture
def watched(small: Backend) -> Watched:
    return Watched(small.url, BreakerSettings(failures=1), monotonic)


@pytest.fixture
async def placed(watched: Watched) -> AsyncIterator[Placed]:
    """Makes a call, which is closed at the end whatever the test did."""
    made: list[Call] = []

    def place(
        *,
        stream: bool = True,
        surface: Surface = Surface.CHAT,
        limits: Limits = LIMITS,
        choices: int = 1,
    ) -> Call:
        body = b'{"model": "small"}'
        headers = {"content-type": "application/json", "x-request-id": "req-1"}
        sending = Outgoing(f"/v1/{surface.value}", body, headers, surface, stream, None, choices)
        tally = Tally("small", watched.name, monotonic(), Price(), len(body))
        made.append(Call(ATTEMPT, watched, sending, limits, tally, Alarms()))
        return made[-1]

    yield place
    for call in made:
        call.close(Blame.GONE)
    assert watched.in_flight == 0


async def parts(call: Call, upstream: Upstream) -> list[bytes]:
    heard = []
    while part := await call.part(upstream):
        heard.append(part)
    return heard


async def events(call: Call, upstream: Upstream) -> list[Any]:
    heard: list[Any] = []
    while not heard or not isinstance(heard[-1], Finished):
        heard.append(await call.event(upstream))
    return heard


async def test_it_counts_as_in_flight_until_it_is_closed(placed: Placed, watched: Watched) -> None:
    call = placed()
    assert watched.in_flight == 1
    call.close(None)
    call.close(Blame.BACKEND)  # too late to be blamed
    assert (watched.in_flight, watched.state) == (0, "probing")


async def test_it_counts_no_more_once_it_is_complete(
    placed: Placed, watched: Watched, upstream: Upstream, small: Backend
) -> None:
    """A policy may keep a draft for long: the backend is free, and may be put to sleep."""
    small.plays(streams(chunk({"content": "a"}), DONE))
    call = placed()
    assert watched.in_flight == 1
    await parts(call, upstream)
    assert watched.in_flight == 0
    call.close(Blame.BACKEND)
    assert (watched.in_flight, watched.state) == (0, "probing")


async def test_nothing_is_sent_before_somebody_waits(placed: Placed, small: Backend) -> None:
    placed().close(None)
    assert small.connected == 0


async def test_a_streams_parts_are_its_bytes(
    placed: Placed, upstream: Upstream, small: Backend
) -> None:
    sent = [chunk({"content": "a"}), chunk({"content": "b"}, "stop"), usage_event(), DONE]
    small.plays(streams(*sent))
    call = placed()
    assert b"".join(await parts(call, upstream)) == b"".join(sent)
    assert call.complete
    assert call.tally.usage == Usage(10, 2)
    assert call.tally.pieces == 4
    assert not call.held


async def test_the_end_says_how_each_of_several_choices_ended(
    placed: Placed, upstream: Upstream, small: Backend
) -> None:
    ends = [chunk({}, "length", index=2), chunk({}, "stop", index=0)]
    small.plays(streams(chunk({"content": "a"}, index=2), *ends, usage_event(), DONE))
    ended = (await events(placed(), upstream))[-1]
    assert (ended.reason, ended.reasons) == ("stop", ("stop", None, "length"))
    small.plays(streams(chunk({"content": "a"}, "stop"), DONE))
    assert (await events(placed(), upstream))[-1].reasons == ()


async def test_usage_beside_a_choice_is_that_choices_alone(
    placed: Placed, upstream: Upstream, small: Backend
) -> None:
    """As vLLM tells it while a stream runs; only the last event counts all choices."""

    def said(choice: int, written: int) -> bytes:
        counts = usage(prompt=9, completion=written)
        body = {"choices": [{"index": choice, "delta": {"content": "a"}}], "usage": counts}
        return event(body)

    small.plays(stalls(said(0, 1), said(1, 1), said(0, 2), said(1, 2), said(1, 3)))
    call = placed(choices=2)
    for _ in range(5):
        await call.event(upstream)
    assert call.tally.usage == Usage(9, 5)
    small.plays(streams(said(0, 1), said(1, 1), usage_event(prompt=9, completion=4), DONE))
    call = placed(choices=2)
    await events(call, upstream)
    assert call.tally.usage == Usage(9, 4)


async def test_a_chosen_one_has_the_tokens_of_its_characters(
    placed: Placed, upstream: Upstream, small: Backend
) -> None:
    said = [chunk({"content": "aaa"}), chunk({"content": "b"}, index=1)]
    small.plays(streams(*said, usage_event(completion=8), DONE))
    call = placed()
    await events(call, upstream)
    call.picks(1)
    assert call.tally.emitted == 2


async def test_events_say_what_the_parts_say_and_hold_them(
    placed: Placed, upstream: Upstream, small: Backend
) -> None:
    top = [{"token": "b", "logprob": -2.0}]
    said = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": top}]}
    sent = [
        chunk({"role": "assistant", "content": ""}),
        b": a comment\n\n",
        chunk({"content": "a"}, logprobs=said, token_ids=[7]),
        chunk({"content": "other"}, index=1),
        chunk({}, "stop", stop_reason=151),
        usage_event(),
        DONE,
    ]
    small.plays(streams(*sent))
    call = placed()
    token = Token("a", 7, -0.5, (Alternative("b", -2.0),))
    assert await events(call, upstream) == [
        Delta(ATTEMPT, "a", (token,)),
        Delta(ATTEMPT, "other", (), 1),
        Finished(ATTEMPT, "stop", 151, Usage(10, 2)),
    ]
    assert b"".join(call.held) == b"".join(sent)


async def test_a_whole_answer_is_one_part_and_two_events(
    placed: Placed, upstream: Upstream, small: Backend
) -> None:
    body = json.dumps(chat_answer("Hello")).encode()
    small.plays(answers(body))
    assert await parts(placed(stream=False), upstream) == [body]
    call = placed(stream=False)
    assert await events(call, upstream) == [
        Delta(ATTEMPT, "Hello"),
        Finished(ATTEMPT, "stop", None, Usage(10, 2)),
    ]
    assert list(call.held) == [body]


async def test_a_draft_that_grows_too_long(
    placed: Placed, upstream: Upstream, small: Backend
) -> None:
    small.plays(streams(*(chunk({"content": "x" * 100}) for _ in range(50)), DONE))
    call = placed(limits=Limits(60, 60, 1 << 20, hold=1000, event=1 << 20))
    with pytest.raises(FaultError) as caught:
        await events(call, upstream)
    assert (caught.value.fault.code, caught.value.fault.blame) == (
        "draft_too_large", Blame.GATEWAY,
    )  # fmt: skip


@pytest.mark.parametrize("begun", [False, True])
async def test_silence_has_two_limits(
    placed: Placed, upstream: Upstream, small: Backend, begun: bool
) -> None:
    limits = Limits(60 if begun else 0.1, 0.1 if begun else 60, 1 << 20, 1 << 20, 1 << 20)
    small.plays(stalls(*[chunk({"content": "a"})] * begun))
    call = placed(limits=limits)
    if begun:
        assert await call.part(upstream)
    with pytest.raises(FaultError) as caught:
        await call.part(upstream)
    fault = caught.value.fault
    assert fault.code == ("idle_timeout" if begun else "first_token_timeout")
    assert (fault.blame, fault.status) == (Blame.BACKEND, 504)
    assert "said nothing for 0.1 s" in fault.message
    call.close(fault.blame)
    await eventually(lambda: small.cancelled == 1)


async def test_time_that_the_client_takes_is_not_the_backends_silence(
    placed: Placed, upstream: Upstream, small: Backend
) -> None:
    go_on = asyncio.Event()
    small.plays(pauses(go_on, chunk({"content": "a"}), chunks(DONE)))
    call = placed(limits=Limits(60, 0.05, 1 << 20, 1 << 20, 1 << 20))
    assert await call.part(upstream)
    until = monotonic() + 0.15
    await eventually(lambda: monotonic() > until)  # the client reads, three limits long
    go_on.set()
    assert await call.part(upstream) == DONE


async def test_an_error_after_good_events_comes_after_them(
    placed: Placed, upstream: Upstream, small: Backend
) -> None:
    good, bad = chunk({"content": "a"}), event({"error": {"message": "dead", "code": 500}})
    small.plays(streams(good + bad + chunk({"content": "never"}) + DONE))
    call = placed()
    assert await call.part(upstream) == good
    for _ in range(2):
        with pytest.raises(FaultError) as caught:
            await call.part(upstream)
        assert caught.value.fault.code == "backend_error"
    assert not call.complete


async def test_a_large_answer_is_not_decoded(
    placed: Placed, upstream: Upstream, small: Backend
) -> None:
    vector = b"0.12," * 40_000
    head = b'{"data": [%b0], "usage": {"prompt_tokens": 5, "total_tokens": 5}' % vector
    small.plays(answers(head + b"}"), answers(head[:-1]))
    call = placed(stream=False, surface=Surface.EMBEDDINGS)
    assert await parts(call, upstream) == [head + b"}"]
    assert call.tally.usage == Usage(5)
    with pytest.raises(FaultError) as caught:
        await parts(placed(stream=False, surface=Surface.EMBEDDINGS), upstream)
    assert caught.value.fault.code == "bad_json"


async def test_cancelling_is_not_mistaken_for_silence(
    placed: Placed, upstream: Upstream, small: Backend
) -> None:
    small.plays(silent)
    call = placed()
    waiting = asyncio.create_task(call.part(upstream))
    await small.call()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    call.close(Blame.GONE)
    await eventually(lambda: small.cancelled == 1)


async def test_an_error_body_that_stalls_leaks_no_connection(
    placed: Placed, upstream: Upstream, small: Backend
) -> None:
    async def half_an_error(call: Any) -> None:
        await call.head(500, "application/json")
        await call.chunk(b'{"error"')
        await call.gone.wait()

    small.plays(half_an_error)
    call = placed(limits=Limits(0.1, 60, 1 << 20, 1 << 20, 1 << 20))
    with pytest.raises(FaultError) as caught:
        await call.part(upstream)
    assert caught.value.fault.code == "first_token_timeout"
    call.close(Blame.BACKEND)
    await eventually(lambda: small.cancelled == 1)


async def test_the_time_to_the_first_byte_is_learnt(
    placed: Placed, watched: Watched, upstream: Upstream, small: Backend
) -> None:
    small.plays(streams(b": alive\n\n", chunk({"content": "a"}), DONE))
    call = placed()
    await parts(call, upstream)
    assert call.tally.first_byte is not None
    assert watched.latency.value == pytest.approx(call.tally.first_byte - call.tally.began)
