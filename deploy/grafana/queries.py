"""The forms that queries take: selections by the boards' variables, rates, quantiles, shares.

Plain text in, PromQL out. A family of the gateway that has never counted is not there at all, so
what may well be zero says so (`or_zero`); what has no meaning without traffic is left empty.
"""

from __future__ import annotations

__all__ = [
    "HERE",
    "REVISIONS",
    "bucket_quantile",
    "or_zero",
    "over_range",
    "per_second",
    "pick",
    "share",
    "split",
]

HERE = 'job=~"$job", instance=~"$instance"'
"""The gateways that are looked at."""

REVISIONS = f"tandem_revision_info{{{HERE}}} unless tandem_revision_info{{{HERE}}} offset 1m"
"""There for a minute after a revision has begun to serve."""

VARIABLES = {
    "policy": 'policy=~"$policy"',
    "model": 'model=~"$model"',
    "large": 'model="$large"',
}


def pick(metric: str, *by: str, where: str = "") -> str:
    """A selector: the metric of these gateways, by the variables `by`, and where `where` holds."""
    matchers = ", ".join([HERE, *(VARIABLES[name] for name in by), *([where] if where else ())])
    return f"{metric}{{{matchers}}}"


def per_second(selector: str, *labels: str) -> str:
    """The rate of a counter, added up by these labels."""
    return f"{_sum(labels)} (rate({selector}[$__rate_interval]))"


def over_range(selector: str, *labels: str) -> str:
    """How much a counter rose in the range that is looked at."""
    return f"{_sum(labels)} (increase({selector}[$__range]))"


def bucket_quantile(quantile: float, selector: str, *labels: str) -> str:
    """A quantile of a histogram; `selector` is that of its buckets."""
    buckets = per_second(selector, "le", *labels)
    return f"histogram_quantile({quantile:g}, {buckets})"


def or_zero(expr: str) -> str:
    """Zero where there is nothing. For sums without labels."""
    return f"{expr} or vector(0)"


def share(of: str, whole: str) -> str:
    """A part of a whole; both have the same labels. Zero where only the part is not there."""
    return f"({of} or 0 * {whole}) / {whole}"


def split(of: str, whole: str, *on: str) -> str:
    """The parts of a whole: `of` has labels that the whole has not; both have `on`."""
    return f"{of} / on ({', '.join(on)}) group_left () {whole}"


def _sum(labels: tuple[str, ...]) -> str:
    return f"sum by ({', '.join(labels)})" if labels else "sum"
