"""Streams as bytes: cuts, silence, comments, truncation, slow clients, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from time import monotonic
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.faults import Blame
from tests.conftest import Started
from tests.running import CHAT, MESSAGES, Running, config, eventually, request, wire
from tests.scripted import (
    DONE,
    Backend,
    Call,
    answers,
    chat_answer,
    chunk,
    hangs_up,
    pauses,
    stalls,
    streams,
    usage_event,
)

SOON = 1.0
"""Seconds within which a backend must hear that its client has left; the promise is 0.1, and the
test prints what it was. A busy machine for tests may take longer."""

EVENTS = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "é 你好 🚲"}),
    b": a comment\n\n",
    chunk({"content": "end\n\nof it"}),
]
LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


def body(**said: Any) -> dict[str, Any]:
    return {"model": "small", "messages": MESSAGES, "stream": True, **said}


# ---------------------------------------------------------------------------------------- cuts


@pytest.mark.parametrize("line_end", LINE_ENDS.values(), ids=LINE_ENDS.keys())
async def test_a_stream_may_be_cut_anywhere(
    gateway: Started, small: Backend, line_end: bytes
) -> None:
    running = await gateway(config({"small": small}))
    sent = b"".join(EVENTS).replace(b"\n", line_end)
    whole = sent + (usage_event() + DONE).replace(b"\n", line_end)

    cuts = [[whole[at : at + 1] for at in range(len(whole))]]

    @settings(max_examples=40, deadline=None)
    @given(st.sets(st.integers(1, len(whole) - 1), max_size=12))
    def cut(places: set[int]) -> None:
        edges = [0, *sorted(places), len(whole)]
        cuts.append([whole[start:end] for start, end in pairwise(edges)])

    cut()
    for pieces in cuts:
        small.plays(streams(*pieces))
        got = await running.streamed(model="small")
        assert got.startswith(sent), pieces
        assert got.endswith(DONE), pieces
        assert got.count(b": tandem") == 1, pieces


@pytest.mark.parametrize("at", [1, 20, -1])
async def test_half_an_event_is_never_passed_on(gateway: Started, small: Backend, at: int) -> None:
    running = await gateway(config({"small": small}))
    first, second = EVENTS[1], EVENTS[3]
    passed_on = asyncio.Event()
    small.plays(pauses(passed_on, first + second[:at], hangs_up))
    async with running.client.stream("POST", CHAT, json=body()) as answer:
        parts = answer.aiter_raw()
        assert await anext(parts) == first
        passed_on.set()
        got = b"".join([part async for part in parts])
    assert got.startswith(b": tandem ")
    assert DONE not in got
    error = json.loads(got.rstrip().rpartition(b"data: ")[2])["error"]
    assert error["code"] in ("truncated", "broken")
    ended = await running.ended()
    assert (ended.status, ended.blame) == (200, Blame.BACKEND)
    assert running.in_flight() == 0


async def test_a_whole_event_is_passed_on_before_the_next_one_comes(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}))
    more = asyncio.Event()

    async def waits(call: Call) -> None:
        await call.head()
        await call.chunk(EVENTS[0] + EVENTS[1][:30])
        await more.wait()
        await call.chunk(EVENTS[1][30:] + DONE)
        await call.end()

    small.plays(waits)
    async with running.client.stream("POST", CHAT, json=body()) as answer:
        parts = answer.aiter_raw()
        assert await anext(parts) == EVENTS[0]
        more.set()
        assert (await anext(parts)).startswith(EVENTS[1])
        async for _ in parts:
            pass


# ------------------------------------------------------------------------------------- endings


async def test_a_stream_that_just_ends_is_an_error(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    small.plays(streams(*EVENTS))  # a proper last chunk, but no [DONE]
    got = await running.streamed(model="small")
    assert got.startswith(b"".join(EVENTS))
    assert DONE not in got
    error = json.loads(got.rstrip().rpartition(b"data: ")[2])["error"]
    assert (error["code"], error["type"]) == ("truncated", "server_error")
    metrics = await running.metrics()
    assert metrics["tandem_stream_truncated_total"] == {("backend", "small"): 1}


async def test_what_follows_the_end_is_not_waited_for(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    small.plays(stalls(*EVENTS, DONE))
    assert (await running.streamed(model="small")).endswith(DONE)
    assert (await running.ended()).blame is None
    await eventually(lambda: small.cancelled == 1)


@pytest.mark.parametrize(
    "end", [b"data: [DONE]\r\n\r\n", b"data:[DONE]\n\n", b"data: [DONE]\n\n: x\n\n"]
)
async def test_other_spellings_of_the_end(gateway: Started, small: Backend, end: bytes) -> None:
    running = await gateway(config({"small": small}))
    small.plays(streams(EVENTS[1], end))
    got = await running.streamed(model="small")
    assert got.startswith(EVENTS[1])
    assert got.count(b": tandem ") == 1
    assert got.count(b"[DONE]") == 1


# -------------------------------------------------------------------------------------- silence


async def test_a_silent_stream_is_kept_open(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}, limits={"keepalive": 0.05}))
    first, second = asyncio.Event(), asyncio.Event()

    async def waits(call: Call) -> None:
        await first.wait()
        await call.head()
        await call.chunk(EVENTS[1][:10])
        await second.wait()
        await call.chunk(EVENTS[1][10:])
        await call.chunk(DONE)
        await call.end()

    small.plays(waits)
    async with running.client.stream("POST", CHAT, json=body()) as answer:
        parts = answer.aiter_raw()
        assert await anext(parts) == b": keep-alive\n\n"  # before the backend has said a word
        first.set()
        assert await anext(parts) == b": keep-alive\n\n"  # in the middle of an event of its own
        second.set()
        rest = b"".join([part async for part in parts]).replace(b": keep-alive\n\n", b"")
    assert rest.startswith(EVENTS[1])
    assert rest.endswith(DONE)


async def test_nothing_is_said_into_an_answer_that_is_no_stream(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}, limits={"keepalive": 0.02}))
    kept_quiet = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, kept_quiet.set)  # several silences long

    async def waits(call: Call) -> None:
        await kept_quiet.wait()
        await answers(chat_answer())(call)

    small.plays(waits)
    assert (await running.post(model="small")).json() == chat_answer()


async def test_a_failure_after_a_keep_alive_is_an_event(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}, limits={"keepalive": 0.05}))
    said = asyncio.Event()

    async def fails(call: Call) -> None:
        await said.wait()
        call.hang_up()

    small.plays(fails)
    async with running.client.stream("POST", CHAT, json=body()) as answer:
        assert answer.status_code == 200
        parts = answer.aiter_raw()
        assert await anext(parts) == b": keep-alive\n\n"
        said.set()
        rest = b"".join([part async for part in parts])
    assert json.loads(rest.rstrip().rpartition(b"data: ")[2])["error"]["code"] == "hung_up"
    assert DONE not in rest


async def test_a_backends_own_keep_alives_are_no_answer(gateway: Started, small: Backend) -> None:
    """They neither commit the gateway to this backend nor stop the clock of its first token."""
    tree = config({"small": small}, limits={"first_token": 0.3, "idle": 600, "keepalive": 600})
    running = await gateway(tree)

    async def only_alive(call: Call) -> None:
        await call.head()
        while not call.gone.is_set():
            await call.chunk(b": keep-alive\n\n")
            await asyncio.sleep(0.02)  # the backend's pace, not the test's

    small.plays(only_alive)
    answer = await running.post(**body())
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "first_token_timeout"


async def test_a_backends_comments_travel_once_it_has_begun(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}))
    alive = b": keep-alive\n\n"
    small.plays(streams(alive, EVENTS[1], alive, EVENTS[3], DONE))
    got = await running.streamed(model="small")
    assert got.replace(alive, b"", 1 if got.startswith(alive) else 0).startswith(
        EVENTS[1] + alive + EVENTS[3]
    )


# --------------------------------------------------------------------------------- slow clients


async def test_a_slow_client_slows_its_backend_down(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    piece = chunk({"content": "x" * 16_000})
    most = 64 << 20

    async def pours(call: Call) -> None:
        await call.head()
        while call.sent < most:
            await call.chunk(piece)

    small.plays(pours)
    async with wire(running.url, buffer=4096) as client:
        await client.send(request(body()))
        call = await small.call()
        await asyncio.wait_for(call.stalled.wait(), 10)
        assert call.sent < most / 4  # what sockets and buffers hold, and no more
        client.reset()
        await asyncio.wait_for(call.gone.wait(), 10)
    ended = await running.ended()
    assert (ended.status, ended.blame) == (499, Blame.GONE)
    assert running.in_flight() == 0


async def test_a_client_that_never_reads_cannot_hold_a_backend_past_the_deadline(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}, limits={"deadline": 1}))
    piece = chunk({"content": "x" * 16_000})

    async def pours(call: Call) -> None:
        await call.head()
        while not call.gone.is_set():
            await call.chunk(piece)

    small.plays(pours)
    async with wire(running.url, buffer=4096) as client:
        await client.send(request(body()))
        call = await small.call()
        await asyncio.wait_for(call.stalled.wait(), 10)
        await asyncio.wait_for(call.gone.wait(), 10)
        await eventually(lambda: running.in_flight() == 0)
    assert (await running.ended()).blame is not None


async def test_the_deadline_also_ends_a_stream_that_lives(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}, limits={"deadline": 0.5}))
    small.plays(stalls(EVENTS[1]))
    got = await running.streamed(model="small")
    assert got.startswith(EVENTS[1])
    error = json.loads(got.rstrip().rpartition(b"data: ")[2])["error"]
    assert error["code"] == "deadline"
    assert DONE not in got
    await eventually(lambda: small.cancelled == 1)
    assert running.in_flight() == 0


# ----------------------------------------------------------------------------- clients that leave


async def left(running: Running, small: Backend, began: float) -> None:
    """The backend has heard of it soon, and nothing is left."""
    call = await small.call()
    await asyncio.wait_for(call.gone.wait(), 10)
    await eventually(lambda: small.cancelled == 1)
    print(f"cancelled after {(call.gone_at - began) * 1e3:.1f} ms")
    assert call.gone_at - began < SOON
    ended = await running.ended()
    assert (ended.status, ended.blame) == (499, Blame.GONE)
    assert ended.attempts[0].blame is Blame.GONE
    assert running.in_flight() == small.open == 0
    assert running.backend("small").state == "healthy"


@pytest.mark.parametrize("how", ["leave", "reset"])
@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_before_the_first_byte(
    gateway: Started, small: Backend, stream: bool, how: str
) -> None:
    running = await gateway(config({"small": small}))
    small.plays(stalls())
    async with wire(running.url) as client:
        await client.send(request(body(stream=stream)))
        await small.call()
        began = monotonic()
        getattr(client, how)()
        await left(running, small, began)


@pytest.mark.parametrize("how", ["leave", "reset"])
async def test_leaving_in_the_middle_of_a_stream(
    gateway: Started, small: Backend, how: str
) -> None:
    running = await gateway(config({"small": small}))
    small.plays(stalls(*EVENTS))
    async with wire(running.url) as client:
        await client.send(request(body()))
        await client.until(b"of it")
        began = monotonic()
        getattr(client, how)()
        await left(running, small, began)
    ended = await running.ended()
    assert ended.attempts[0].estimated
    metrics = await running.metrics()
    assert "tandem_stream_truncated_total" not in metrics


@pytest.mark.parametrize("policy", ["hedged", "tested"])
async def test_leaving_while_a_policy_waits(gateway: Started, small: Backend, policy: str) -> None:
    running = await gateway(
        config(
            {"small": small},
            policies={
                "hedged": {"use": "hedge", "model": "small", "delay": 600},
                "tested": {"use": "cascade", "small": "small", "large": "small", "pattern": "x"},
            },
        )
    )
    small.plays(stalls(EVENTS[0]) if policy == "tested" else stalls())
    async with wire(running.url) as client:
        await client.send(request(body(model=policy)))
        await small.call()
        began = monotonic()
        client.leave()
        await left(running, small, began)


@pytest.mark.parametrize("sent", [0, 10])
async def test_leaving_within_the_body_reaches_no_backend(
    gateway: Started, small: Backend, sent: int
) -> None:
    running = await gateway(config({"small": small}))
    head, mark, said = request(body()).partition(b"\r\n\r\n")
    async with wire(running.url) as client:
        await client.send(head + mark + said[:sent])
        client.reset()
    answer = await running.post(model="small")  # another client is served meanwhile
    assert answer.status_code == 200
    assert len(small.calls) == 1
    assert (await running.ended()).status == 200


async def test_every_guard_is_released_whatever_clients_do(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}))
    small.plays(streams(*EVENTS, DONE))

    async def come_and_go(number: int) -> None:
        async with wire(running.url) as client:
            await client.send(request(body()))
            if number % 3:
                await client.until(b"\r\n\r\n")
            if number % 2:
                client.reset()
            else:
                client.leave()

    await asyncio.gather(*(come_and_go(number) for number in range(40)))
    await eventually(lambda: len(small.calls) > 0 and small.open == 0)
    await eventually(lambda: running.in_flight() == 0)
