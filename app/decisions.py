"""The log of decisions: what each request was decided by, and what else could have come.

It is there to learn from: with the chance of every arm beside what was served, a new policy can be
scored on yesterday's traffic (docs/learning-from-traffic.md). It holds prompts, which observations
must not, so it is no listener: the gateway hands over each request that a policy served, once its
answer has ended, under the Runtime and the picture of the fleet that it was served with.

Nothing here is in an answer's way. The event loop appends to a bounded queue. A thread wakes a few
times a second, asks the policies again what they would do (`router.decide`), writes the lines, and
has the shadow's decision compared (`app.shadow`). It works in short slices, so that the loop waits
half a millisecond for the interpreter and not the five that Python lets a thread keep it. When the
queue is full, what comes is dropped and counted. A policy that raises is counted, and told of once.
Handing one request over costs the loop 1 us (`python -m tests.bench.listeners`).

What it must never hold: a key, or a session in the clear.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import orjson

from app.aside import Aside
from app.linefile import STDOUT, LineFile
from app.shadow import compared
from router.decide import Decision, decided
from router.fleet import Fleet
from router.observe import Kept, Listener, Observation, RequestEnded, ShadowFailed
from router.runtime import Runtime
from router.sections import DecisionsConfig
from router.splice import splice
from router.steps import Request
from router.wire import SESSION_FIELDS

__all__ = ["CAPACITY", "Decisions", "DecisionsError", "drawn", "hashed"]

CAPACITY = 10_000
"""Entries that may wait: several seconds of a busy gateway."""

LARGEST = 64 * 2**20
"""Bytes of requests that may wait; decoded beside it, each takes several times its bytes."""

INTERVAL = 0.2
"""Seconds between two looks at the queue: waking the thread for each request costs the loop more
than all else here."""

SLICE = 0.0005
"""Seconds that the thread works before it lets the loop have the interpreter."""

BREATH = 0.0005
"""Seconds that it leaves the interpreter alone then."""

PATIENCE = 5.0
"""Seconds that closing waits for the last lines."""

MODE = 0o600
"""Of a new file: it holds what users asked."""

ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
"""In valid JSON these two stand between values only, never inside a string."""

Row: TypeAlias = dict[str, Any]


class DecisionsError(Exception):
    """The log of decisions cannot be opened; the message says why and what to do."""


@dataclass(slots=True)
class Served:
    """A request that was served, and under what. `at` is when it ended, seconds since 1970.

    `logged`: it gets a line. `shadow` is who else is asked, if anybody.
    """

    at: float
    runtime: Runtime
    fleet: Fleet
    request: Request
    ended: RequestEnded
    logged: bool
    shadow: str | None


class Decisions:
    """Takes down decisions and feedback, and compares decisions with the shadow's.

    Opens the file of `config` (raises `DecisionsError`); without one, only shadows are its
    business. To be called from one event loop, on which `observe` hears of the outcomes. `now` is
    seconds since 1970.
    """

    def __init__(
        self,
        config: DecisionsConfig | None,
        observe: Listener,
        *,
        now: Callable[[], float] = time.time,
        capacity: int = CAPACITY,
        interval: float = INTERVAL,
    ) -> None:
        self._config = config
        self._observe = observe
        self._now = now
        self._capacity = capacity
        self._interval = interval
        self._file = _opened(config.file) if config else None
        self._queue: deque[Served | Row] = deque()
        self._came = 0  # bytes, counted by the loop's thread
        self._went = 0  # bytes, counted by the working thread
        self._outcomes: deque[Observation] = deque()
        self._complained: set[tuple[int, str]] = set()
        self._ailing = False
        self._closed = False
        self._thread: Aside | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def configured(self) -> bool:
        """Whether there is a log, so that feedback has somewhere to go."""
        return self._file is not None

    def __call__(
        self, runtime: Runtime, fleet: Fleet, request: Request, ended: RequestEnded
    ) -> None:
        """Queue a request that has ended, if a policy served it and anybody wants to know."""
        policy, config = ended.policy, self._config
        if policy in runtime.pools:
            return  # a model by its own name: there was nothing to decide
        logged = config is not None and (config.share == 1 or drawn(ended.id, config.share))
        shadow = runtime.config.shadow
        if shadow == policy:
            shadow = None
        if not (logged or shadow):
            return
        size = len(request.raw)
        if len(self._queue) < self._capacity and self._came - self._went + size <= LARGEST:
            self._came += size
            self._put(Served(self._now(), runtime, fleet, request, ended, logged, shadow))
            return
        if logged:
            self._observe(Kept("decision", "dropped"))
        if shadow:
            self._observe(ShadowFailed(ended.id, policy, shadow, "dropped"))

    def feedback(self, scores: Sequence[tuple[str, float]]) -> bool:
        """Queue how good answers were: ids of requests, each with a score from 0 to 1.

        False if there is no room for all of them; then none was taken.
        """
        if len(self._queue) + len(scores) > self._capacity:
            return False
        at = self._now()
        for request_id, score in scores:
            self._put({"feedback": request_id, "score": score, "at": at})
        return True

    def close(self) -> None:
        """Write what is queued and close the file. What comes later is lost."""
        self._closed = True
        if self._thread is not None and not self._thread.end(PATIENCE):
            print(f"decisions: {len(self._queue)} are lost at the end", file=sys.stderr)
            return
        self._tell()
        if self._file:
            self._file.close()

    def _put(self, entry: Served | Row) -> None:
        self._queue.append(entry)
        if self._thread is None and not self._closed:
            self._loop = asyncio.get_running_loop()
            self._thread = Aside("tandem-decisions", self._catch_up, self._interval)
            self._thread.start()

    def _tell(self) -> None:
        """Let listeners hear what the thread has found out; on the loop, where they live."""
        while self._outcomes:
            self._observe(self._outcomes.popleft())

    # ------------------------------------------------------------------------- in the thread

    def _catch_up(self) -> None:
        while self._queue:
            self._work_a_slice()
            time.sleep(BREATH)

    def _work_a_slice(self) -> None:
        until = time.monotonic() + SLICE
        lines: list[tuple[str, bytes]] = []
        while self._queue and time.monotonic() < until:
            entry = self._queue.popleft()
            if isinstance(entry, Served):
                self._went += len(entry.request.raw)
                if line := self._settle(entry):
                    lines.append(("decision", line))
            else:
                lines.append(("feedback", _encoded(entry)))
        self._write(lines)
        if self._outcomes and self._loop:
            with contextlib.suppress(RuntimeError):  # the loop has ended; `close` tells the rest
                self._loop.call_soon_threadsafe(self._tell)

    def _settle(self, served: Served) -> bytes | None:
        """Compare what was decided with the shadow; the line, if there is to be one."""
        decision = self._decide(served.ended.policy, served)
        if served.shadow:
            self._outcomes.append(self._compare(served, decision, served.shadow))
        if not served.logged:
            return None
        try:
            if decision:
                return _encoded(self._row(served, decision))
        except (TypeError, ValueError):  # text that is not Unicode: half a surrogate pair
            pass
        self._outcomes.append(Kept("decision", "failed"))
        return None

    def _decide(self, name: str, served: Served) -> Decision | None:
        """What `name` would do with the request, None if it raises."""
        runtime = served.runtime
        try:
            found = decided(name, served.request, runtime.targets, served.fleet)
            return replace(found, chances=_plain(found.chances), expected=_plain(found.expected))
        except Exception:  # noqa: BLE001  # a policy is somebody else's code
            if (runtime.revision, name) not in self._complained:
                self._complained.add((runtime.revision, name))
                print(f'decisions: "{name}" broke; told once per revision', file=sys.stderr)
                traceback.print_exc(file=sys.stderr)
            return None

    def _compare(self, served: Served, decision: Decision | None, shadow: str) -> Observation:
        other = self._decide(shadow, served) if decision else None
        if decision is None or other is None:
            return ShadowFailed(served.ended.id, served.ended.policy, shadow, "error")
        return compared(served.ended, served.runtime.pools, decision, (shadow, other))

    def _row(self, served: Served, decision: Decision) -> Row:
        assert self._config is not None
        request, ended = served.request, served.ended
        return {
            "at": served.at,
            "id": ended.id,
            "policy": ended.policy,
            "revision": ended.revision,
            "surface": ended.surface,
            "stream": ended.stream,
            "session": hashed(request.session) if request.session else None,
            **({"body": _body(request)} if self._config.prompts else {}),
            "arm": decision.arm,
            "chances": decision.chances,
            "expected": decision.expected,
            "reason": decision.reason,
            "detail": decision.detail,
            "said": ended.said,
            "served": ended.completion_by_model,
            "status": ended.status,
            "blame": ended.blame,
            "cost": ended.cost,
            "baseline": ended.baseline,
            "idealised_seconds": ended.ideal and ended.ideal.seconds,
            "idealised_usd": ended.ideal and ended.ideal.usd,
            "seconds": ended.seconds,
            "prompt_tokens": ended.delivered.prompt,
            "completion_tokens": ended.delivered.completion,
        }

    def _write(self, lines: Sequence[tuple[str, bytes]]) -> None:
        if not (lines and self._file):
            return
        outcome = "logged"
        try:
            self._file.write(b"".join(line for _, line in lines))
        except OSError as error:
            outcome = "failed"
            if not self._ailing:
                print(f"decisions: cannot write, lines are lost: {error}", file=sys.stderr)
        self._ailing = outcome == "failed"
        for kind, number in Counter(kind for kind, _ in lines).items():
            self._outcomes.append(Kept(kind, outcome, number))


def drawn(request_id: str, share: float) -> bool:
    """Whether this request is in the `share` of all that is logged.

    That follows from its id, which is random, and not from `Request.draw`: what a policy draws
    must not decide what is seen of it.
    """
    return int(request_id[-8:], 16) < share * 2**32


def hashed(session: str) -> str:
    """A session's key as it is logged: 16 hexadecimal digits of its BLAKE2b digest."""
    return hashlib.blake2b(session.encode(), digest_size=8).hexdigest()


def _body(request: Request) -> orjson.Fragment:
    """The client's own bytes on one line, sessions hashed wherever they stand."""
    sessions = {
        name: hashed(value)
        for name in SESSION_FIELDS
        if isinstance(value := request.body.get(name), str) and value
    }
    return orjson.Fragment(splice(request.raw, request.body, sessions).translate(ONE_LINE))


def _plain(numbers: Mapping[str, float]) -> Mapping[str, float]:
    """As JSON has them: an array library's numbers are none."""
    return {name: float(number) for name, number in numbers.items()}


def _encoded(row: Row) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _opened(path: str) -> LineFile:
    if path == STDOUT:
        raise DecisionsError(
            "decisions.file: decisions hold prompts, and standard output is read by others; name a"
            " file"
        )
    try:
        return LineFile(path, MODE)
    except OSError as error:
        raise DecisionsError(
            f"cannot open the log of decisions {path}: {error.strerror}. Name a file in a folder"
            " that exists and may be written (decisions.file)."
        ) from error
