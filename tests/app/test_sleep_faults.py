"""What can go wrong while somebody waits for a server to wake, and what must not happen then."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from router.config import Form
from router.observe import SleepChanged
from tests.conftest import Started
from tests.running import CHAT, MESSAGES, Running, eventually, request, wire
from tests.scripted import Backend, answers, chat_events, hangs_up, pauses, streams
from tests.sleepers import Sleeper, shared

LARGE = {"model": "large"}


@pytest.fixture
def awake(small: Backend) -> Sleeper:
    """The server of `small`, awake."""
    return Sleeper(small)


@pytest.fixture
def asleep(large: Backend) -> Sleeper:
    """The server of `large`, asleep."""
    return Sleeper(large, sleeping=True)


def waiting(running: Running, name: str = "large") -> int:
    return running.rooms.revisions.runtime.pools[name].waiting


def state(running: Running, name: str) -> str:
    return running.backend(name).rest.state


# ----------------------------------------------------------------------------- as it should be


async def test_a_call_waits_until_room_was_made_and_the_server_is_awake(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    running = await gateway(shared(awake.backend, asleep.backend))
    answer = await running.post(**LARGE)
    assert answer.status_code == 200
    assert awake.orders == ["/sleep?level=1&mode=wait"]
    assert (state(running, "small"), state(running, "large")) == ("asleep", "awake")
    seen = [each.change for each in running.seen if isinstance(each, SleepChanged)]
    assert seen == ["slept", "woken"]
    assert running.in_flight() == waiting(running) == 0


async def test_at_level_1_waking_is_one_call(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    running = await gateway(shared(awake.backend, asleep.backend))
    for name in ("large", "small"):
        assert (await running.post(model=name)).is_success
    assert awake.orders == ["/sleep?level=1&mode=wait", "/wake_up"]


async def test_at_level_2_the_weights_are_read_anew(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    running = await gateway(shared(awake.backend, asleep.backend, {"level": 2}))
    for name in ("large", "small"):
        assert (await running.post(model=name)).is_success
    again = ["/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache"]
    assert awake.orders == ["/sleep?level=2&mode=wait", *again]


async def test_one_that_others_put_to_sleep_may_have_lost_its_weights(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    running = await gateway(shared(awake.backend, asleep.backend))
    assert (await running.post(**LARGE)).is_success
    assert "/collective_rpc" in asleep.orders


async def test_it_is_asked_what_it_can_do_when_it_is_awake(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    running = await gateway(shared(awake.backend, asleep.backend))
    assert set(asleep.told) <= {"/health"}
    assert not running.backend("large").probed
    await running.post(**LARGE)
    await eventually(lambda: running.backend("large").probed)
    assert asleep.told.index("/v1/models") > asleep.told.index("/wake_up?tags=kv_cache")


async def test_a_stream_is_not_cut_short_for_others(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    go_on = asyncio.Event()
    first, *rest = chat_events(["Hel", "lo"])
    awake.backend.plays(pauses(go_on, first, streams(*rest)))
    running = await gateway(shared(awake.backend, asleep.backend))
    stream = asyncio.create_task(running.streamed(model="small"))
    await awake.backend.call()
    other = asyncio.create_task(running.post(**LARGE))
    await eventually(lambda: running.backend("small").rest.draining)
    late = asyncio.create_task(running.post(model="small"))
    await eventually(lambda: waiting(running, "small") == 1)
    assert awake.orders == []
    awake.backend.plays(answers({"choices": []}))
    go_on.set()
    await asyncio.gather(stream, other, late)
    assert awake.orders[0] == "/sleep?level=1&mode=wait"


async def test_the_silence_of_a_stream_is_broken_while_it_waits(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    asleep.may_wake.clear()
    running = await gateway(
        shared(awake.backend, asleep.backend, limits={"keepalive": 0.05, "deadline": 30})
    )
    body = {"model": "large", "messages": MESSAGES, "stream": True}
    async with wire(running.url) as client:
        await client.send(request(body))
        await client.until(b": keep-alive")
        assert waiting(running) == 1
        asleep.may_wake.set()
        await client.until(b"[DONE]")


async def test_the_metrics_tell_who_sleeps_and_who_waits(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    asleep.may_wake.clear()
    running = await gateway(shared(awake.backend, asleep.backend))
    answer = asyncio.create_task(running.post(**LARGE))
    await eventually(lambda: state(running, "large") == "waking")
    told = await running.metrics()
    assert told["tandem_backend_awake"][asleep.backend.name, "large"] == 0
    assert told["tandem_backend_awake"][awake.backend.name, "small"] == 0
    assert told["tandem_waiting_for_wake"]["large",] == 1
    asleep.may_wake.set()
    await answer
    told = await running.metrics()
    assert told["tandem_backend_awake"][asleep.backend.name, "large"] == 1
    assert told["tandem_waiting_for_wake"]["large",] == 0
    assert told["tandem_wake_seconds_count"][asleep.backend.name, "large"] == 1
    assert told["tandem_sleep_changes_total"][awake.backend.name, "slept", "small"] == 1


# --------------------------------------------------------------------------- as it may go wrong


async def test_a_wake_that_fails_is_the_backends_fault(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    asleep.instead["/wake_up"] = answers({"error": "out of memory"}, 500)
    policies = {"careful": {"use": "fallback", "targets": ["large", "small"]}}
    running = await gateway(
        shared(awake.backend, asleep.backend, policies=policies, default="careful")
    )
    alone = await running.post(**LARGE)
    assert alone.status_code == 503
    assert alone.json()["error"]["code"] == "wake_failed"
    assert "out of memory" in alone.json()["error"]["message"]
    helped = await running.post(model="careful")
    assert (helped.status_code, helped.headers["x-tandem-models"]) == (200, "small=2")
    assert asleep.backend.calls == []
    assert running.in_flight() == waiting(running) == 0


async def test_a_server_that_will_not_wake_is_left_alone_after_a_while(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    asleep.instead["/wake_up"] = answers({}, 500)
    running = await gateway(
        shared(awake.backend, asleep.backend, breaker={"failures": 2, "wait": 60})
    )
    codes = [(await running.post(**LARGE)).json()["error"]["code"] for _ in range(4)]
    assert codes == ["wake_failed", "wake_failed", "no_backend", "no_backend"]
    assert len(asleep.orders) == 2


async def test_a_server_that_dies_while_it_wakes(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    asleep.may_wake.clear()
    asleep.instead["/collective_rpc"] = hangs_up
    running = await gateway(shared(awake.backend, asleep.backend))
    asked = [asyncio.create_task(running.post(**LARGE)) for _ in range(3)]
    await eventually(lambda: waiting(running) == 3)
    asleep.may_wake.set()
    told = [answer.json()["error"]["code"] for answer in await asyncio.gather(*asked)]
    assert told == ["wake_failed"] * 3
    assert asleep.backend.calls == []


async def test_a_server_that_takes_too_long_to_wake(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    asleep.may_wake.clear()
    running = await gateway(shared(awake.backend, asleep.backend, {"timeout": 0.05}))
    answer = await running.post(**LARGE)
    assert answer.json()["error"]["code"] == "wake_failed"
    assert "sleep.timeout" in answer.json()["error"]["message"]


async def test_a_server_that_only_says_that_it_woke(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    asleep.instead["/wake_up"] = answers({"status": "sleeping"})
    running = await gateway(shared(awake.backend, asleep.backend))
    answer = await running.post(**LARGE)
    assert "/is_sleeping answered" in answer.json()["error"]["message"]


async def test_a_client_that_leaves_the_line(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    asleep.may_wake.clear()
    running = await gateway(shared(awake.backend, asleep.backend))
    async with wire(running.url) as client:
        await client.send(request({"model": "large", "messages": MESSAGES}))
        await eventually(lambda: waiting(running) == 1)
        client.reset()
        await eventually(lambda: waiting(running) == 0)
    ended = await running.ended()
    assert ended.status == 499
    asleep.may_wake.set()
    await eventually(lambda: state(running, "large") == "awake")
    assert asleep.backend.calls == []
    assert running.in_flight() == 0


async def test_when_nobody_waits_any_more_nobody_must_make_room(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    go_on = asyncio.Event()
    first, *rest = chat_events(["Hel", "lo"])
    awake.backend.plays(pauses(go_on, first, streams(*rest)))
    running = await gateway(shared(awake.backend, asleep.backend))
    stream = asyncio.create_task(running.streamed(model="small"))
    await awake.backend.call()
    async with wire(running.url) as client:
        await client.send(request({"model": "large", "messages": MESSAGES}))
        await eventually(lambda: running.backend("small").rest.draining)
        client.reset()
        await eventually(lambda: not running.backend("small").rest.draining)
    go_on.set()
    await stream
    assert awake.orders == asleep.orders == []


async def test_too_many_in_line(gateway: Started, awake: Sleeper, asleep: Sleeper) -> None:
    asleep.may_wake.clear()
    running = await gateway(shared(awake.backend, asleep.backend, {"queue": 2}))
    asked = [asyncio.create_task(running.post(**LARGE)) for _ in range(2)]
    await eventually(lambda: waiting(running) == 2)
    refused = await running.post(**LARGE)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert refused.json()["error"]["code"] == "asleep_queue_full"
    asleep.may_wake.set()
    assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200, 200]


async def test_the_deadline_passes_in_line(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    asleep.may_wake.clear()
    running = await gateway(shared(awake.backend, asleep.backend, limits={"deadline": 1}))
    answer = await running.post(**LARGE)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "asleep_timeout"
    assert (await running.ended()).blame == "busy"
    assert running.backend("large").state != "open"
    assert running.in_flight() == waiting(running) == 0


async def test_another_model_that_is_awake_helps_out_in_time(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    asleep.may_wake.clear()
    tree = shared(awake.backend, asleep.backend, limits={"deadline": 2})
    tree["hosts"]["127.0.0.1"]["memory_gb"] = 12
    tree["policies"] = {"careful": {"use": "fallback", "targets": ["large", "small"]}}
    running = await gateway({**tree, "default": "careful"})
    answer = await running.post(CHAT, model="careful")
    assert (answer.status_code, answer.headers["x-tandem-models"]) == (200, "small=2")


async def test_a_server_that_will_not_sleep(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    awake.instead["/sleep"] = answers({"error": "not now"}, 500)
    running = await gateway(shared(awake.backend, asleep.backend, limits={"deadline": 1}))
    assert (await running.post(**LARGE)).json()["error"]["code"] == "asleep_timeout"
    assert (await running.post(model="small")).is_success
    failed = await running.saw(SleepChanged)
    assert (failed.change, failed.why) == (
        "sleep_failed",
        '/sleep answered 500 {"error": "not now"}',
    )
    assert asleep.orders == []


async def test_a_server_without_sleep_mode_is_awake_for_good(
    gateway: Started, small: Backend, asleep: Sleeper
) -> None:
    running = await gateway(shared(small, asleep.backend))
    assert (await running.post(model="small")).is_success
    refused = await running.post(**LARGE)
    assert refused.json()["error"]["code"] == "asleep_no_room"
    assert "VLLM_SERVER_DEV_MODE=1" in running.backend("small").rest.why


# ------------------------------------------------------------------------------------------ swaps


async def swap(running: Running, tree: dict[str, object]) -> None:
    await running.rooms.revisions.replace(json.dumps(tree), Form.JSON, None)


async def test_a_swap_keeps_who_sleeps_and_who_waits(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    asleep.may_wake.clear()
    tree = shared(awake.backend, asleep.backend)
    running = await gateway(tree)
    answer = asyncio.create_task(running.post(**LARGE))
    await eventually(lambda: state(running, "large") == "waking")
    await swap(running, {**tree, "baseline": "large"})
    assert (state(running, "small"), state(running, "large")) == ("asleep", "waking")
    asleep.may_wake.set()
    assert (await answer).is_success
    assert asleep.orders.count("/wake_up?tags=kv_cache") == 1


async def test_a_model_that_shall_not_sleep_any_more_is_woken_for_good(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    tree = shared(awake.backend, asleep.backend)
    running = await gateway(tree)
    del tree["models"]["large"]["sleep"]
    tree["hosts"]["127.0.0.1"]["memory_gb"] = 12
    await swap(running, tree)
    await eventually(lambda: not running.backend("large").rest.managed)
    assert running.backend("large").awake
    assert not asleep.sleeping
    assert awake.orders == []


async def test_a_server_that_leaves_the_configuration_sends_its_line_away(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    asleep.may_wake.clear()
    tree = shared(awake.backend, asleep.backend)
    running = await gateway(tree)
    answer = asyncio.create_task(running.post(**LARGE))
    await eventually(lambda: state(running, "large") == "waking")
    del tree["models"]["large"]
    await swap(running, tree)
    assert (await answer).json()["error"]["code"] == "wake_failed"
    assert running.in_flight() == 0


async def test_waking_counts_for_the_wake_and_not_for_the_servers_latency(
    gateway: Started, awake: Sleeper, asleep: Sleeper
) -> None:
    asleep.may_wake.clear()
    running = await gateway(shared(awake.backend, asleep.backend))
    answer = asyncio.create_task(running.post(**LARGE))
    await eventually(lambda: state(running, "large") == "waking")
    began = time.monotonic()
    await eventually(lambda: time.monotonic() > began + 0.3)
    asleep.may_wake.set()
    await answer
    latency = running.backend("large").latency.value
    assert 0 < latency < running.backend("large").rest.wakes_in
    assert running.backend("large").rest.wakes_in > 0.25  # its clock began a little later
