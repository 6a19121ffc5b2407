"""Prometheus metrics: a listener that counts what it observes, and the page that tells it.

Everything is counted from observations, nothing from the request path itself, so the core knows
no metric and this file knows no policy. Some gauges are not counted but looked at when somebody
scrapes (`app.pool_metrics`).

Label values come from closed sets: configured names of models, backends and policies, and enums.
Never a key, a user, a request id or a word that a client sent. What a label, a bucket or a
difference of two metrics means is told in docs/metrics.md, which a test holds against this file.

The listener sits on the hot path: a stream of three attempts costs 4-7 us and 0.03-0.05 us for each
of its pieces, where prometheus_client's own counters cost 50 us and 1.2 us (both measured by
`python -m tests.bench.listeners`). Hence `app.families`, and hence the rule that observing and
rendering happen on the event loop's thread: there are no locks.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import assert_never

from prometheus_client import ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from app.decision_metrics import DecisionMetrics
from app.families import SEPARATOR, Counts, Histogram, Labels, Told, joined
from app.idealised_metrics import IdealisedMetrics
from app.pool_metrics import PRIORITIES, STATES, BackendLoad, PoolLoad, pools_now
from router.cost import handoffs
from router.faults import Blame
from router.observe import (
    AttemptEnded,
    BackendChanged,
    Kept,
    Observation,
    Refused,
    RequestEnded,
    RevisionActivated,
    Shadowed,
    ShadowFailed,
    SleepChanged,
)

__all__ = ["OK", "STATES", "BackendLoad", "Metrics", "PoolLoad", "watch_lag"]

OK = "ok"
"""The outcome of an attempt that went well; all other outcomes are a `Blame`."""

LAG_INTERVAL = 0.25
"""Seconds between two looks at the loop: four a second cost nothing and see a stall of 0.1 s."""

WAIT = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
"""Buckets for a first token or a whole answer, in seconds: a cache hit to a long chain of
thought. Each is about twice the one before, so a quantile is known to within a factor of two."""

GAP = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 1.0, 2.5)
"""Buckets between two pieces of a stream: finest where models write, at 10 to 100 tokens/s."""

OWN = (
    *(50e-6, 100e-6, 150e-6, 200e-6, 300e-6, 400e-6, 500e-6, 750e-6),
    *(0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5),
)
"""Buckets for the gateway's own time: its target is well under a millisecond, its limit is 5 ms."""


ADD_UP = frozenset(
    {
        "tandem_in_flight",
        "tandem_waiting_for_wake",
        "tandem_queued",
        "process_cpu_seconds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
    }
)
"""What is looked at and adds up over processes. Other gauges are those of the one that is asked."""
START = "process_start_time_seconds"
"""But of this the earliest counts: another process answering is no restart."""


class _Page(Collector):
    """Families that are there already, as prometheus_client's encoders want them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Metrics:
    """Counts observations and renders them.

    `pools` gives the pools as they are now, `also` gauges that others look at.
    """

    def __init__(
        self,
        pools: Callable[[], Iterable[PoolLoad]],
        version: str,
        also: Callable[[], Iterable[Metric]] = list,
    ) -> None:
        self._pools = pools
        self._also = also
        self._version = version
        self._revision: RevisionActivated | None = None
        self._families: list[Counts | Histogram] = []
        self._declare_requests()
        self._declare_tokens()
        self._declare_fleet()
        self._decisions = DecisionMetrics(self._count)
        self._idealised = IdealisedMetrics(self._count, partial(self._histogram, bounds=WAIT))
        self._process = ProcessCollector(registry=None)

    def _count(self, name: str, labels: Labels, about: str) -> Counts:
        family = Counts(name, labels, about)
        self._families.append(family)
        return family

    def _histogram(
        self, name: str, labels: Labels, about: str, bounds: tuple[float, ...]
    ) -> Histogram:
        family = Histogram(name, labels, about, bounds)
        self._families.append(family)
        return family

    def _declare_requests(self) -> None:
        self._requests = self._count(
            "tandem_requests_total",
            ("policy", "surface", "status"),
            "Requests that reached a policy, by the HTTP status of their answer.",
        )
        self._errors = self._count(
            "tandem_errors_total",
            ("policy", "fault"),
            "Requests that ended badly, by whose fault it was.",
        )
        self._refused = self._count(
            "tandem_refused_total",
            ("fault", "code"),
            "Requests that ended before any policy saw them.",
        )
        self._first = self._histogram(
            "tandem_time_to_first_token_seconds",
            ("policy",),
            "Streams: from the request's first byte to the answer's.",
            WAIT,
        )
        self._gaps = self._histogram(
            "tandem_inter_token_latency_seconds",
            ("policy",),
            "Streams: between two pieces of the answer.",
            GAP,
        )
        self._seconds = self._histogram(
            "tandem_request_seconds",
            ("policy", "stream"),
            "The whole request.",
            WAIT,
        )
        self._overhead = self._histogram(
            "tandem_overhead_seconds",
            ("policy", "stream"),
            "The gateway's own share of a request: all but waiting for backends and client.",
            OWN,
        )
        self._truncated = self._count(
            "tandem_stream_truncated_total",
            ("policy", "fault"),
            "Streams that began and broke off, except where the client left.",
        )
        self._reasons = self._count(
            "tandem_reasons_total",
            ("policy", "reason"),
            "Why policies decided as they did, in their own closed set of words.",
        )

    def _declare_tokens(self) -> None:
        self._tokens = self._count(
            "tandem_tokens_total",
            ("model", "policy", "direction"),
            "Tokens of all attempts, drafts and lost hedges included; cached is part of prompt.",
        )
        self._answered = self._count(
            "tandem_answer_tokens_total",
            ("model", "policy"),
            "Completion tokens that clients got, by the model that wrote them.",
        )
        self._handoffs = self._count(
            "tandem_handoffs_total",
            ("policy",),
            "Times that one model went on with an answer that another one had begun.",
        )
        self._estimated = self._count(
            "tandem_estimated_tokens_total",
            ("model", "policy"),
            "Completion tokens that were estimated, the answer having been cut short.",
        )
        self._cost = self._count(
            "tandem_cost_usd_total",
            ("model", "policy"),
            "What was spent on all attempts, drafts and lost hedges included.",
        )
        self._baseline = self._count(
            "tandem_baseline_usd_total",
            ("policy",),
            "What the same answers would have cost on the baseline model alone.",
        )
        self._without_usage = self._count(
            "tandem_streams_without_usage_total",
            ("model",),
            "Attempts of streams that ended well without telling their tokens: cost is unknown.",
        )

    def _declare_fleet(self) -> None:
        self._attempts = self._count(
            "tandem_attempts_total",
            ("model", "backend", "outcome"),
            "Calls to backends, by outcome: ok, or whose fault it was.",
        )
        self._changes = self._count(
            "tandem_backend_changes_total",
            ("model", "backend", "state"),
            "Changes of a backend's health, by the state it came into.",
        )
        self._sleeps = self._count(
            "tandem_sleep_changes_total",
            ("model", "backend", "change"),
            "Servers that were woken or put to sleep, or would not be.",
        )
        self._wakes = self._histogram(
            "tandem_wake_seconds",
            ("model", "backend"),
            "How long it took to wake a server.",
            WAIT,
        )
        self._queued = self._histogram(
            "tandem_queue_seconds",
            ("model", "priority"),
            "Waits for a place with a model's backends that came to an end, with or without one.",
            WAIT,
        )
        self._shed = self._count(
            "tandem_shed_total",
            ("model", "priority", "why"),
            "Requests that got no place: the line was full, too slow, or the wait too long.",
        )
        self._activations = self._count(
            "tandem_revisions_activated_total",
            (),
            "Revisions that began to serve, the one at start included.",
        )
        self.lag = self._histogram(
            "tandem_event_loop_lag_seconds",
            (),
            "How much later than asked the event loop woke up.",
            OWN,
        )

    def __call__(self, observation: Observation) -> None:
        """Count one observation."""
        match observation:
            case RequestEnded():
                self._request(observation)
            case Refused(blame=blame, code=code):
                self._refused.add((blame, code or "none"))
            case BackendChanged(model=model, backend=backend, state=state):
                self._changes.add((model, backend, state))
            case SleepChanged(model=model, backend=backend, change=change):
                self._sleeps.add((model, backend, change))
                if change == "woken":
                    self._wakes.observe((model, backend), observation.seconds)
            case RevisionActivated():
                self._activations.add(())
                self._revision = observation
            case Shadowed() | ShadowFailed() | Kept():
                self._decisions(observation)
            case AttemptEnded():
                pass  # counted with its request, which knows the policy
            case _:
                assert_never(observation)

    def render(
        self, accept: str = "", others: Sequence[Mapping[str, Told]] = ()
    ) -> tuple[bytes, str]:
        """The page in the format that the Accept header asks for, and its Content-Type."""
        encode, content_type = choose_encoder(accept)
        return encode(_Page(self.collect(others))), content_type

    def _request(self, ended: RequestEnded) -> None:
        policy, blame = ended.policy, ended.blame
        self._requests.add((policy, ended.surface, str(ended.status)))
        if blame is not None:
            self._errors.add((policy, blame))
        if ended.reason:
            self._reasons.add((policy, ended.reason))
        if ended.stream:
            self._stream(ended)
        which = (policy, "true" if ended.stream else "false")
        self._seconds.observe(which, ended.seconds)
        self._idealised.request(ended, which)
        self._overhead.observe(which, max(ended.seconds - ended.upstream, 0.0))
        self._baseline.add((policy,), ended.baseline)
        if len(ended.attempts) > 1 and (changes := handoffs(ended.attempts)):
            self._handoffs.add((policy,), changes)
        for attempt in ended.attempts:
            self._attempt(attempt, policy, ended.stream)
        for queued in ended.queued:
            who = (queued.model, PRIORITIES[queued.low])
            if queued.seconds:
                self._queued.observe(who, queued.seconds)
            if queued.shed:
                self._shed.add((*who, queued.shed))

    def _stream(self, ended: RequestEnded) -> None:
        if ended.first_byte is not None:
            self._first.observe((ended.policy,), ended.first_byte)
        if ended.gaps:
            self._gaps.observe_all((ended.policy,), ended.gaps)
        began = ended.status < 400  # the status went out with the stream's first byte
        if began and ended.blame is not None and ended.blame is not Blame.GONE:
            self._truncated.add((ended.policy, ended.blame))

    def _attempt(self, attempt: AttemptEnded, policy: str, stream: bool) -> None:
        model, usage = attempt.model, attempt.usage
        self._attempts.add((model, attempt.backend, attempt.blame or OK))
        if usage is None:
            if stream and attempt.blame is None:
                self._without_usage.add((model,))
            return
        self._tokens.add((model, policy, "prompt"), attempt.charged.prompt)
        self._tokens.add((model, policy, "completion"), usage.completion)
        self._tokens.add((model, policy, "cached"), usage.cached)
        if attempt.estimated:
            self._estimated.add((model, policy), usage.completion)
        self._cost.add((model, policy), attempt.cost)
        self._idealised.attempt(attempt, policy)
        if attempt.written:
            self._answered.add((model, policy), attempt.written)

    def told(self) -> dict[str, Told]:
        """What other processes add to theirs: all that is counted, and gauges that add up."""
        told = {family.name: family.told() for family in self._families}
        for gauge in self._gauges():
            if gauge.name in ADD_UP or gauge.name == START:
                told[gauge.name] = {
                    SEPARATOR.join(sample.labels.values()): [sample.value]
                    for sample in gauge.samples
                }
        return told

    def collect(self, others: Sequence[Mapping[str, Told]] = ()) -> Iterator[Metric]:
        """All families, together with what other processes have told."""
        for family in self._families:
            yield family.collect([told[family.name] for told in others if family.name in told])
        for gauge in self._gauges():
            told = [each[gauge.name] for each in others if gauge.name in each]
            if gauge.name in ADD_UP:
                joined(gauge, told, sum)
            elif gauge.name == START:
                joined(gauge, told, min)
            yield gauge

    def _gauges(self) -> Iterator[Metric]:
        yield from pools_now(self._pools())
        yield from self._revision_now()
        yield from self._also()
        yield from self._process.collect()

    def _revision_now(self) -> Iterator[Metric]:
        number = GaugeMetricFamily("tandem_revision", "The number of the revision that serves.")
        revision = GaugeMetricFamily(
            "tandem_revision_info", "1 for the revision that serves.", labels=("etag",)
        )
        build = GaugeMetricFamily(
            "tandem_build_info", "1 for what is running.", labels=("version", "python")
        )
        build.add_metric((self._version, platform.python_version()), 1)
        if self._revision is not None:
            number.add_metric((), self._revision.number)
            revision.add_metric((self._revision.etag,), 1)
        yield number
        yield revision
        yield build


async def watch_lag(metrics: Metrics, interval: float = LAG_INTERVAL) -> None:
    """Measure for ever how late the event loop wakes up. The app starts it as a task."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval
        await asyncio.sleep(interval)
        metrics.lag.observe((), max(loop.time() - due, 0.0))
