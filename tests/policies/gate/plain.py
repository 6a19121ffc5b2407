"""The gate's rules once more, in plain Python floats: what the arrays are compared with.

One request at a time, with a list for its past: no batch, no ring, no positions stated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from policies.gate.rules import OWN
from policies.gate.settings import GateSettings, Rule


def entropy(logits: Sequence[float]) -> float:
    """Bits of the softmax of one row."""
    best = max(logits)
    weights = [math.exp(each - best) for each in logits]
    total = math.fsum(weights)
    return -math.fsum(w / total * math.log2(w / total) for w in weights if w > 0)


def splitmix(seed: int, count: int) -> int:
    """The output number `count`, from 1, of the generator, as its reference code computes it."""
    state, out = seed % 2**64, 0
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        out = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        out = (out ^ (out >> 27)) * 0x94D049BB133111EB % 2**64
        out ^= out >> 31
    return out


class Plain:
    """One request's gate. `token` is the reserved one."""

    def __init__(self, settings: GateSettings, token: int) -> None:
        self.settings = settings
        self.token = token
        self.entropies = list(settings.history)
        self.count = 0
        self.pending = False
        self.closest = math.inf
        """How near a mean came to the threshold: float32 may decide otherwise there."""

    def decide(self, logits: Sequence[float]) -> int:
        """The next token's fate: -1, or the token that must come."""
        fires = self._fires(logits)
        stop = self.pending if self.settings.keep else fires
        self.pending = fires
        self.count += 1
        return self.token if stop else OWN

    def _fires(self, logits: Sequence[float]) -> bool:
        settings = self.settings
        ready = settings.since + self.count >= settings.dwell
        if settings.rule is Rule.RANDOM:
            drawn = (splitmix(settings.seed, self.count + 1) >> 11) / 2**53
            return ready and drawn < (settings.rate or 0)
        self.entropies.append(entropy(logits))
        last = self.entropies[-settings.window :]
        mean = math.fsum(last) / len(last)
        assert settings.threshold is not None
        self.closest = min(self.closest, abs(mean - settings.threshold))
        return ready and (
            mean < settings.threshold if settings.below else mean >= settings.threshold
        )
