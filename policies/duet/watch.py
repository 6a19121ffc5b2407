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
    """One call of one model, watched: as the engine's gate decides, token by token."""

    settings: GateSettings
    estimate: Estimate = "middle"
    _seen: int = 0
    _fired: bool = False
    _recent: deque[float] = field(init=False)

    def __post_init__(self) -> None:
        self._recent = deque(self.settings.history, maxlen=self.settings.window)

    def stops(self, token: Token) -> bool:
        """Whether the turn ends before this token, which then must not be kept.

        Raises ValueError if an entropy is to be estimated and the token tells no alternatives.
        """
        fires = self._fires(token)
        self._seen += 1
        if not self.settings.keep:
            return fires
        stops, self._fired = self._fired, fires
        return stops

    def _fires(self, token: Token) -> bool:
        settings = self.settings
        if settings.rule is not Rule.RANDOM:
            self._recent.append(self._entropy(token))
        if settings.since + self._seen < settings.dwell:
            return False
        if settings.rule is Rule.RANDOM:
            drawn = uniform(np.array([settings.seed]), np.array([self._seen]))[0]
            return bool(drawn < (settings.rate or 0.0))
        mean = sum(self._recent) / len(self._recent)
        bits = settings.threshold or 0.0
        return mean < bits if settings.below else mean >= bits

    def _entropy(self, token: Token) -> float:
        # The token itself is told beside the best ones, and need not be one of them.
        best = sorted((a.logprob for a in token.top), reverse=True)[:ALTERNATIVES]
        low, high = bounds(best)
        return {"low": low, "middle": (low + high) / 2, "high": high}[self.estimate]
