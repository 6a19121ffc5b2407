"""Tracing: gives requests their places in traces, and tells OpenTelemetry what became of them.

On the way of a request it draws two ids and asks the sampler; at its end it puts what is known into
a bounded queue. A thread makes spans and measures of that, and the library's own threads send them.
What a collector does, or does not, therefore reaches no answer: a queue that is full drops what
comes, and the number is logged. `python -m tests.bench.listeners` measures what a request pays.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from app.aside import Aside
from app.tracing.words import asked
from router.observe import Observation, RequestEnded
from router.sections import TracingConfig
from router.steps import Request
from router.trace import Trace, caller

if TYPE_CHECKING:
    from app.tracing.export import Exports

CAPACITY = 10_000
"""Requests that may wait to be told: seconds of a busy gateway."""
INTERVAL = 0.2
"""Seconds between two looks at them."""
PATIENCE = 5.0
"""Seconds that closing waits for the last of them to be sent."""
KNOWN: Mapping[str, tuple[str, ...]] = {
    "OTEL_TRACES_EXPORTER": ("otlp", "none"),
    "OTEL_METRICS_EXPORTER": ("otlp", "none"),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("http/protobuf",),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("http/protobuf",),
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": ("http/protobuf",),
}
"""What these variables may say here; each may be left out."""

logger = logging.getLogger("tandem.tracing")


class TracingError(Exception):
    """Tracing cannot begin; the message is one line and says what to do."""


def opened(config: TracingConfig | None, environ: Mapping[str, str] = os.environ) -> Tracing | None:
    """What `config` and the environment ask for; None if that is nothing. Raises `TracingError`."""
    if config is None or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    for name, known in KNOWN.items():
        if environ.get(name, known[0]) not in known:
            wanted = " or ".join(known)
            raise TracingError(f"{name} is {environ[name]!r}; Tandem sends {wanted} only")
    try:
        from app.tracing.export import Exports
    except ImportError:
        raise TracingError(
            "tracing needs OpenTelemetry's library: pip install 'tandem-gateway[otel]', or leave"
            " the section `tracing` out"
        ) from None
    return Tracing(config, Exports(environ), random.Random())


class Tracing:
    """The listener. `rng` draws ids; `now` is nanoseconds since 1970."""

    def __init__(
        self,
        config: TracingConfig,
        exports: Exports,
        rng: random.Random,
        *,
        now: Callable[[], int] = time.time_ns,
        capacity: int = CAPACITY,
        interval: float = INTERVAL,
    ) -> None:
        from opentelemetry.sdk.trace.sampling import Decision
        from opentelemetry.trace import SpanKind

        from app.tracing.measures import Measures
        from app.tracing.spans import Spans, around

        self._trust = config.trust_clients
        self._exports = exports
        self._rng = rng
        self._now = now
        self._sampler, self._kind, self._around = exports.spans.sampler, SpanKind.SERVER, around
        self._yes = Decision.RECORD_AND_SAMPLE
        self._spans = Spans(exports.spans, exports.ids)
        self._measures = Measures(exports.measures) if exports.measures else None
        self._queue: deque[tuple[int, RequestEnded]] = deque()
        self._capacity = capacity
        self._dropped = self._told = 0
        self._thread = Aside("tandem-tracing", self._tell, interval)
        self._thread.start()

    def begin(self, request: Request) -> Trace:
        """The place of a request that has just come."""
        by = caller(request.forwarded)
        continued = self._trust and by is not None
        drawn = by.trace if by and continued else self._rng.getrandbits(128) or 1
        span = self._rng.getrandbits(64) or 1
        trace = Trace(drawn, span, sampled=False, caller=by, continued=continued)
        decided = self._sampler.should_sample(
            self._around(trace), drawn, f"POST /v1/{request.surface.value}", self._kind
        )
        if decided.decision is not self._yes:
            return trace
        return Trace(drawn, span, True, by, continued, asked(request))

    def __call__(self, observation: Observation) -> None:
        """Queue a request that is over."""
        if not isinstance(observation, RequestEnded):
            return
        if len(self._queue) >= self._capacity:
            self._dropped += 1
        else:
            self._queue.append((self._now(), observation))

    def close(self) -> None:
        """Tell what is queued, and send it, within `PATIENCE`."""
        began = time.monotonic()
        self._thread.end(PATIENCE)
        self._exports.close(max(PATIENCE - (time.monotonic() - began), 0.1))

    def _tell(self) -> None:
        while self._queue:
            at, ended = self._queue.popleft()
            try:
                if self._measures:
                    self._measures.count(ended)
                if ended.trace and ended.trace.sampled:
                    self._spans.tell(ended, ended.trace, at)
            except Exception:
                logger.exception("a request could not be told")
        if self._dropped > self._told:
            logger.warning(
                "%d requests were not told: too many at once", self._dropped - self._told
            )
            self._told = self._dropped
