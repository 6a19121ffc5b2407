"""The gate's rule outside the engine, for a backend that has no gate.

Such a backend writes on until it is stopped, so the rule is applied to each token as it arrives,
and what comes after the token at which it fires is thrown away. The full distribution is not known
here: entropy is estimated from the top-k log-probabilities, between two bounds that the missing
tail allows (`policies.gate.estimate`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from policies.gate.chance import uniform
from policies.gate.estimate import bounds
from policies.gate.settings import GateSettings, Rule
from router.steps import Token

Estimate = Literal["low", "middle", "high"]
ALTERNATIVES = 20
"""Top-k asked for: vLLM's default limit. Fewer where a backend returns fewer."""


@dataclass(slots=True)
class Watch:
    """One turn of one model, watched. `vocabulary` bounds the tail's entropy, where it is known."""

    settings: GateSettings
    estimate: Estimate = "middle"
    vocabulary: int | None = None
    _seen: int = 0
    _recent: deque[float] = field(init=False)

    def __post_init__(self) -> None:
        self._recent = deque(self.settings.history, maxlen=self.settings.window)

    def fires(self, token: Token) -> bool:
        """Whether the rule fires at this token, which then must not be kept."""
        settings, position = self.settings, self._seen
        self._seen += 1
        if settings.rule is Rule.RANDOM:
            drawn = uniform(np.array([settings.seed]), np.array([position]))[0]
            return bool(drawn < (settings.rate or 0.0))
        self._recent.append(self._entropy(token))
        if settings.since + position < settings.dwell:
            return False
        mean = sum(self._recent) / len(self._recent)
        bits = settings.threshold or 0.0
        return mean < bits if settings.below else mean >= bits

    def _entropy(self, token: Token) -> float:
        low, high = bounds([a.logprob for a in token.top], self.vocabulary)
        return {"low": low, "middle": (low + high) / 2, "high": high}[self.estimate]
