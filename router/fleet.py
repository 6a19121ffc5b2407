"""The Fleet: a frozen picture of every model and how it is doing, as policies see it.

It is taken once per request and never changes under a policy's feet. It holds facts (from the
config and from probing) and counts, no connections and no methods that act: which backend of a
pool serves a call is decided in `router.pool` when the call is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.steps import Surface


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    input: float = 0.0
    output: float = 0.0


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a backend was found to do when it was probed; None means that nobody could tell.

    `surfaces` are the APIs it serves; `max_logprobs` the most alternatives it returns per token;
    `token_ids` whether it takes and returns token ids; `tokenizer` a fingerprint, equal for equal
    tokenizers; `gate` whether a routing rule runs inside its engine.
    """

    version: str | None = None
    surfaces: frozenset[Surface] | None = None
    served: tuple[str, ...] = ()
    context: int | None = None
    max_logprobs: int | None = None
    token_ids: bool | None = None
    tokenizer: str | None = None
    gate: bool | None = None


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model at one moment: `params_b` in billions (active), `context` in tokens."""

    name: str
    params_b: float
    context: int | None
    price: Price
    abilities: Abilities
    healthy: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """All models by name."""

    models: Mapping[str, ModelView]

    def alive(self, model: str) -> bool:
        """Whether any backend of `model` would be given a call now."""
        return self.models[model].healthy > 0
