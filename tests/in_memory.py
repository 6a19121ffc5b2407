"""A gateway's core without sockets: canned replies for backends, a list of bytes for a client.

`core` builds a Runtime of two models, `small` and `large`, with two backends each, and lets a test
put policies of its own among the targets. `Canned` stands where `router.upstream.Upstream` does: it
gives each backend's replies in order and remembers what was sent and what was hung up.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from types import MappingProxyType
from typing import Any, ClassVar, cast

from policies import TABLE
from router import sse
from router.alarms import Alarms
from router.answer import Answer, Head
from router.attempts import Shared
from router.backend import Backend
from router.budget import RetryBudget
from router.config import Form, parse
from router.engine import Drive
from router.fleet import Fleet
from router.ledger import Ledger
from router.runtime import Runtime, build
from router.steps import Ended, Policy, Request, Steps
from router.upstream import READ_ERRORS, Upstream, broken
from tests.fleets import request

PATIENCE = 10.0
"""Seconds after which a test gives up on a wait that takes none."""
SILENT = None
"""A part that never comes."""

Part = bytes | Exception | None


@dataclass(slots=True)
class Canned:
    """One reply: status, type, and its parts; an exception is raised, `SILENT` waits for ever."""

    parts: list[Part]
    status: int = 200
    kind: str = "text/event-stream"
    closed: bool = False

    async def read(self) -> bytes:
        """The next part, or nothing at the end."""
        if not self.parts:
            return b""
        part = self.parts.pop(0)
        await asyncio.sleep(0)
        if part is None:
            await asyncio.get_running_loop().create_future()
        if isinstance(part, Exception):
            raise part
        return part or b""

    async def read_whole(self, limit: int) -> bytes:
        """All parts."""
        body = b""
        try:
            while part := await self.read():
                body += part
        except READ_ERRORS as error:
            raise broken(str(error)) from error
        assert len(body) <= limit
        return body

    async def finish(self) -> None:
        """There is no connection to keep."""

    def close(self) -> None:
        """Hang up."""
        self.closed = True


@dataclass(slots=True)
class Upstreams:
    """The backends by host; what comes for one without a reply is refused."""

    replies: defaultdict[str, list[Canned]] = field(default_factory=lambda: defaultdict(list))
    sent: list[tuple[str, str, Any]] = field(default_factory=list)
    given: list[Canned] = field(default_factory=list)

    def add(self, host: str, *replies: Canned) -> None:
        """Let this backend answer so, one call after the other."""
        self.replies[f"http://{host}"] += replies

    async def send(self, base: str, path: str, body: bytes, headers: Mapping[str, str]) -> Canned:
        """The next reply of this backend."""
        self.sent.append((base.removeprefix("http://"), path, json.loads(body)))
        await asyncio.sleep(0)
        if not self.replies[base]:
            raise broken("cannot connect to the backend", "unreachable")
        reply = self.replies[base].pop(0)
        self.given.append(reply)
        return reply


@dataclass(slots=True)
class Client:
    """What a client got."""

    status: int = 0
    head: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: int = 0
    stuck: bool = False

    async def start(self, status: int, head: Head) -> None:
        """Status and headers: once."""
        assert not self.status, "two heads"
        self.status = status
        self.head = {name.decode(): value.decode("latin-1") for name, value in head}

    async def send(self, data: bytes, last: bool) -> None:
        """Part of the body; nothing after the last."""
        assert self.status, "a body without a head"
        assert not self.ended, "more after the last part"
        if self.stuck:
            await asyncio.get_running_loop().create_future()
        self.body += data
        self.ended += last

    @property
    def json(self) -> Any:
        """The whole body, decoded."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The text of the first choice of a stream, comments and errors left out."""
        said = []
        for event in sse.read(self.body):
            if event.data != b"[DONE]":
                choices = json.loads(event.data).get("choices") or [{}]
                delta = choices[0].get("delta") or {}
                said.append(delta.get("content") or choices[0].get("text") or "")
        return "".join(said)


@dataclass(slots=True)
class Core:
    """A Runtime, its backends' replies, and one client."""

    runtime: Runtime
    upstreams: Upstreams = field(default_factory=Upstreams)
    client: Client = field(default_factory=Client)
    ledger: Ledger | None = None

    @property
    def backends(self) -> list[Backend]:
        """All of them."""
        return [backend for pool in self.runtime.pools.values() for backend in pool.backends]

    def in_flight(self) -> int:
        """Calls that any backend is counted to be answering."""
        return sum(backend.in_flight for backend in self.backends)

    def drive(self, request: Request) -> Drive:
        """The request, ready to be run."""
        price = self.runtime.pools[self.runtime.baseline].price
        self.ledger = Ledger(request, request.target, 1, None, monotonic(), price)
        return Drive(
            shared=Shared(
                upstream=cast(Upstream, self.upstreams),
                budget=RetryBudget(1.0, 100, monotonic),
                alarms=Alarms(),
                rng=random.Random(1),
                wall=lambda: 1_700_000_000.0,
            ),
            runtime=self.runtime,
            ledger=self.ledger,
            answer=Answer(self.ledger, self.client),
        )

    async def run(self, request: Request, within: float = PATIENCE) -> Ended:
        """Answer the request; nothing may be left over, however it ends."""
        try:
            return await self.drive(request).run(monotonic() + within)
        finally:
            assert self.in_flight() == 0, "a guard was not released"
            assert all(reply.closed for reply in self.upstreams.given), "a call was not hung up"


def core(
    targets: Mapping[str, Policy] | None = None, each: int = 2, **sections: Mapping[str, Any]
) -> Core:
    """A core of two models with `each` backends, `a:1`, `b:1` ... of small, `x:1` ... of large."""
    tree = {
        "models": {
            "small": {"backends": [f"http://{name}:1" for name in "abcde"[:each]]},
            "large": {"backends": [f"http://{name}:1" for name in "xyzuv"[:each]]},
        },
        "default": "small",
        **sections,
    }
    runtime = build(parse(json.dumps(tree), TABLE, "the test's", Form.JSON), TABLE, 1)
    several = MappingProxyType({**runtime.targets, **(targets or {})})
    return Core(replace(runtime, targets=several))


Written = Callable[[Request, Fleet], Steps]
"""A policy's `route`."""
CHAT = request()
STREAM = request(body={"messages": [], "stream": True})


def policy(steps: Written) -> Policy:
    """A policy that is one function."""

    class Single:
        reasons: ClassVar[tuple[str, ...]] = ()

        def route(self, asked: Request, fleet: Fleet) -> Steps:
            return steps(asked, fleet)

    return Single()


def with_policy(steps: Written, each: int = 2, **sections: Any) -> Core:
    """A core in which `auto` is this policy."""
    return core({"auto": policy(steps)}, each, **sections)


def anywhere(made: Core, reply: Callable[[], Canned]) -> None:
    """Whichever backend of `small` is picked, this is what it says."""
    for backend in made.runtime.pools["small"].backends:
        made.upstreams.add(backend.name, reply())


def chunk(text: str, reason: str | None = None, **fields: Any) -> bytes:
    """One event of a chat's stream."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason, **fields}
    return sse.event(json.dumps({"id": "up-1", "choices": [choice]}).encode())


def usage(prompt: int, completion: int) -> bytes:
    """The event that tells a stream's usage."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return sse.event(json.dumps({"id": "up-1", "choices": [], "usage": counts}).encode())


def streaming(*texts: str, counts: Iterable[bytes] = ()) -> Canned:
    """A stream of these texts that ends as it should."""
    *most, last = [chunk(text) for text in texts[:-1]] + [chunk(texts[-1], "stop")]
    return Canned([*most, last, *counts, sse.DONE])


def whole(text: str, **fields: Any) -> Canned:
    """A chat's answer in one body."""
    choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
    counts = {"prompt_tokens": 3, "completion_tokens": 4}
    body = {"id": "up-1", "choices": [choice], "usage": counts, **fields}
    return Canned([json.dumps(body).encode()], kind="application/json")


def refusing(status: int, message: str = "no") -> Canned:
    """A reply that is an error."""
    body = json.dumps({"error": {"message": message}}).encode()
    return Canned([body], status=status, kind="application/json")
