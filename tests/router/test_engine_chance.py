"""The engine under random policies: whatever is asked, whatever breaks, whoever leaves, it ends in
order. One head, one last part, every guard released, every call hung up, no half of an event, no
`[DONE]` after a failure.
"""

from __future__ import annotations

import asyncio
import random
from time import monotonic
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import sse
from router.fleet import Fleet
from router.http1 import HungUpError
from router.steps import (
    Attempt,
    Close,
    Compute,
    Emit,
    Failed,
    Finished,
    Next,
    Note,
    Open,
    Relay,
    Render,
    Request,
    Route,
    Steps,
)
from tests.fleets import request
from tests.in_memory import (
    SILENT,
    Canned,
    Core,
    chunk,
    core,
    refusing,
    streaming,
    usage,
    whole,
)

KINDS = ("open", "next", "race", "relay", "emit", "close", "compute", "render", "route", "note")
MOST_STEPS = 12


class Anything:
    """A policy that asks whatever chance says: mostly lawful, at times not, and may break."""

    reasons: ClassVar[tuple[str, ...]] = ("any",)

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def route(self, asked: Request, fleet: Fleet) -> Steps:
        rng, attempts = self._rng, [(yield Open(self._model(), asked))]
        ended: Any = None
        for _ in range(rng.randrange(MOST_STEPS)):
            reply = yield self._step(rng.choice(KINDS), asked, attempts)
            if isinstance(reply, Attempt):
                attempts.append(reply)
            elif isinstance(reply, Finished | Failed):
                ended = reply
                if isinstance(reply, Failed) and rng.random() < 0.8 and reply.attempt in attempts:
                    attempts.remove(reply.attempt)
            if not attempts:
                break
        if rng.random() < 0.1:
            raise ZeroDivisionError
        return ended or Finished(Attempt(0, "", ""))

    def _model(self) -> str:
        return self._rng.choice(("small", "large"))

    def _step(self, kind: str, asked: Request, attempts: list[Attempt]) -> Any:
        rng = self._rng
        one = rng.choice(attempts)
        steps = {
            "open": Open(self._model(), asked, {"logprobs": True} if rng.random() < 0.3 else {}),
            "next": Next((one,)),
            "race": Next(tuple(attempts), rng.choice((None, 0.0, 0.001))),
            "relay": Relay(one),
            "emit": Emit(one, "said "),
            "close": Close(one),
            "compute": Compute(max, (1, 2)),
            "render": Render(self._model(), asked),
            "route": Route(self._model(), asked, rng.choice((0.5, 1.0))),
            "note": Note("any"),
        }
        return steps[kind]


def reply(rng: random.Random, *, stream: bool) -> Canned:
    """An answer, good, bad or silent."""
    good = streaming("It ", "is ", "7", counts=[usage(3, 4)]) if stream else whole("It is 7")
    lying = chunk("x", logprobs=5) + sse.event(b'{"choices":[7,{"delta":"no"}],"usage":"?"}')
    return rng.choice(
        (
            good,
            good,
            good,
            refusing(rng.choice((400, 401, 404, 429, 500, 503))),
            Canned([chunk("It "), HungUpError("cut")]),
            Canned([chunk("It "), b'data: {"choices":[{"del']),
            Canned([chunk("It "), SILENT]),
            Canned([chunk("It ") + sse.event(b'{"error":{"message":"out of memory"}}')]),
            Canned([SILENT]),
            Canned([lying, chunk("7", "stop") + sse.DONE]),
            Canned([b"<html>"], kind="text/html"),
            Canned([b"[1,2"], kind="application/json"),
            Canned([b"[1,2]"], kind="application/json"),
        )
    )


def made_by_chance(rng: random.Random, *, stream: bool) -> Core:
    """The policy's core, each backend with some replies; a few have none and refuse."""
    made = core({"auto": Anything(rng)}, limits={"first_token": 0.02, "idle": 0.02})
    for backend in made.backends:
        replies = (reply(rng, stream=stream) for _ in range(rng.randrange(6)))
        made.upstreams.add(backend.name, *replies)
    return made


@pytest.mark.parametrize("stream", [True, False])
@given(seed=st.integers(0, 1 << 32), leaves=st.one_of(st.none(), st.integers(0, 40)))
@settings(max_examples=60)  # some of them wait for a silence of 20 ms
def test_it_ends_in_order_whatever_happens(*, stream: bool, seed: int, leaves: int | None) -> None:
    asyncio.run(_one(random.Random(seed), leaves, stream=stream))


async def _one(rng: random.Random, leaves: int | None, *, stream: bool) -> None:
    noise: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: noise.append(told))
    made = made_by_chance(rng, stream=stream)
    asked = request(target="auto", body={"messages": [], "stream": stream})
    running = asyncio.create_task(made.drive(asked).run(monotonic() + 0.2))
    for _ in range(leaves or 0):
        await asyncio.sleep(0)
    if leaves is not None:
        running.cancel()
    await asyncio.wait([running])
    assert made.in_flight() == 0
    await asyncio.sleep(0)
    assert all(given.closed for given in made.upstreams.given)
    assert not noise, noise
    if not running.cancelled():
        _in_order(made, running.result())


def _in_order(made: Core, ended: Any) -> None:
    assert isinstance(ended, Finished | Failed)
    assert made.ledger
    client, body = made.client, made.client.body
    assert client.ended == 1
    assert client.status == made.ledger.status
    if client.head["content-type"] == "application/json":
        assert int(client.head["content-length"]) == len(body)
        client.json  # noqa: B018  # it decodes
        return
    assert body.endswith(b"\n\n")
    told = [event.data for event in sse.read(body)]
    assert (told.count(b"[DONE]") == 1) == (b"[DONE]" in told)
    if made.ledger.fault is not None and made.ledger.fault.code != "policy_error":
        assert b"[DONE]" not in told
