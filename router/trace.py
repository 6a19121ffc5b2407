"""A request's place in a distributed trace, as W3C's Trace Context writes it in `traceparent`.

Plain values: who called, which trace the request is part of, and what a backend is told, so that
its own spans hang below ours. Whether anybody records spans, and how, is not known here.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

Value: TypeAlias = bool | int | float | str

_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_FIRST = "00"
SAMPLED = 1
LONGEST_STATE = 512
"""Characters of a caller's `tracestate` that are passed on; a longer one is left out, as W3C says
that one may.
"""
MOST_SPANS = 128
"""Attempts of one request with a span of their own; a token policy may make hundreds. The rest is
counted, and hangs below the request's own span.
"""


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a client says that its request comes from: its trace, its span, and whether it records
    them.
    """

    trace: int
    span: int
    sampled: bool
    state: str = ""


def caller(headers: Mapping[str, str]) -> Caller | None:
    """The caller that these headers name; None if they name none, or not as W3C says."""
    found = _PARENT.fullmatch(headers.get("traceparent", ""))
    if found is None or (found[5] and found[1] == _FIRST):
        return None
    trace, span = int(found[2], 16), int(found[3], 16)
    if not trace or not span:
        return None
    state = headers.get("tracestate", "")
    sampled = bool(int(found[4], 16) & SAMPLED)
    return Caller(trace, span, sampled, state if len(state) <= LONGEST_STATE else "")


@dataclass(frozen=True, slots=True)
class Trace:
    """The trace of one request, `id`, and the request's own span in it.

    `caller` is whoever sent the request, if it said so; it is the span's parent if the trace is
    `continued`, else only linked to. `asked` are settings of the request worth recording: numbers.
    """

    id: int
    span: int
    sampled: bool
    caller: Caller | None = None
    continued: bool = False
    asked: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))

    def child(self, number: int, rng: random.Random) -> int:
        """The span of the request's attempt of this number; 0 if it gets none of its own."""
        return rng.getrandbits(64) or 1 if number < MOST_SPANS else 0

    def headers(self, span: int) -> dict[str, str]:
        """What a backend is told, whose work is part of `span`, or of the request's own if 0."""
        flags = SAMPLED if self.sampled else 0
        told = {"traceparent": f"00-{self.id:032x}-{span or self.span:016x}-{flags:02x}"}
        if self.continued and self.caller and self.caller.state:
            told["tracestate"] = self.caller.state
        return told
