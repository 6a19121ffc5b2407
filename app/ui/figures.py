"""What an operator wants to know at a glance: from samples of the metrics to figures and charts.

The meaning of each figure is that of docs/metrics.md and of the Grafana boards. The *large* model
is the baseline, whose price savings are counted against. A figure that cannot be told (no traffic,
no price) is None, never 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.ui.charts import Chart, Line, areas, lines
from app.ui.history import Window
from app.ui.words import dollars, pace, seconds
from router.cost import saved
from router.runtime import Runtime

__all__ = ["Figures", "ModelRow", "Money", "PolicyRow", "charts_of", "figures_of", "styles_of"]

STYLES = 8
"""Looks of models, in app/ui/static/ui.css; the ninth model looks like the first."""
HOUR = 3600.0


def styles_of(runtime: Runtime) -> Mapping[str, str]:
    """Each model's look: its class in the style sheet."""
    return {name: f"w{at % STYLES}" for at, name in enumerate(runtime.pools)}


@dataclass(frozen=True, slots=True)
class Money:
    """USD spent, and what the baseline model alone would have cost."""

    spent: float
    baseline: float

    @property
    def saved(self) -> float:
        """USD that were not spent; negative if more was."""
        return self.baseline - self.spent

    @property
    def part(self) -> float | None:
        """The part of the baseline that was saved; None without a baseline."""
        return saved(self.spent, self.baseline) if self.baseline else None


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model in the window. `share` is its part of the answers' tokens, costs are in USD."""

    name: str
    style: str
    calls: float
    failed: float
    prompt: float
    completion: float
    answered: float
    share: float | None
    spent: float
    in_flight: float


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One target in the window: a policy, or a model that was named directly. Times in seconds;
    `alone` is the median of the idealised ones, None where models have no coefficients.
    """

    name: str
    kind: str
    requests: float
    errors: float
    handoffs: float
    first: float | None
    half: float | None
    most: float | None
    alone: float | None
    money: Money
    large_share: float | None
    reasons: Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Figures:
    """The window in numbers. Rates are per second, times in seconds, `alone` as in a policy's."""

    seconds: float
    requests: float
    rate: float
    in_flight: float
    failed: Mapping[str, float]
    refused: Mapping[str, float]
    money: Money
    large: str
    large_share: float | None
    first_half: float | None
    first_most: float | None
    half: float | None
    most: float | None
    alone: float | None
    own: float | None
    models: Sequence[ModelRow]
    policies: Sequence[PolicyRow]

    @property
    def failures(self) -> float:
        """Requests that ended badly, but for those whose client left and those at its own fault."""
        return sum(n for fault, n in self.failed.items() if fault not in ("client", "gone"))


FIRST = "tandem_time_to_first_token_seconds_bucket"
WHOLE = "tandem_request_seconds_bucket"
ALONE = "tandem_idealised_request_seconds_bucket"


def figures_of(window: Window, runtime: Runtime) -> Figures:
    """The figures of this window; models and policies are those of the active revision, and those
    that had traffic before it.
    """
    answered = window.by("tandem_answer_tokens_total", "model")
    requests = window.rise("tandem_requests_total")
    return Figures(
        seconds=window.seconds,
        requests=requests,
        rate=requests / window.seconds,
        in_flight=window.now("tandem_in_flight"),
        failed=window.by("tandem_errors_total", "fault"),
        refused=window.by("tandem_refused_total", "code"),
        money=money_of(window),
        large=runtime.baseline,
        large_share=_part(answered, runtime.baseline),
        first_half=window.quantile(FIRST, 0.5),
        first_most=window.quantile(FIRST, 0.95),
        half=window.quantile(WHOLE, 0.5),
        most=window.quantile(WHOLE, 0.95),
        alone=window.quantile(ALONE, 0.5),
        own=window.quantile("tandem_overhead_seconds_bucket", 0.5),
        models=list(_models(window, runtime, answered)),
        policies=list(_policies(window, runtime)),
    )


def money_of(window: Window) -> Money:
    """What was spent in this window, and what it would have cost."""
    spent = window.rise("tandem_cost_usd_total")
    return Money(spent, window.rise("tandem_baseline_usd_total"))


def _models(window: Window, runtime: Runtime, answered: Mapping[str, float]) -> Iterator[ModelRow]:
    styles, calls = styles_of(runtime), window.by("tandem_attempts_total", "model")
    well = window.by("tandem_attempts_total", "model", outcome="ok")
    left = window.by("tandem_attempts_total", "model", outcome="gone")
    spent = window.by("tandem_cost_usd_total", "model")
    tokens = {
        way: window.by("tandem_tokens_total", "model", direction=way)
        for way in ("prompt", "completion")
    }
    for name in dict.fromkeys((*runtime.pools, *calls)):
        asked = calls.get(name, 0.0)
        yield ModelRow(
            name=name,
            style=styles.get(name, ""),
            calls=asked,
            failed=asked - well.get(name, 0.0) - left.get(name, 0.0),
            prompt=tokens["prompt"].get(name, 0.0),
            completion=tokens["completion"].get(name, 0.0),
            answered=answered.get(name, 0.0),
            share=_part(answered, name),
            spent=spent.get(name, 0.0),
            in_flight=window.now("tandem_in_flight", model=name),
        )


def _policies(window: Window, runtime: Runtime) -> Iterator[PolicyRow]:
    requests = window.by("tandem_requests_total", "policy")
    errors = window.by("tandem_errors_total", "policy")
    handoffs = window.by("tandem_handoffs_total", "policy")
    spent = window.by("tandem_cost_usd_total", "policy")
    alone = window.by("tandem_baseline_usd_total", "policy")
    first = window.quantile_by(FIRST, 0.5, "policy")
    half = window.quantile_by(WHOLE, 0.5, "policy")
    most = window.quantile_by(WHOLE, 0.95, "policy")
    alone_seconds = window.quantile_by(ALONE, 0.5, "policy")
    for name in dict.fromkeys((*runtime.config.policies, *requests)):
        if name not in requests and name in runtime.pools:
            continue
        reasons = window.by("tandem_reasons_total", "reason", policy=name)
        written = window.by("tandem_answer_tokens_total", "model", policy=name)
        yield PolicyRow(
            name=name,
            kind=runtime.kinds.get(name, ""),
            requests=requests.get(name, 0.0),
            errors=errors.get(name, 0.0),
            handoffs=handoffs.get(name, 0.0),
            first=first.get(name),
            half=half.get(name),
            most=most.get(name),
            alone=alone_seconds.get(name),
            money=Money(spent.get(name, 0.0), alone.get(name, 0.0)),
            large_share=_part(written, runtime.baseline),
            reasons=sorted(reasons.items(), key=lambda told: -told[1]),
        )


def charts_of(window: Window, runtime: Runtime) -> Sequence[Chart]:
    """Who writes, what it costs, and how long it takes, over the window."""
    styles = styles_of(runtime)
    written = [
        Line(name, style, window.rates("tandem_answer_tokens_total", model=name))
        for name, style in styles.items()
    ]
    spent = [rate * HOUR for rate in window.rates("tandem_cost_usd_total")]
    alone = [rate * HOUR for rate in window.rates("tandem_baseline_usd_total")]
    costs = [
        Line(f"{runtime.baseline} alone", "alone", alone),
        Line("spent", "spent", spent),
    ]
    firsts = [
        Line("half are faster", "half", window.quantiles(FIRST, 0.5)),
        Line("95 % are faster", "most", window.quantiles(FIRST, 0.95)),
    ]
    wholes = [
        Line("half are faster", "half", window.quantiles(WHOLE, 0.5)),
        Line("95 % are faster", "most", window.quantiles(WHOLE, 0.95)),
    ]
    return (
        areas("Who writes", "answer tokens per second", written, pace),
        lines("Cost", "USD per hour", costs, dollars),
        lines("First token", "seconds, streams", firsts, seconds),
        lines("Whole answer", "seconds", wholes, seconds),
    )


def _part(tokens: Mapping[str, float], name: str) -> float | None:
    total = sum(tokens.values())
    return tokens.get(name, 0.0) / total if total else None
