"""The Fleet: a frozen picture of every model and how it is doing, as policies see it.

It is taken once per request and never changes under a policy's feet. It holds facts (from the
config and from probing) and counts, no connections and no methods that act: which backend of a
pool serves a call is decided in `router.pool` when the call is opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

from router.steps import ScoreApi, Surface, Usage

PER_MILLION = 1e-6
"""Prices are quoted in USD per million tokens."""


def before(usage: Usage, choices: int = 1) -> float:
    """Tokens that stand before one of the answer, on average over it: the prompt, and half of its
    own choice.
    """
    return usage.prompt + max(usage.completion / choices - 1, 0.0) / 2


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens of the prompt and of the answer, and USD per `call`.

    `context` is USD per million pairs of a token of the answer and one before it: the longer the
    text, the dearer its next token. It comes of idealised runtimes (`router.idealised`) only.
    """

    input: float = 0.0
    output: float = 0.0
    call: float = 0.0
    context: float = 0.0

    def usd(self, usage: Usage, held: int = 0, choices: int = 1) -> float:
        """USD for a call with these tokens, `held` of the prompt's having been paid for before;
        0 for one without any token.
        """
        if not (usage.prompt or usage.completion):
            return 0.0
        pairs = usage.completion * before(usage, choices) if self.context else 0.0
        prompt = max(usage.prompt - held, 0)
        tokens = prompt * self.input + usage.completion * self.output + pairs * self.context
        return self.call + tokens * PER_MILLION


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a backend was found to do when it was probed; None means that nobody could tell.

    `surfaces` are the APIs it serves; `max_logprobs` the most alternatives it returns per token;
    `token_ids` whether it takes and returns token ids; `tokenizer` how it splits the probe's sample
    text, equal for equal tokenizers; `derender` whether it reads tool calls and reasoning out of
    tokens that others wrote; `gate` the token on which a rule inside its engine stops a request;
    `salts` whether it keeps the prefixes of requests with another `cache_salt` apart; `scores` by
    which APIs it tells scores.
    """

    version: str | None = None
    surfaces: frozenset[Surface] | None = None
    served: tuple[str, ...] = ()
    context: int | None = None
    max_logprobs: int | None = None
    token_ids: bool | None = None
    tokenizer: tuple[int, ...] | None = None
    derender: bool | None = None
    gate: int | None = None
    salts: bool | None = None
    scores: frozenset[ScoreApi] | None = None

    @property
    def fingerprint(self) -> str | None:
        """A short name for the tokenizer: equal for equal ones."""
        if self.tokenizer is None:
            return None
        return hashlib.sha256(repr(self.tokenizer).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model at one moment: `params_b` in billions (active), `context` in tokens.

    `wake` is how many seconds its answer must be expected to begin later, since none of its
    backends is awake: 0 where one is, infinite where none can be woken as things are. `queue` is
    the same for a place in its line, `queue_low` for a request of low priority: 0 where one is
    free, infinite where the request would be refused.
    """

    name: str
    params_b: float
    context: int | None
    price: Price
    abilities: Abilities
    healthy: int
    in_flight: int
    wake: float = 0.0
    queue: float = 0.0
    queue_low: float = 0.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """All models by name."""

    models: Mapping[str, ModelView]

    def alive(self, model: str) -> bool:
        """Whether any backend of `model` would be given a call now."""
        return self.models[model].healthy > 0


def tokenizers_differ(one: ModelView, other: ModelView) -> str | None:
    """Where two models' tokenizers are first seen to differ; None if nowhere, or nobody knows."""
    first, second = one.abilities.tokenizer, other.abilities.tokenizer
    if first is None or second is None or first == second:
        return None
    pairs = zip_longest(first, second)
    at, (a, b) = next((n, pair) for n, pair in enumerate(pairs, start=1) if pair[0] != pair[1])
    return (
        f"the tokenizers of {one.name} and {other.name} differ: token {at} of the text that both "
        f"were asked to split is {a} for {one.name} and {b} for {other.name}"
    )
