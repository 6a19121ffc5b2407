"""The answer: the client's side of one request, from its first header to its last byte.

It keeps the promises about what a client sees: the head says why, usage is shown only if it was
asked for, what the gateway asked of a backend for itself stays hidden, a stream that broke never
ends in `[DONE]`, and what is known only at the end comes in a closing comment. The bytes leave
through a `Sink`; which web server is behind it is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping, Sequence
from math import ceil
from time import monotonic
from typing import Protocol

import orjson

from router import errors, sse
from router.choices import Only
from router.compose import Composer
from router.dialect import OPENAI_STREAMS
from router.faults import Fault
from router.ledger import Ledger
from router.steps import Finished, Surface

_DONE = re.compile(rb"data: ?\[DONE\]")
_USAGE = re.compile(rb'"usage"\s*:\s*\{(?!\s*\})')
LONGEST_DONE = len("[DONE]\r\n\r\n") + 6
"""Bytes at the end of a part in which `[DONE]` must stand if it is there; some space to spare."""
Head = Sequence[tuple[bytes, bytes]]


class Sink(Protocol):
    """Where the bytes of an answer go; `send` waits while the client reads slowly."""

    async def start(self, status: int, head: Head) -> None:
        """Send status and headers."""
        ...

    def send(self, data: bytes, last: bool) -> Awaitable[None]:
        """Send part of the body."""
        ...


class Answer:
    """One answer. `begun` once a header is out, `committed` once content is, `complete` once
    the client has been told that nothing more comes.
    """

    def __init__(self, ledger: Ledger, sink: Sink) -> None:
        self._ledger = ledger
        self._sink = sink
        self.begun = False
        self.committed = False
        self.complete = False
        self.ended = False
        self._spoke = ledger.began
        self.composer: Composer | None = None
        request = ledger.request
        options = request.body.get("stream_options") or {}
        self._openai_stream = request.stream and request.surface in OPENAI_STREAMS
        self.shows_usage = bool(options.get("include_usage"))
        self.hidden: frozenset[str] = frozenset()
        self.only: Only | None = None

    # ----------------------------------------------------------------------------- streams

    async def keep_alive(self, silence: float) -> None:
        """Break a silence of so many seconds, lest someone in between take the line for dead."""
        if not self._ledger.request.stream or self.ended or monotonic() - self._spoke < silence:
            return
        self._spoke = monotonic()
        await self._begin()
        await self._sink.send(sse.comment("keep-alive"), False)

    def pass_on(self, part: bytes) -> Awaitable[None]:
        """Send a part of a stream, less what the client did not ask for."""
        if self._openai_stream and (
            self.hidden
            or self.only
            or b'"usage"' in part
            or part.rfind(b"[DONE]", -LONGEST_DONE) >= 0
        ):
            part = self._worked(part)
        self._spoke = monotonic()
        return self._sink.send(part, False) if part and self.committed else self._first(part)

    async def _first(self, part: bytes) -> None:
        if part:
            await self._begin()
            self.committed, self._ledger.first_byte = True, self._spoke
            await self._sink.send(part, False)

    def _worked(self, part: bytes) -> bytes:
        kept = []
        for block in sse.blocks(part):
            if _DONE.match(block):
                kept.append(self._cited_event() + self._closing() + sse.DONE)
                self.complete = True
                break  # it is over once, however often a backend says so
            block = self.only.event(block) if self.only else block  # noqa: PLW2901  # what is left
            if b'"usage"' in block:
                kept.append(self._with_usage(block))
            else:
                kept.append(self._veiled(block))
        return b"".join(kept)

    def _with_usage(self, block: bytes) -> bytes:
        if self.shows_usage:
            mark = b'"tandem":%s,' % orjson.dumps(self._summary())
            return _USAGE.sub(lambda m: m[0] + mark, self._veiled(block), count=1)
        chunk = _chunk_of(block)
        if chunk is None or "usage" not in chunk:
            return self._veiled(block)
        if not chunk.get("choices"):
            return b""
        del chunk["usage"]
        return sse.event(orjson.dumps(veil(chunk, self.hidden)))

    def _veiled(self, block: bytes) -> bytes:
        """Without the log-probabilities that only the gateway had asked for."""
        chunk = _chunk_of(block) if self.hidden else None
        return block if chunk is None else sse.event(orjson.dumps(veil(chunk, self.hidden)))

    # -------------------------------------------------------------------------------- whole

    async def whole(self, body: bytes) -> None:
        """Send an answer that does not stream."""
        cited = self._cited
        chunk = _object_in(body) if self.hidden or self.only or cited else None
        if chunk is not None and self.only:
            chunk = self.only.chunk(chunk)
        if chunk is not None:
            if cited:
                beside = chunk.get("tandem")
                chunk["tandem"] = {**(beside if isinstance(beside, dict) else {}), **cited}
            body = orjson.dumps(veil(chunk, self.hidden))
        await self._begin(len(body))
        self.committed = self.ended = True
        self._ledger.first_byte = monotonic()
        await self._sink.send(body, True)

    # ------------------------------------------------------------------------------ the end

    async def end(self, finished: Finished) -> None:
        """Complete the answer: compose what was emitted, close the stream."""
        if self.ended:
            return
        if self.composer:
            await self._end_composed(self.composer, finished)
        elif not self._openai_stream:
            await self._sink.send(self._closing(), False)
        if not self.ended:
            self.ended = True
            await self._sink.send(b"", True)

    async def _end_composed(self, composer: Composer, finished: Finished) -> None:
        usage = self._ledger.counted(monotonic())
        if self._ledger.request.stream:
            last = composer.end(finished, usage, show_usage=self.shows_usage)
            await self.pass_on(last + sse.DONE)
        else:
            await self.whole(composer.body(finished, usage, self._summary()))

    async def fail(self, fault: Fault) -> None:
        """End with an error: a status if none was sent, else an error event and no `[DONE]`."""
        if self.ended:
            return
        self.ended = True
        body = errors.body_of(fault, self._ledger.request.surface)
        if self.begun:
            await self._sink.send(self._closing() + errors.event_of(body, self._ledger), True)
            return
        self._ledger.status = fault.status
        retry = [(b"retry-after", b"%d" % ceil(fault.retry_after))] if fault.retry_after else []
        await self._begin(len(body), retry)
        await self._sink.send(body, True)

    # -------------------------------------------------------------------------------- heads

    async def _begin(self, length: int | None = None, extra: Head = ()) -> None:
        if self.begun:
            return
        self.begun = True
        kind = b"application/json" if length is not None else b"text/event-stream; charset=utf-8"
        size = [] if length is None else [(b"content-length", b"%d" % length)]
        cache = [] if length is not None else [(b"cache-control", b"no-cache")]
        head = [(b"content-type", kind), *size, *cache, *extra, *self._told(length is not None)]
        await self._sink.start(self._ledger.status, head)

    def _told(self, complete: bool) -> list[tuple[bytes, bytes]]:
        ledger, now = self._ledger, monotonic()
        written = ledger.written()
        models = ", ".join(f"{m}={n}" if complete else m for m, n in written.items())
        told = {
            b"x-request-id": ledger.request.id,
            b"x-tandem-policy": ledger.policy,
            b"x-tandem-revision": str(ledger.revision),
            b"x-tandem-models": models,
            b"x-tandem-reason": _latin(ledger.why),
            b"server-timing": _latin(self._timing(now)),
        }
        if complete:
            told[b"x-tandem-cost-usd"] = f"{ledger.spent:.9f}"
        return [(name, value.encode("latin-1")) for name, value in told.items() if value]

    def _timing(self, now: float) -> str:
        total, waited = now - self._ledger.began, self._ledger.waited
        timing = f"upstream;dur={waited * 1e3:.3f}, gateway;dur={(total - waited) * 1e3:.3f}"
        if queued := sum(wait.seconds for wait in self._ledger.queued):
            timing += f", queue;dur={queued * 1e3:.3f}"
        if len(self._ledger.tallies) + len(self._ledger.asked) > 1:
            for model, seconds in self._ledger.waits(now).items():
                timing += f', model;desc="{_quoted(model)}";dur={seconds * 1e3:.3f}'
        return timing

    def _summary(self) -> Mapping[str, object]:
        ledger, now = self._ledger, monotonic()
        return {
            "models": ledger.written(),
            "cost_usd": round(ledger.spent, 9),
            "baseline_usd": round(ledger.baseline_cost(now), 9),
            "reason": ledger.why,
        }

    @property
    def _cited(self) -> Mapping[str, object]:
        """What the answer is made from, for a client that wants to be told."""
        ledger = self._ledger
        return {"citations": ledger.cited} if ledger.cited and ledger.request.explain else {}

    def _cited_event(self) -> bytes:
        """The same as a chunk of a stream, without choices."""
        if not (cited := self._cited):
            return b""
        request = self._ledger.request
        chat = request.surface is Surface.CHAT
        chunk: dict[str, object] = {
            "id": request.id,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": 0,
            "model": request.target,
            "choices": [],
            "tandem": cited,
        }
        return sse.event(orjson.dumps(chunk))

    def _closing(self) -> bytes:
        summary = {**self._summary(), "server_timing": self._timing(monotonic())}
        return sse.comment("tandem " + orjson.dumps(summary).decode())


def veil(chunk: dict[str, object], hidden: frozenset[str]) -> dict[str, object]:
    """`chunk` with these fields of its choices set to null: the gateway asked for them, not the
    client.
    """
    choices = chunk.get("choices")
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict):
                choice.update(dict.fromkeys(hidden & choice.keys()))
    return chunk


def _chunk_of(block: bytes) -> dict[str, object] | None:
    """The object that this event carries, if it is one."""
    return next((_object_in(event.data) for event in sse.read(block)), None)


def _object_in(data: bytes) -> dict[str, object] | None:
    try:
        decoded = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return decoded if isinstance(decoded, dict) else None


def _quoted(text: str) -> str:
    """Fit for a quoted string of a header."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _latin(text: str) -> str:
    """Fit for a header: one line, no character that HTTP forbids."""
    return "".join(c if 32 <= ord(c) < 256 and ord(c) != 127 else "?" for c in text)
