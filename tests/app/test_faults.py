"""Backends that are dead, broken or lying: what the client is told, and who gets the blame."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest

from router.faults import Blame
from tests.conftest import Started
from tests.running import CHAT, Running, config, eventually, refusing, unaccepting
from tests.scripted import (
    DONE,
    SSE,
    Backend,
    Call,
    Script,
    answers,
    chat_answer,
    chunk,
    chunks,
    event,
    hangs_up,
    pauses,
    raw,
    silent,
    stalls,
    streams,
    vllm,
)

FIRST = chunk({"content": "first"})
OK_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: "
SHORT = {"first_token": 0.3, "idle": 0.3, "connect": 1.5, "keepalive": 600}
"""Limits for tests in which one of them must strike."""


async def resets(call: Call) -> None:
    call.reset()


async def resets_in_the_head(call: Call) -> None:
    await call.raw(b"HTTP/1.1 200 OK\r\ncontent-ty")
    call.reset()


async def resets_in_the_body(call: Call) -> None:
    await call.raw(OK_HEAD + b'application/json\r\ncontent-length: 1000\r\n\r\n{"id":')
    call.reset()


async def pours_json(call: Call) -> None:
    await call.head(kind="application/json")
    while not call.gone.is_set():
        await call.chunk(b" " * 65_536)


async def pours_one_event(call: Call) -> None:
    await call.head()
    await call.chunk(b"data: ")
    while not call.gone.is_set():
        await call.chunk(b"x" * 65_536)


async def stalls_in_the_body(call: Call) -> None:
    await call.raw(OK_HEAD + b'application/json\r\ncontent-length: 1000\r\n\r\n{"id":')
    await call.gone.wait()


async def redirects(call: Call) -> None:
    await call.whole(b"", 302, headers=[("location", "http://169.254.169.254/")])


async def compressed(call: Call) -> None:
    await call.whole(gzip.compress(b"{}"), headers=[("content-encoding", "gzip")])


async def bad_framing(call: Call) -> None:
    await call.raw(b"zz\r\nno chunk begins like this\r\n")
    await call.gone.wait()


async def only_begins(call: Call) -> None:
    await call.head()
    await call.gone.wait()


async def breaks_in_the_first_event(call: Call) -> None:
    await call.head()
    await call.chunk(FIRST[:20])
    call.hang_up()


ERROR = {"error": {"message": "the engine is dead", "type": "InternalServerError", "code": 500}}
OF_CLIENT = {"error": {"message": "too long", "type": "BadRequestError", "param": "n", "code": 400}}

BROKEN: Mapping[str, tuple[Script, str]] = {
    "hangs up": (hangs_up, "hung_up"),
    "resets": (resets, "hung_up"),
    "resets in the head": (resets_in_the_head, "hung_up"),
    "speaks no HTTP": (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "malformed"),
    "answers with HTML": (answers(b"<html>hello</html>", kind="text/html"), "wrong_content_type"),
    "has no type": (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"), "wrong_content_type"),
    "redirects": (redirects, "wrong_content_type"),
    "fails": (answers({"error": {"message": "CUDA out of memory"}}, 500), "backend_error"),
    "cannot be reached": (answers(b"bad gateway", 502, "text/plain"), "backend_error"),
    "refuses our key": (answers({"error": {"message": "bad key sk-secret"}}, 401), "bad_key"),
    "forbids": (answers({"error": {"message": "bad key sk-secret"}}, 403), "bad_key"),
}  # fmt: skip
WHOLE: Mapping[str, tuple[Script, str]] = {
    "resets in the body": (resets_in_the_body, "broken"),
    "is cut short": (raw(OK_HEAD + b"application/json\r\ncontent-length: 99\r\n\r\n{}"), "broken"),
    "is not JSON": (answers(b'{"id": "x", '), "bad_json"),
    "is empty": (answers(b""), "bad_json"),
    "is not UTF-8": (answers(b'{"id": "\xff\xfe"}'), "bad_json"),
    "is compressed": (compressed, "bad_json"),
    "is an error": (answers(ERROR), "backend_error"),
    "is an old error": (answers({"object": "error", "message": "x", "code": 500}), "backend_error"),
    "is a stream": (streams(FIRST, DONE), "wrong_content_type"),
    "never ends": (pours_json, "answer_too_large"),
}  # fmt: skip
STREAMED: Mapping[str, tuple[Script, str]] = {
    "is no stream": (answers(chat_answer()), "wrong_content_type"),
    "ends before it begins": (streams(), "truncated"),
    "breaks in the first event": (breaks_in_the_first_event, "broken"),
    "is an error": (streams(event(ERROR), DONE), "backend_error"),
    "is a comment and an error": (streams(b": hello\n\n" + event(ERROR), DONE), "backend_error"),
    "never ends an event": (pours_one_event, "event_too_large"),
}


def both(table: Mapping[str, Any], stream: bool) -> list[Any]:
    return [pytest.param(*said, stream, id=f"{name}, {stream}") for name, said in table.items()]


@pytest.mark.parametrize(
    ("script", "code", "stream"),
    [*both(BROKEN, False), *both(BROKEN, True), *both(WHOLE, False), *both(STREAMED, True)],
)
async def test_a_lie_before_the_first_byte_is_a_status(
    gateway: Started, small: Backend, script: Script, code: str, stream: bool
) -> None:
    limits = {"answer_mb": 1, "event_kb": 256}
    running = await gateway(config({"small": small}, limits=limits, default="small"))
    small.plays(script)
    answer = await running.post(model="small", stream=stream)
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["type"], error["param"]) == (code, "server_error", None)
    assert "sk-secret" not in answer.text
    ended = await running.ended()
    assert ended.blame is ended.attempts[-1].blame is Blame.BACKEND
    await eventually(lambda: small.open == 0)
    assert running.in_flight() == 0


LATER: Mapping[str, tuple[Script, str]] = {
    "breaks": (hangs_up, "broken"),
    "resets": (resets, "broken"),
    "breaks in an event": (chunks(FIRST[:9], then=hangs_up), "broken"),
    "stops": (chunks(), "truncated"),
    "says an error": (chunks(event(ERROR), DONE), "backend_error"),
    "frames badly": (bad_framing, "broken"),
    "stalls": (silent, "idle_timeout"),
    "stalls in an event": (chunks(FIRST[:9], then=silent), "idle_timeout"),
}


@pytest.mark.parametrize(("then", "code"), LATER.values(), ids=LATER.keys())
async def test_a_lie_after_the_first_byte_is_an_event(
    gateway: Started, small: Backend, then: Script, code: str
) -> None:
    running = await gateway(config({"small": small}, limits={"idle": 0.3}))
    passed_on = asyncio.Event()
    small.plays(pauses(passed_on, FIRST, then))
    body = {"model": "small", "messages": [], "stream": True}
    async with running.client.stream("POST", CHAT, json=body) as answer:
        parts = answer.aiter_raw()
        assert await anext(parts) == FIRST
        passed_on.set()
        rest = b"".join([part async for part in parts])
    closing, event_of_error, nothing = rest.split(b"\n\n")
    assert closing.startswith(b": tandem ")
    assert nothing == b""  # least of all [DONE]
    error = json.loads(event_of_error.removeprefix(b"data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    ended = await running.ended()
    assert (ended.status, ended.blame) == (200, Blame.BACKEND)
    await eventually(lambda: small.open == 0)
    assert running.in_flight() == 0


async def test_what_was_said_before_an_error_in_the_same_breath(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}))
    small.plays(streams(FIRST + event(ERROR) + DONE))
    got = await running.streamed(model="small")
    assert got.startswith(FIRST + b": tandem ")
    assert b"the engine is dead" in got
    assert DONE not in got


@pytest.mark.parametrize("surface", ["messages", "responses"])
async def test_other_surfaces_are_told_in_their_own_words(
    gateway: Started, small: Backend, surface: str
) -> None:
    running = await gateway(config({"small": small}))
    small.plays(streams(b'event: x\ndata: {"type":"x"}\n\n'), answers(ERROR, 500))
    streamed = await running.client.post(f"/v1/{surface}", json={"model": "small", "stream": True})
    whole = await running.client.post(f"/v1/{surface}", json={"model": "small"})
    assert b"\n\nevent: error\ndata: {" in streamed.content
    assert whole.status_code == 502
    assert (whole.json().get("type") == "error") == (surface == "messages")


STALLING: Mapping[str, tuple[Script, bool]] = {
    "a stream says nothing": (stalls(), True),
    "a stream begins and says nothing": (only_begins, True),
    "a stream stops in its first event": (stalls(FIRST[:20]), True),
    "an answer says nothing": (stalls(), False),
    "an answer stops in its middle": (stalls_in_the_body, False),
}


@pytest.mark.parametrize(("script", "stream"), STALLING.values(), ids=STALLING.keys())
async def test_a_stall_before_the_first_byte_is_a_504(
    gateway: Started, small: Backend, script: Script, stream: bool
) -> None:
    limits = SHORT if stream else {"deadline": 0.5}
    running = await gateway(config({"small": small}, limits=limits))

    small.plays(script)
    answer = await running.post(model="small", stream=stream)
    assert answer.status_code == 504
    codes = ("first_token_timeout", "deadline")  # what is left of a short deadline is no time
    assert answer.json()["error"]["code"] in codes[: 1 if stream else 2]
    await eventually(lambda: small.cancelled == 1)
    assert running.in_flight() == 0


@pytest.mark.parametrize(
    ("nobody", "code"), [(refusing, "unreachable"), (unaccepting, "connect_timeout")]
)
async def test_nobody_answers(
    gateway: Started, nobody: Callable[[], AbstractContextManager[str]], code: str
) -> None:
    with nobody() as url:
        tree = config({"small": url}, limits=SHORT, health={"every": 3600, "timeout": 0.2})
        running = await gateway(tree)
        down = await running.post(model="small")  # as far as health checks know
        assert (down.status_code, down.json()["error"]["code"]) == (503, "no_backend")
        assert down.headers["retry-after"] == "1"
        running.backend("small").healthy = True
        answer = await running.post(model="small")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, code)


# ------------------------------------------------------------------- busy backends, and clients


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_full_backend_spills_over_and_is_not_punished(
    gateway: Started, small: Backend, large: Backend, status: int, stream: bool
) -> None:
    large.serves = ("small",)
    limits = {"retry_share": 0, "retry_floor": 0}  # what is busy costs no retry
    running = await gateway(config({"small": [small, large]}, limits=limits))
    full = answers({"error": {"message": "queue full", "type": "QueueOverflowError"}}, status)
    small.plays(full)
    running.backend("small", 1).heard(60.0)  # the other one is slow: the full one is asked first
    for _ in range(10):
        assert (await running.post(model="small", stream=stream)).status_code == 200
    assert len(small.calls) == 10
    assert len(large.calls) == 10
    assert running.backend("small").state == "healthy"


async def test_all_full_is_a_503(gateway: Started, small: Backend, large: Backend) -> None:
    large.serves = ("small",)
    running = await gateway(config({"small": [small, large]}))
    for backend in (small, large):
        backend.plays(answers({"error": {"message": "queue full"}}, 503))
    answer = await running.post(model="small")
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "overloaded_error"
    assert answer.headers["retry-after"] == "1"
    assert (await running.ended()).blame is Blame.BUSY
    assert len(small.calls) == len(large.calls) == 1


async def test_a_dead_backend_spills_over_within_the_retry_budget(
    gateway: Started, small: Backend, large: Backend
) -> None:
    large.serves = ("small",)
    tree = config(
        {"small": [small, large]},
        limits={"retry_share": 0, "retry_floor": 2},
        breaker={"failures": 100},
    )
    running = await gateway(tree)
    for backend in (small, large):
        backend.plays(answers(ERROR, 500))
    for number in range(4):
        assert (await running.post(model="small")).status_code == 502
        tried = len((await running.ended(number + 1)).attempts)
        assert tried == (2 if number < 2 else 1)


@pytest.mark.parametrize("status", [400, 404, 409, 413, 415, 422])
async def test_a_clients_mistake_is_passed_on_untouched(
    gateway: Started, small: Backend, large: Backend, status: int
) -> None:
    large.serves = ("small",)
    running = await gateway(config({"small": [small, large]}, breaker={"failures": 1}))
    said = b'{"error" : {"message":"caf\\u00e9 1.0", "code":%d}, "extra": [1.50]}' % status
    for backend in (small, large):
        backend.plays(answers(said, status))
    for stream in (False, True, False):
        answer = await running.post(model="small", stream=stream)
        assert (answer.status_code, answer.content) == (status, said)
        assert answer.headers["content-type"] == "application/json"
    assert len(small.calls) + len(large.calls) == 3
    assert (await running.ended()).blame is Blame.CLIENT
    assert {running.backend("small", n).state for n in (0, 1)} == {"healthy"}


async def test_a_long_explanation_is_no_failure_of_the_backend(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}, breaker={"failures": 1}))
    said = json.dumps({"error": {"message": "you said " + "x" * 200_000, "code": 400}}).encode()
    small.plays(answers(said, 400))
    answer = await running.post(model="small")
    assert (answer.status_code, answer.content) == (400, said)
    assert running.backend("small").state == "healthy"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_clients_mistake_inside_a_200(
    gateway: Started, small: Backend, stream: bool
) -> None:
    running = await gateway(config({"small": small}, breaker={"failures": 1}))
    small.plays(streams(event(OF_CLIENT), DONE) if stream else answers(OF_CLIENT))
    answer = await running.post(model="small", stream=stream)
    assert (answer.status_code, answer.json()) == (400, OF_CLIENT)
    assert running.backend("small").state == "healthy"


# ---------------------------------------------------------------------------------- the breaker


async def test_failures_in_a_row_open_the_breaker_and_one_trial_closes_it(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}, breaker={"failures": 5, "wait": 0.5}))
    small.plays(answers(ERROR, 500))
    for _ in range(5):
        assert (await running.post(model="small")).status_code == 502
    assert running.backend("small").state == "open"
    shut = await running.post(model="small")
    assert (shut.status_code, shut.json()["error"]["code"]) == (503, "no_backend")
    assert len(small.calls) == 5
    metrics = await running.metrics()
    assert metrics["tandem_backend_state"][small.name, "small", "open"] == 1

    allowed = asyncio.Event()

    async def trial(call: Call) -> None:
        await allowed.wait()
        await vllm(call)

    small.plays(trial)
    await eventually(lambda: running.backend("small").ready)
    first = asyncio.create_task(running.post(model="small"))
    await small.call(5)
    assert (await running.post(model="small")).status_code == 503  # one trial at a time
    allowed.set()
    assert (await first).status_code == 200
    await running.ended(8)
    assert running.backend("small").state == "healthy"
    assert (await running.post(model="small")).status_code == 200


async def test_a_trial_that_fails_opens_the_breaker_again(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}, breaker={"failures": 1, "wait": 0.05}))
    small.plays(answers(ERROR, 500))
    await running.post(model="small")
    for number in range(2):
        await eventually(lambda: running.backend("small").ready)
        assert (await running.post(model="small")).status_code == 502
        await running.ended(number + 2)
        assert running.backend("small").state == "open"


async def test_a_client_that_leaves_a_trial_leaves_room_for_the_next(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}, breaker={"failures": 1, "wait": 0.05}))
    small.plays(answers(ERROR, 500), stalls(), vllm)
    await running.post(model="small")
    await eventually(lambda: running.backend("small").ready)
    left = asyncio.create_task(running.post(model="small"))
    await small.call(1)
    left.cancel()
    await running.ended(2)
    assert (await running.post(model="small")).status_code == 200


async def test_mistakes_of_clients_between_failures(gateway: Started, small: Backend) -> None:
    """They show that the backend is alive: failures in a row are counted anew."""
    running = await gateway(config({"small": small}, breaker={"failures": 2}))
    wrong, dead = answers(OF_CLIENT, 400), answers(ERROR, 500)
    small.plays(dead, wrong, dead, wrong, dead, wrong)
    for _ in range(6):
        await running.post(model="small")
    assert running.backend("small").state == "healthy"


# ------------------------------------------------------------------------------ stale connections


async def test_a_connection_that_went_stale_is_replaced(gateway: Started, small: Backend) -> None:
    """vLLM closes idle connections; the close may cross the next request on the wire."""
    running = await gateway(config({"small": small}))
    await running.post(model="small")

    async def stale(call: Call) -> None:
        call.hang_up()

    small.plays(stale, vllm)
    assert (await running.post(model="small")).status_code == 200
    assert len((await running.ended(2)).attempts) == 1


async def test_lying_details_do_not_break_the_gateway(gateway: Started, small: Backend) -> None:
    """Where numbers, lists and objects belong stands something else."""
    running: Running = await gateway(
        config(
            {"small": small},
            policies={
                "checked": {"use": "cascade", "small": "small", "large": "small", "pattern": "zz"}
            },
        )
    )
    odd: list[Any] = [None, 7, "text", [1], {"a": 1}, True, -5, 1e300]
    for wrong in odd:
        for name in ("choices", "usage"):
            lie = {**chat_answer(), name: wrong}
            await lied(running, small, answers(lie), stream=False)
            await lied(running, small, streams(event(lie), DONE), stream=True)
        for inner in ("message", "logprobs", "index", "finish_reason"):
            lie = chat_answer(said={inner: wrong, "delta": wrong})
            await lied(running, small, answers(lie), stream=False)
            await lied(running, small, streams(event(lie), DONE), stream=True)
        details = {"prompt_tokens": wrong, "prompt_tokens_details": wrong}
        await lied(running, small, answers({**chat_answer(), "usage": details}), stream=False)
    assert running.in_flight() == 0


async def lied(running: Running, small: Backend, script: Script, *, stream: bool) -> None:
    small.plays(script)
    for target in ("small", "checked"):
        answer = await running.post(
            model=target, stream=stream, stream_options={"include_usage": True}
        )
        assert answer.status_code in (200, 502), answer.text
        kind = SSE if stream and answer.status_code == 200 else "application/json"
        assert answer.headers["content-type"] == kind
