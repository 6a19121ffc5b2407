"""The log: one JSON object per line for each request, refusal, backend change and revision.

A listener that never waits for a disk. Observations go into a bounded queue; a thread wakes a few
times a second, encodes what has come, and writes it in one piece. It is not woken by each request,
which would cost the loop more than the whole line does. When the queue is full, because a disk
hangs or a pipe is not read, new lines are dropped and counted, and the count is logged once that
works again. Handing one request over costs under 1 us (`python -m tests.bench.listeners`).

The file may be rotated without a signal, and shared by several processes (`app.linefile`).

What is logged is what an observation holds: a key's configured name, never the key; no prompt and
no answer. One field is held back all the same: the message of a fault that is the client's may be
a backend's own words, and those can quote the request (vLLM's validation errors do).
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias, assert_never

import orjson

from app.aside import Aside
from app.linefile import LineFile
from router.faults import Blame
from router.observe import (
    AttemptEnded,
    BackendChanged,
    Kept,
    Observation,
    Queued,
    Refused,
    RequestEnded,
    RevisionActivated,
    Shadowed,
    ShadowFailed,
    SleepChanged,
)

__all__ = ["CAPACITY", "Log", "LogError"]

CAPACITY = 10_000
"""Lines that may wait: several seconds of a busy gateway, at most some tens of megabytes."""

INTERVAL = 0.2
"""Seconds between two writes: soon enough for `tail -f`, seldom enough to cost nothing."""

PATIENCE = 5.0
"""Seconds that closing waits for the last lines; a pipe that nobody reads must not hold up exit."""

MODE = 0o640
"""Of a new log file. It names keys and tells what they spent: not for everybody."""

Row: TypeAlias = dict[str, Any]


class LogError(Exception):
    """The log cannot be opened; the message says why and what to do."""


class Log:
    """Writes observations to the file `path`, or to standard output if it is `-`.

    Opens the file (raises `LogError`) and starts the writing thread. `now` is seconds since 1970.
    """

    def __init__(
        self,
        path: str,
        *,
        now: Callable[[], float] = time.time,
        capacity: int = CAPACITY,
        interval: float = INTERVAL,
    ) -> None:
        self._now = now
        self._capacity = capacity
        self._file = _opened(path)
        self._queue: deque[tuple[float, Observation]] = deque()
        self._turned_away = 0  # counted by the loop's thread
        self._lost = 0  # counted by the writing thread
        self._told = 0
        self._ailing = False
        self._thread = Aside("tandem-log", self._write, interval)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were never written."""
        return self._turned_away + self._lost

    def __call__(self, observation: Observation) -> None:
        """Queue one observation."""
        if isinstance(observation, AttemptEnded):
            return  # part of its request's line
        if isinstance(observation, Kept) and observation.outcome == "logged":
            return  # it has a file of its own
        if len(self._queue) >= self._capacity:
            self._turned_away += 1
        else:
            self._queue.append((self._now(), observation))

    def close(self) -> None:
        """Write what is queued and close the file. What is observed later is lost."""
        if self._thread.end(PATIENCE):
            self._file.close()

    def _write(self) -> None:
        """Write all that waits. What cannot be written now is lost, and counted."""
        lines: list[bytes] = []
        while self._queue:
            lines += self._encoded(*self._queue.popleft())
        waiting, dropped = len(lines), self.dropped
        if dropped > self._told:
            lines.append(_encode(self._now(), {"event": "dropped", "count": dropped - self._told}))
        if not lines:
            return
        try:
            self._file.write(b"".join(lines))
        except OSError as error:
            if not self._ailing:
                print(f"log: cannot write, lines are lost: {error}", file=sys.stderr)
            self._ailing = True
            self._lost += waiting
        else:
            self._ailing = False
            self._told = dropped

    def _encoded(self, at: float, observation: Observation) -> list[bytes]:
        try:
            return [_encode(at, _row(observation))]
        except orjson.JSONEncodeError:  # text that is not Unicode: half a surrogate pair
            self._lost += 1
            return []


def _opened(path: str) -> LineFile:
    try:
        return LineFile(path, MODE)
    except OSError as error:
        raise LogError(
            f"cannot open the log {path}: {error.strerror}. Name a file in a folder that"
            " exists and may be written, or `-` for standard output."
        ) from error


def _encode(at: float, row: Row) -> bytes:
    stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return orjson.dumps(
        {"time": stamp.replace("+00:00", "Z"), **row}, option=orjson.OPT_APPEND_NEWLINE
    )


def _row(observation: Observation) -> Row:  # noqa: PLR0911  # a row per kind of observation
    match observation:
        case RequestEnded():
            return _request(observation)
        case Refused(surface, status, blame, code, key):
            return {
                "event": "refused",
                "surface": surface,
                "status": status,
                "fault": blame,
                "code": code,
                "key": key,
            }
        case BackendChanged(model, backend, state, why):
            return {
                "event": "backend",
                "model": model,
                "backend": backend,
                "state": state,
                "why": why,
            }
        case SleepChanged(model, backend, change, seconds, why):
            return {
                "event": "sleep",
                "model": model,
                "backend": backend,
                "change": change,
                "seconds": round(seconds, 3),
                "why": why,
            }
        case RevisionActivated(number, etag):
            return {"event": "revision", "number": number, "etag": etag}
        case AttemptEnded():
            return _attempt(observation)
        case Shadowed():
            return _shadowed(observation)
        case ShadowFailed(request_id, policy, shadow, why):
            return {
                "event": "shadow_failed",
                "id": request_id,
                "policy": policy,
                "shadow": shadow,
                "why": why,
            }
        case Kept(kind, outcome, number):
            return {"event": "decisions", "kind": kind, "outcome": outcome, "count": number}
        case _:
            assert_never(observation)


def _request(ended: RequestEnded) -> Row:
    return {
        "event": "request",
        "id": ended.id,
        "surface": ended.surface,
        "policy": ended.policy,
        "revision": ended.revision,
        "key": ended.key,
        "stream": ended.stream,
        "status": ended.status,
        "fault": ended.blame,
        "message": "" if ended.blame is Blame.CLIENT else ended.message,
        "reason": ended.reason,
        "detail": ended.detail,
        "seconds": ended.seconds,
        "first_byte": ended.first_byte,
        "overhead": max(ended.seconds - ended.upstream, 0.0),
        "cost_usd": ended.cost,
        "baseline_usd": ended.baseline,
        "idealised_seconds": ended.ideal and ended.ideal.seconds,
        "idealised_usd": ended.ideal and ended.ideal.usd,
        "tokens": ended.completion_by_model,
        "attempts": [_attempt(attempt) for attempt in ended.attempts],
        "queued": [_queued(queued) for queued in ended.queued],
    }


def _queued(waited: Queued) -> Row:
    return {
        "model": waited.model,
        "priority": "low" if waited.low else "high",
        "seconds": round(waited.seconds, 3),
        "shed": waited.shed or None,
    }


def _shadowed(seen: Shadowed) -> Row:
    return {
        "event": "shadow",
        "id": seen.id,
        "policy": seen.policy,
        "shadow": seen.shadow,
        "agreed": seen.agreed,
        "arm": seen.arm,
        "shadow_arm": seen.shadow_arm,
        "cost_usd": seen.cost,
        "shadow_cost_usd": seen.shadow_cost,
        "score": seen.score,
        "shadow_score": seen.shadow_score,
    }


def _attempt(ended: AttemptEnded) -> Row:
    usage = ended.usage
    return {
        "model": ended.model,
        "backend": ended.backend,
        "fault": ended.blame,
        "answer": ended.answer,
        "seconds": ended.seconds,
        "first_byte": ended.first_byte,
        "prompt": usage.prompt if usage else None,
        "completion": usage.completion if usage else None,
        "cached": usage.cached if usage else None,
        "estimated": ended.estimated,
        "cost_usd": ended.cost,
        "idealised_seconds": ended.ideal and ended.ideal.seconds,
        "idealised_usd": ended.ideal and ended.ideal.usd,
    }
