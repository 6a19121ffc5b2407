"""A call: the live half of an `Attempt`. It sends one request to one backend and hears the answer.

It gives the answer in *parts*: whole server-sent events, or the whole body where nothing streams.
A part that was decoded for a policy is held, so that `Relay` can still pass on every byte of it.
Here live the two limits on silence (to the first part, between parts), the ways in which a backend
can lie (wrong type, an error inside a 200, a stream that just stops), and the guard, which comes
with the call's turn (at once, where the backend is awake) and is released when the answer is
complete, or else when the call is closed, and in no other place; with it goes the place that the
call has in its model's line.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from time import monotonic

import orjson

from router import dialect, sse
from router.alarms import Alarms
from router.backend import Backend
from router.faults import Blame, Fault, FaultError
from router.ledger import Tally
from router.line import Place
from router.patience import Patience
from router.refusals import still_asleep
from router.sections import LimitsConfig
from router.steps import Attempt, Delta, Event, Finished, Surface, Usage
from router.upstream import READ_ERRORS, Reply, Upstream, broken, broken_off

MEGABYTE = 1 << 20
KILOBYTE = 1 << 10
DECODED = 65_536
"""Bytes up to which a whole answer is decoded to be checked; beyond (embeddings), only its ends."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is sent: everything about a call that is known before it is made."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    surface: Surface
    stream: bool
    prompt: int | None = None
    """Tokens of the prompt, where it is sent as token ids."""
    choices: int = 1
    """Answers that are asked for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds to the first part and from part to part; bytes held and read."""

    first: float
    idle: float
    answer: int
    hold: int
    event: int
    unseen: float = inf
    """Seconds from sending a call to the end of an answer that the client does not see."""


def limits(settings: LimitsConfig, first: float, unseen: float) -> Limits:
    """The configured limits, with these for the first part and for the end of a draft."""
    return Limits(
        first=first,
        idle=settings.idle,
        answer=int(settings.answer_mb * MEGABYTE),
        hold=int(settings.hold_mb * MEGABYTE),
        event=int(settings.event_kb * KILOBYTE),
        unseen=unseen,
    )


class Call:
    """One call. Read it with `part` or `event`; close it, always."""

    def __init__(
        self,
        attempt: Attempt,
        backend: Backend,
        outgoing: Outgoing,
        limits: Limits,
        tally: Tally,
        alarms: Alarms,
    ) -> None:
        self.attempt = attempt
        self.tally = tally
        self.held: deque[bytes] = deque()
        self.place: Place | None = None
        self.surface = outgoing.surface
        self.complete = self.emitting = False
        self._backend = backend
        self._outgoing = outgoing
        self._limits = limits
        self._turn = backend.turn()
        self._sent = tally.began
        self._reply: Reply | None = None
        self._cutter = sse.Cutter(limits.event)
        self._fault: Fault | None = None
        self._patience = Patience(alarms, limits.first)
        self._events: deque[Event] = deque()
        self._finish: Finished = Finished(attempt)
        self._reasons: dict[int, str] = {}
        self._sizes: dict[int, int] = {}
        self._counts: dict[int, int] = {}
        self._held_bytes = 0

    # ------------------------------------------------------------------------------ parts

    async def part(self, upstream: Upstream) -> bytes:  # noqa: C901  # flat: runs once per token
        """The next part of the answer; empty once it is complete. Raises `FaultError`."""
        if self._fault:
            raise FaultError(self._fault)
        if self.complete:
            return b""
        patience = self._patience
        patience.begin()
        try:
            reply = self._reply or await self._send(upstream)
            if not self._outgoing.stream:
                return await self._body(reply)
            while True:
                block = self._cutter.feed(await reply.read())
                if block and (block := self._checked(block)):
                    patience.heard()
                    return block
        except asyncio.CancelledError:
            if not patience.broke_it():
                raise
            raise self._silent() from None
        except READ_ERRORS as error:
            raise broken_off(error) from error
        except EOFError:
            raise broken(
                "the backend's stream stopped before it was complete", "truncated"
            ) from None
        except sse.EventTooLargeError:
            message = f"an event is longer than {self._limits.event} bytes"
            raise broken(message, "event_too_large") from None
        finally:
            patience.pause()

    async def _send(self, upstream: Upstream) -> Reply:
        out = self._outgoing
        if self._turn.guard is None:
            await self._turn.come()
            self._sent = monotonic()
        reply = await upstream.send(self._backend.url, out.path, out.body, out.headers)
        self._reply = reply  # from here on `close` hangs up, whatever is wrong with it
        if reply.status >= 400:
            body = await reply.read_whole(self._limits.answer)
            raise FaultError(dialect.fault_of(reply.status, dialect.message_in(body), body))
        expected = "text/event-stream" if out.stream else "application/json"
        if reply.status != 200 or reply.kind != expected:
            raise broken(
                f"the backend answered {reply.status} {reply.kind} where {expected} was expected",
                "wrong_content_type",
            )
        return reply

    async def _body(self, reply: Reply) -> bytes:
        body = await reply.read_whole(self._limits.answer)
        self._heard_first()
        self.tally.usage = self._vetted(body)
        self._complete()
        return body

    def _vetted(self, body: bytes) -> Usage | None:
        """What a whole answer says of usage, once it has proved to be one. Raises `FaultError`."""
        if len(body) > DECODED:
            if not (body.startswith(b"{") and body.rstrip().endswith(b"}")):
                raise broken("the backend's answer is not a JSON object", "bad_json")
            return dialect.usage_in(body)
        try:
            decoded = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise broken(f"the backend's answer is not JSON: {error}", "bad_json") from None
        if fault := dialect.error_in(decoded):
            raise FaultError(fault)
        if not isinstance(decoded, dict):
            raise broken("the backend's answer is not a JSON object", "bad_json")
        usage = decoded.get("usage")
        return dialect.usage_of(usage) if isinstance(usage, dict) else None

    def _checked(self, block: bytes) -> bytes:
        """`block` up to an error in it, with usage and the end of the stream taken note of."""
        if b'"error"' in block:
            block = self._before_error(block)
        if b'"usage"' in block and (usage := dialect.usage_in(block)):
            self.tally.usage = dialect.merge_usage(self.tally.usage, usage)
        self.tally.pieces += block.count(b"data:")
        if dialect.ends_stream(self.surface, block):
            self._complete()
        if self.tally.first_byte is None:
            if b"data:" not in block:
                return b""  # a comment in the silence before the answer is not an answer
            self._heard_first()
            self._patience.limit(self._limits.idle)
        return block

    def _before_error(self, block: bytes) -> bytes:
        good: list[bytes] = []
        for single in sse.blocks(block):
            for event in sse.read(single):
                if fault := dialect.error_in(_decoded(event.data)):
                    if not any(b"data:" in said for said in good):
                        raise FaultError(fault)
                    self._fault = fault
                    return b"".join(good)
            good.append(single)
        return block

    def _heard_first(self) -> None:
        self.tally.first_byte = monotonic()
        if self._turn.guard:
            self._turn.guard.heard(self.tally.first_byte - self._sent)

    def _silent(self) -> FaultError:
        if self._turn.guard is None:
            return FaultError(still_asleep(self._backend, self._limits.first))
        if self.tally.first_byte is None:
            return silent(self._limits.first, "first_token_timeout")
        return silent(self._limits.idle, "idle_timeout")

    # ----------------------------------------------------------------------------- events

    async def event(self, upstream: Upstream) -> Event:
        """The next event, decoded; what it came from stays held for `Relay`."""
        try:
            while not self._events:
                part = await self.part(upstream)
                if not part:
                    return self.finished
                self._hold(part)
                self._decode(part)
        finally:
            self._patience.end()  # the next event may be heard by another task
        return self._events.popleft()

    def emits(self, tokens: int) -> None:
        """A policy passes it on piece by piece, now so many tokens: it will not be relayed."""
        self.emitting = True
        self.tally.emits(tokens)
        self.held.clear()
        self._held_bytes = 0

    def picks(self, choice: int) -> None:
        """Only this choice is passed on. Of the tokens that the backend has counted for all, as
        many are its own as it has of the characters.
        """
        usage, size = self.tally.usage, sum(self._sizes.values())
        if usage and size:
            part = self._sizes.get(choice, 0) / size
            self.tally.emitted = round(usage.completion * part)

    def _hold(self, part: bytes) -> None:
        if self.emitting:
            return
        self._held_bytes += len(part)
        if self._held_bytes > self._limits.hold and self._outgoing.stream:
            message = f"the draft is longer than limits.hold_mb ({self._limits.hold} bytes)"
            raise FaultError(_no_draft(message, 500, "draft_too_large"))
        if not self.complete and monotonic() - self._sent > self._limits.unseen:
            message = f"the draft was not complete after {self._limits.unseen:.3g} s"
            raise FaultError(_no_draft(message, 504, "draft_timeout"))
        self.held.append(part)

    def _decode(self, part: bytes) -> None:
        chunks = [e.data for e in sse.read(part)] if self._outgoing.stream else [part]
        for data in chunks:
            chunk = _decoded(data)
            if isinstance(chunk, dict):
                for piece in dialect.pieces(self.surface, chunk):
                    self._hear(piece)
                if self._outgoing.choices > 1:
                    self._count(chunk)
        if self.complete:
            self._events.append(self.finished)

    def _hear(self, piece: dialect.Piece) -> None:
        if piece.text or piece.tokens:
            self._events.append(Delta(self.attempt, piece.text, piece.tokens, piece.choice))
            self._sizes[piece.choice] = self._sizes.get(piece.choice, 0) + len(piece.text)
        if piece.finish_reason:
            self._reasons[piece.choice] = piece.finish_reason
            if piece.choice == 0:
                self._finish = Finished(self.attempt, piece.finish_reason, piece.stop_reason)

    def _count(self, chunk: Mapping[str, object]) -> None:
        """Usage beside a choice's text (vLLM's `continuous_usage_stats`) is that choice's alone; of
        a call that is closed before its end, nothing else says what all of them have used.
        """
        told = dialect.counted_for(chunk) if self._outgoing.stream else None
        if told is None or self.tally.usage is None:
            return
        choice, count = told
        self._counts[choice] = count
        whole = max(sum(self._counts.values()), self.tally.usage.completion)
        self.tally.usage = replace(self.tally.usage, completion=whole)

    # ------------------------------------------------------------------------------ the end

    @property
    def finished(self) -> Finished:
        """How it finished, as far as that was heard: a relayed answer is not decoded."""
        finish, ends = self._finish, self._reasons
        several = range(max(ends, default=0) + 1) if max(ends, default=0) else ()
        reasons = tuple(ends.get(choice) for choice in several)
        return Finished(self.attempt, finish.reason, finish.stop_reason, self.tally.usage, reasons)

    def _complete(self) -> None:
        """Nothing more comes: a policy may keep it for long (a draft), its server is free."""
        self.complete = True
        self._leave(None)

    async def finish(self) -> None:
        """A complete stream may keep its connection."""
        if self._reply and self.complete:
            await self._reply.finish()

    def close(self, blame: Blame | None) -> None:
        """Hang up and release the backend. The first call counts, the others do nothing."""
        if self.tally.ended is not None:
            return
        self.tally.ended = monotonic()
        self.tally.blame = blame
        self._patience.stop()
        if self._reply:
            self._reply.close()
        self._leave(blame)

    def _leave(self, blame: Blame | None) -> None:
        self._turn.leave(blame)
        if self.place:
            self.place.leave()
            self.place = None


def silent(seconds: float, code: str) -> FaultError:
    """The backend's failure to say anything for so long."""
    message = f"the backend said nothing for {seconds:.3g} s"
    return FaultError(Fault(Blame.BACKEND, message, 504, code))


def _no_draft(message: str, status: int, code: str) -> Fault:
    """An answer that nobody sees has taken too much: another model may still answer."""
    return Fault(Blame.GATEWAY, message, status, code, other_model=True)


def _decoded(data: bytes) -> object:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
