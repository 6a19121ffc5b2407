"""The log: one JSON object per line for each request, refusal, backend change and revision.

A listener that never waits for a disk. Observations go into a bounded queue; a thread wakes a few
times a second, encodes what has come, and writes it in one piece. It is not woken by each request,
which would cost the loop more than the whole line does. When the queue is full, because a disk
hangs or a pipe is not read, new lines are dropped and counted, and the count is logged once that
works again. Handing one request over costs under 1 us (`python -m tests.bench.listeners`).

A log file that was renamed or deleted is noticed by its inode before the next write and opened
anew, so logrotate needs no signal. Several processes may append to one file.

What is logged is what an observation holds: a key's configured name, never the key; no prompt and
no answer. One field is held back all the same: the message of a fault that is the client's may be
a backend's own words, and those can quote the request (vLLM's validation errors do).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias, assert_never

import orjson

from router.faults import Blame
from router.observe import (
    AttemptEnded,
    BackendChanged,
    Observation,
    Refused,
    RequestEnded,
    RevisionActivated,
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

STDOUT = "-"

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
        self._interval = interval
        self._file = _File(path)
        self._queue: deque[tuple[float, Observation]] = deque()
        self._turned_away = 0  # counted by the loop's thread
        self._lost = 0  # counted by the writing thread
        self._told = 0
        self._ailing = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tandem-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were never written."""
        return self._turned_away + self._lost

    def __call__(self, observation: Observation) -> None:
        """Queue one observation."""
        if isinstance(observation, AttemptEnded):
            return  # part of its request's line
        if len(self._queue) >= self._capacity:
            self._turned_away += 1
        else:
            self._queue.append((self._now(), observation))

    def close(self) -> None:
        """Write what is queued and close the file. What is observed later is lost."""
        self._closing.set()
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            self._file.close()

    def _run(self) -> None:
        while not self._closing.wait(self._interval):
            self._write()
        self._write()

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


class _File:
    """The file under a name, whichever file that is at the time of a write."""

    def __init__(self, path: str) -> None:
        self._path = None if path == STDOUT else Path(path)
        try:
            self._fd = self._open()
        except OSError as error:
            raise LogError(
                f"cannot open the log {path}: {error.strerror}. Name a file in a folder that"
                " exists and may be written, or `-` for standard output."
            ) from error

    def _open(self) -> int:
        if self._path is None:
            return sys.stdout.fileno()
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)

    def write(self, data: bytes) -> None:
        """Append `data`. Raises OSError."""
        if self._moved():
            fresh = self._open()
            os.close(self._fd)
            self._fd = fresh
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]

    def close(self) -> None:
        if self._path is not None:
            os.close(self._fd)

    def _moved(self) -> bool:
        if self._path is None:
            return False
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return True


def _encode(at: float, row: Row) -> bytes:
    stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return orjson.dumps(
        {"time": stamp.replace("+00:00", "Z"), **row}, option=orjson.OPT_APPEND_NEWLINE
    )


def _row(observation: Observation) -> Row:
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
        "tokens": ended.completion_by_model,
        "attempts": [_attempt(attempt) for attempt in ended.attempts],
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
    }
