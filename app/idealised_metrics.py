"""Metrics of idealised runtimes, beside the measured ones on the page of `app.metrics`.

What a request takes where nobody else is served, by the coefficients of its models
(`router.idealised`). A model without them is in none of these, and a request that asked one is not
in the histogram: its count beside that of `tandem_request_seconds` says how many are missing.
"""

from __future__ import annotations

from collections.abc import Callable

from app.families import Counts, Histogram, Labels
from router.observe import AttemptEnded, RequestEnded

__all__ = ["IdealisedMetrics"]


class IdealisedMetrics:
    """Counts them. `count` and `histogram` declare a family: its name, its labels, what it is."""

    def __init__(
        self,
        count: Callable[[str, Labels, str], Counts],
        histogram: Callable[[str, Labels, str], Histogram],
    ) -> None:
        self._seconds = histogram(
            "tandem_idealised_request_seconds",
            ("policy", "stream"),
            "What all attempts take, each served alone on its model's own hardware, one by one.",
        )
        self._busy = count(
            "tandem_idealised_accelerator_seconds_total",
            ("model", "policy"),
            "Accelerator-seconds of all attempts, each served alone.",
        )
        self._cost = count(
            "tandem_idealised_cost_usd_total",
            ("model", "policy"),
            "What these cost at the price of an accelerator's hour.",
        )

    def request(self, ended: RequestEnded, labels: Labels) -> None:
        """Count a request under the labels of its measured time."""
        if ended.ideal is not None:
            self._seconds.observe(labels, ended.ideal.seconds)

    def attempt(self, attempt: AttemptEnded, policy: str) -> None:
        """Count one of its attempts."""
        if (ideal := attempt.ideal) is None:
            return
        self._busy.add((attempt.model, policy), ideal.accelerator_seconds)
        if ideal.usd is not None:
            self._cost.add((attempt.model, policy), ideal.usd)
