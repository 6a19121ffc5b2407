"""Measures: what the conventions for generative AI count, counted from requests that are over.

Labels come from closed sets: configured names, surfaces, whose fault it was. Buckets are those that
the conventions ask for.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.metrics import Histogram
from opentelemetry.sdk.metrics import MeterProvider

from app.tracing import words
from router.observe import AttemptEnded, RequestEnded
from router.trace import Value

WAITS: Final = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64),
    *(1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
FIRST: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08),
    *(0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
EACH: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS: Final = tuple(float(4**power) for power in range(14))

Labels = dict[str, Value]


class Measures:
    """The histograms; `count` is for one thread."""

    def __init__(self, provider: MeterProvider) -> None:
        self._meter = provider.get_meter(words.SCOPE)
        of = self._histogram
        self._request = of("gen_ai.server.request.duration", "s", WAITS, "A request, to its end")
        self._first = of("gen_ai.server.time_to_first_token", "s", FIRST, "To a stream's first")
        self._each = of("gen_ai.server.time_per_output_token", "s", EACH, "After the first one")
        self._call = of("gen_ai.client.operation.duration", "s", WAITS, "A call to a backend")
        self._tokens = of("gen_ai.client.token.usage", "{token}", TOKENS, "Of a call to a backend")

    def _histogram(self, name: str, unit: str, buckets: tuple[float, ...], what: str) -> Histogram:
        return self._meter.create_histogram(
            name, unit, what, explicit_bucket_boundaries_advisory=buckets
        )

    def count(self, ended: RequestEnded) -> None:
        """Count a request and its calls."""
        labels: Labels = {
            words.OPERATION: words.OPERATIONS[ended.surface],
            words.PROVIDER: words.GATEWAY,
            words.ASKED_MODEL: ended.policy,
        }
        failed = {words.ERROR: ended.blame.value} if ended.blame else {}
        self._request.record(ended.seconds, {**labels, **failed})
        tokens, first = ended.delivered.completion, ended.first_byte
        if ended.stream and first is not None and not ended.blame:
            self._first.record(first, labels)
            if tokens > 1:
                self._each.record((ended.seconds - first) / (tokens - 1), labels)
        for attempt in ended.attempts:
            self._count(attempt)

    def _count(self, attempt: AttemptEnded) -> None:
        labels: Labels = {
            words.OPERATION: words.OPERATIONS[attempt.surface],
            words.PROVIDER: words.ENGINE,
            words.ASKED_MODEL: attempt.model,
            **words.address(attempt),
        }
        failed = {words.ERROR: attempt.blame.value} if attempt.blame else {}
        self._call.record(attempt.seconds, {**labels, **failed})
        if attempt.usage is not None and not attempt.estimated:
            self._tokens.record(attempt.charged.prompt, {**labels, words.TOKEN_TYPE: "input"})
            self._tokens.record(attempt.usage.completion, {**labels, words.TOKEN_TYPE: "output"})
