"""What the engine costs per event: one request driven without a socket, CPU time only.

A make-believe backend hands over one server-sent event at each read, a make-believe client swallows
everything. Three ways through: relayed (the fast path), heard (decoded for a policy and dropped),
and heard and emitted (a token policy). The cost of an event is the slope between a long and a short
stream, so that what a request costs once does not count.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import uvloop

from app.bench.figures import Figure, Target, summary
from app.bench.processes import BenchError
from app.bench.upstream import MODEL
from policies import TABLE
from router.alarms import Alarms
from router.answer import Answer, Head
from router.attempts import Shared
from router.budget import RetryBudget
from router.config import Form, parse
from router.engine import Drive
from router.fleet import Fleet
from router.ledger import Ledger
from router.runtime import Runtime, build
from router.steps import (
    Delta,
    Emit,
    Failed,
    Finished,
    Next,
    Open,
    Policy,
    Request,
    Steps,
    Surface,
)
from router.upstream import Upstream
from router.wire import parse as read_request

__all__ = ["WAYS", "measure"]

SHORT, LONG = 1, 513
"""Events of the two streams between which the slope is taken; it spans 512."""

REQUESTS = 20
"""Long streams per repetition: some 0.1 s of CPU, a hundred times what the clock can tell."""

PER_EVENT = Target(8.0, at_least=False)
"""Microseconds."""


class _Reply:
    """A backend's stream: one event at each read."""

    status = 200
    kind = "text/event-stream"

    def __init__(self, events: int) -> None:
        chunk = {
            "id": "chatcmpl-bench",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": MODEL,
            "choices": [
                {"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}
            ],
        }
        data = b"data: %b\n\n" % json.dumps(chunk, separators=(",", ":")).encode()
        self._parts = iter([*[data] * events, b"data: [DONE]\n\n"])

    async def read(self) -> bytes:
        return next(self._parts, b"")

    async def finish(self) -> None:
        """There is no connection to keep."""

    def close(self) -> None:
        """There is no connection to close."""


class _Backend:
    """An upstream of which every call is answered at once."""

    def __init__(self, events: int) -> None:
        self._events = events

    async def send(self, base: str, path: str, body: bytes, headers: Mapping[str, str]) -> _Reply:
        return _Reply(self._events)


class _Sink:
    """A client that reads everything."""

    async def start(self, status: int, head: Head) -> None:
        """Take the head."""

    async def send(self, data: bytes, last: bool) -> None:
        """Take a part."""


@dataclass(frozen=True, slots=True)
class _Hear:
    """Hears every event of one model; emits it if `emit`, else one word at the end."""

    model: str
    emit: bool
    reasons: ClassVar[tuple[str, ...]] = ()

    def route(self, request: Request, fleet: Fleet) -> Steps:
        attempt = yield Open(self.model, request)
        event = yield Next((attempt,))
        while isinstance(event, Delta):
            if self.emit:
                yield Emit(attempt, event.text)
            event = yield Next((attempt,))
        if not self.emit:
            yield Emit(attempt, "heard")
        return cast("Finished | Failed", event)


WAYS: Mapping[str, Policy | None] = {
    "relayed": None,
    "heard": _Hear(MODEL, emit=False),
    "heard and emitted": _Hear(MODEL, emit=True),
}
"""The policies to drive; None stands for the model's own `direct`."""


def measure(repetitions: int, step: Callable[[str], None]) -> Iterator[Figure]:
    """CPU microseconds per event, for each way through."""
    for name, policy in WAYS.items():
        runtime = _runtime(policy)
        slopes = []
        for _ in range(repetitions):
            long, short = (_cpu_seconds(runtime, events) for events in (LONG, SHORT))
            slopes.append(1e6 * (long - short) / (REQUESTS * (LONG - SHORT)))
            step(f"engine: {name}")
        target = None if name == "heard and emitted" else PER_EVENT
        yield summary(f"engine: one event {name}", slopes, "us of CPU", target)


def _runtime(policy: Policy | None) -> Runtime:
    tree = {"models": {MODEL: {"backends": ["http://127.0.0.1:1"]}}}
    runtime = build(parse(json.dumps(tree), TABLE, "bench", Form.JSON), TABLE, 1)
    return replace(runtime, targets={MODEL: policy}) if policy else runtime


def _cpu_seconds(runtime: Runtime, events: int) -> float:
    return uvloop.run(_drive_all(runtime, events))


async def _drive_all(runtime: Runtime, events: int) -> float:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "?"}], "stream": True}
    request = read_request(Surface.CHAT, json.dumps(body).encode(), {}, MODEL, random.Random(0))
    upstream = cast("Upstream", _Backend(events))
    before = time.process_time()
    for _ in range(REQUESTS):
        await _drive(runtime, request, upstream)
    return time.process_time() - before


async def _drive(runtime: Runtime, request: Request, upstream: Upstream) -> None:
    now = asyncio.get_running_loop().time()
    ledger = Ledger(
        request=request,
        policy=MODEL,
        revision=1,
        key=None,
        began=now,
        baseline=runtime.pools[MODEL].price,
    )
    answer = Answer(ledger, _Sink())
    budget = RetryBudget(0.0, 0.0, time.monotonic)
    shared = Shared(upstream, budget, Alarms(), random.Random(0), time.time)
    drive = Drive(shared, runtime, ledger, answer)
    ended = await drive.run(now + 60.0)
    if isinstance(ended, Failed):
        raise BenchError(f"the engine could not answer: {ended.fault.message}")
