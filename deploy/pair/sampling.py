"""From one step's logits to one token, and what is reported of it.

Knows the settings of the OpenAI and vLLM APIs and applies them in vLLM's order (its
`v1/sample/sampler.py`): allowed ids, stop ids barred before `min_tokens`, bias, penalties,
temperature, then min-p, top-k and top-p. Must not know text, models or requests. What is *reported*
is always taken from the logits before any of this (vLLM's default `raw_logprobs`), so a report
never changes with the temperature. One seed gives one answer: each generation has its own numpy
generator and draws exactly once a token.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Scores: TypeAlias = tuple[tuple[int, float], ...]

# Below this vLLM decodes greedily (its _SAMPLING_EPS).
GREEDY_BELOW = 1e-5


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; the defaults draw from the model's own distribution."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_ids: tuple[int, ...] = ()
    seed: int | None = None

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, without a draw."""
        return self.temperature < GREEDY_BELOW

    @property
    def penalises(self) -> bool:
        """Whether what was said before changes what is said next."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )


class Sampler:
    """Draws the tokens of one generation."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocabulary: int) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(_natural(sampling.seed))
        self._counts = np.zeros(vocabulary, dtype=np.float32)
        self._seen = np.zeros(vocabulary, dtype=bool)
        self._seen[list(prompt)] = True

    def pick(self, logits: Floats, barred: Collection[int] = ()) -> int:
        """The next token for logits [vocabulary]; `barred` ids cannot be drawn."""
        scores = self._adjusted(logits, barred)
        token = int(scores.argmax()) if self._sampling.greedy else self._draw(scores)
        self._counts[token] += 1
        self._seen[token] = True
        return token

    def _adjusted(self, logits: Floats, barred: Collection[int]) -> Floats:
        asked = self._sampling
        if not (barred or asked.allowed_ids or asked.logit_bias or asked.penalises):
            return logits
        scores = logits.copy()
        if asked.allowed_ids:
            scores[:] = -np.inf
            scores[list(asked.allowed_ids)] = logits[list(asked.allowed_ids)]
        if barred:
            scores[list(barred)] = -np.inf
        for token, bias in asked.logit_bias.items():
            scores[token] += bias
        return self._penalised(scores) if asked.penalises else scores

    def _penalised(self, scores: Floats) -> Floats:
        asked = self._sampling
        seen = scores[self._seen]
        factor = asked.repetition_penalty
        scores[self._seen] = np.where(seen > 0, seen / factor, seen * factor)
        scores -= asked.frequency_penalty * self._counts
        scores -= asked.presence_penalty * (self._counts > 0)
        return scores

    def _draw(self, scores: Floats) -> int:
        asked = self._sampling
        warmed = scores.astype(np.float64) / asked.temperature
        if asked.min_p > 0:
            warmed[warmed < warmed.max() + math.log(asked.min_p)] = -np.inf
        if 0 < asked.top_k < warmed.size:
            warmed[warmed < np.partition(warmed, -asked.top_k)[-asked.top_k]] = -np.inf
        chances = np.exp(warmed - warmed.max())
        if asked.top_p < 1:
            order = np.argsort(-chances, kind="stable")
            reached = np.cumsum(chances[order])
            # A token stays while those before it have not yet reached top_p; the first always does.
            before = reached - chances[order]
            chances[order[before >= asked.top_p * reached[-1]]] = 0
        steps = np.cumsum(chances)
        return int(np.searchsorted(steps, self._random.random() * steps[-1], side="right"))


def log_softmax(logits: Floats) -> Floats:
    """Natural log-probabilities over the last axis, same shape."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normal: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normal


def scores(logprobs: Floats, token: int, best: int, ids: Sequence[int] = ()) -> Scores:
    """The token's (id, logprob), then those of `ids`, or else of the `best` likeliest, best first.

    The token is not named twice, so there are `best` or `best + 1` entries: vLLM's convention.
    """
    others = list(ids) or _likeliest(logprobs, best)
    chosen = dict.fromkeys([token, *others])
    return tuple((each, float(logprobs[each])) for each in chosen)


def rank(logprobs: Floats, token: int) -> int:
    """1 for the likeliest token of [vocabulary]."""
    return int((logprobs > logprobs[token]).sum()) + 1


def _likeliest(logprobs: Floats, best: int) -> list[int]:
    if best <= 0:
        return []
    first = np.argpartition(-logprobs, min(best, logprobs.size) - 1)[:best]
    ordered: list[int] = first[np.argsort(-logprobs[first], kind="stable")].tolist()
    return ordered


def _natural(seed: int | None) -> int | None:
    """numpy takes natural numbers only; the API allows all signed 64-bit ones."""
    return None if seed is None else seed % 2**64
