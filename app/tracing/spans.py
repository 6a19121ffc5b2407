"""Spans: a request that is over, told as one span of the gateway and one for each attempt.

The ids are those that backends were told while it went on. No prompt, no answer and no fault's
message is in a span, since those can quote either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from app.tracing import words
from app.tracing.export import Ids
from router.faults import Blame
from router.idealised import Ideal
from router.observe import AttemptEnded, RequestEnded
from router.trace import Caller, Trace, Value

Values: TypeAlias = Mapping[str, Value | Sequence[str] | Sequence[int]]

NANO = 1_000_000_000
SERVER_ERROR = 500
"""The first status that is an error of the server's: HTTP's conventions leave others unset."""


def around(trace: Trace) -> Context:
    """What a request's span hangs below: its caller's, or nothing."""
    if trace.caller is None or not trace.continued:
        return Context()
    return set_span_in_context(NonRecordingSpan(_named(trace.caller)), Context())


def _named(caller: Caller) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if caller.sampled else TraceFlags.DEFAULT)
    state = TraceState.from_header([caller.state])
    return SpanContext(
        caller.trace, caller.span, is_remote=True, trace_flags=flags, trace_state=state
    )


class Spans:
    """Makes spans. For one thread: `ids` are set before each."""

    def __init__(self, provider: TracerProvider, ids: Ids) -> None:
        self._tracer = provider.get_tracer(words.SCOPE)
        self._ids = ids

    def tell(self, ended: RequestEnded, trace: Trace, at: int) -> None:
        """The spans of a request that ended `at` so many nanoseconds since 1970."""
        began = at - int(ended.seconds * NANO)
        links = [Link(_named(trace.caller))] if trace.caller and not trace.continued else []
        self._ids.trace, self._ids.span = trace.id, trace.span
        span = self._tracer.start_span(
            f"POST {_route(ended)}",
            context=around(trace),
            kind=SpanKind.SERVER,
            attributes=of_request(ended, trace),
            links=links,
            start_time=began,
        )
        if ended.status >= SERVER_ERROR:
            span.set_status(StatusCode.ERROR)
        below = set_span_in_context(span, Context())
        for attempt in ended.attempts:
            if attempt.span:
                self._tell(attempt, began, below)
        span.end(at)

    def _tell(self, attempt: AttemptEnded, request_began: int, below: Context) -> None:
        began = request_began + int(attempt.began * NANO)
        self._ids.span = attempt.span
        span: Span = self._tracer.start_span(
            f"{words.OPERATIONS[attempt.surface]} {attempt.model}",
            context=below,
            kind=SpanKind.CLIENT,
            attributes=of_attempt(attempt),
            start_time=began,
        )
        if attempt.blame not in (None, Blame.GONE):  # the client left, or another was faster
            span.set_status(StatusCode.ERROR)
        span.end(began + int(attempt.seconds * NANO))


def _route(ended: RequestEnded) -> str:
    return f"/v1/{ended.surface.value}"


def _ideal(ideal: Ideal | None) -> dict[str, float]:
    """What it takes alone, as far as that is known."""
    if ideal is None:
        return {}
    cost = {} if ideal.usd is None else {words.IDEALISED_COST: ideal.usd}
    return {words.IDEALISED: ideal.seconds, **cost}


def of_request(ended: RequestEnded, trace: Trace) -> Values:
    """The attributes of a request's span."""
    by_model = ended.completion_by_model
    told: dict[str, Value | Sequence[str] | Sequence[int]] = {
        words.METHOD: "POST",
        words.ROUTE: _route(ended),
        words.PATH: _route(ended),
        words.SCHEME: "http",
        words.STATUS: ended.status,
        words.OPERATION: words.OPERATIONS[ended.surface],
        words.PROVIDER: words.GATEWAY,
        words.ASKED_MODEL: ended.policy,
        words.STREAM: ended.stream,
        words.INPUT_TOKENS: ended.delivered.prompt,
        words.OUTPUT_TOKENS: ended.delivered.completion,
        **trace.asked,
        words.REQUEST_ID: ended.id,
        words.POLICY: ended.policy,
        words.REVISION: ended.revision,
        words.COST: ended.cost,
        words.BASELINE: ended.baseline,
        **_ideal(ended.ideal),
        words.OWN_SECONDS: max(ended.seconds - ended.upstream, 0.0),
        words.ATTEMPTS: len(ended.attempts),
        words.MODELS: list(by_model),
        words.MODEL_TOKENS: list(by_model.values()),
    }
    if len(by_model) == 1:
        told[words.ANSWERED_MODEL] = next(iter(by_model))
    if ended.stream and ended.first_byte is not None:
        told[words.FIRST_CHUNK] = ended.first_byte
    if ended.reason:
        told[words.REASON] = ended.reason
    if ended.queued:
        told[words.QUEUED] = sum(wait.seconds for wait in ended.queued)
    if ended.key:
        told[words.KEY] = ended.key
    if ended.blame:
        told[words.ERROR] = ended.blame.value
    return told


def of_attempt(attempt: AttemptEnded) -> Values:
    """The attributes of an attempt's span."""
    told: dict[str, Value | Sequence[str] | Sequence[int]] = {
        words.OPERATION: words.OPERATIONS[attempt.surface],
        words.PROVIDER: words.ENGINE,
        words.ASKED_MODEL: attempt.model,
        words.ANSWERED_MODEL: attempt.model,
        **words.address(attempt),
        words.ANSWERS: attempt.answer,
        words.WRITTEN: attempt.written,
        words.COST: attempt.cost,
        **_ideal(attempt.ideal),
    }
    if attempt.usage is not None:
        told[words.INPUT_TOKENS] = attempt.usage.prompt
        told[words.OUTPUT_TOKENS] = attempt.usage.completion
        told[words.CACHED_TOKENS] = attempt.usage.cached
        told[words.ESTIMATED] = attempt.estimated
    if attempt.first_byte is not None:
        told[words.FIRST_CHUNK] = attempt.first_byte
    if attempt.blame:
        told[words.ERROR] = attempt.blame.value
    return told
