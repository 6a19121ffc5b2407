"""The learned gate's forward pass: how much the small model's next token needs the large one.

The shape is R2R's (arXiv 2505.21600): what the small model thinks (last hidden state, if the gate
reads it), the embedding row of the token it would write and its 100 largest raw logits go through a
few residual blocks to one score from 0 to 1. Weights are a plain mapping of arrays, numpy or torch,
with the names of `shapes`; nothing here knows where they came from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

from policies.gate.arrays import Array

TOP = 100
"""Logits that a gate reads, R2R's number; all of them where the vocabulary is smaller."""
EXPANSION = 4
"""How much wider the middle of a block is, R2R's number."""
_EPSILON = 1e-5
_CUBIC = 0.044715
_GELU = math.sqrt(2 / math.pi)
"""Both of GELU's tanh form (arXiv 1606.08415)."""


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The sizes of a gate and of the model that it was made for.

    `hidden` is 0 for a gate that reads no hidden states; `top` is how many logits it reads.
    """

    hidden: int
    embedding: int
    width: int
    blocks: int
    top: int
    vocabulary: int

    @property
    def inputs(self) -> int:
        """How many numbers the first layer reads."""
        return self.hidden + self.embedding + self.width


def shapes(of: Dimensions) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all weights. Linear layers are [out, in], as in torch."""
    wide = EXPANSION * of.width
    named = {
        **_linear("logits", of.width, of.top),
        **_linear("input", of.width, of.inputs),
        **_norm("norm", of.width),
        **_linear("output", 1, of.width),
    }
    for block in range(of.blocks):
        named |= _norm(f"blocks.{block}.norm", of.width)
        named |= _linear(f"blocks.{block}.expand", wide, of.width)
        named |= _linear(f"blocks.{block}.contract", of.width, wide)
    return named


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a gate reads of a batch, float32.

    `hidden` [batch, hidden] or None, `embedding` [batch, embedding] of the predicted tokens,
    `logits` [batch, top], raw and largest first.
    """

    hidden: Array | None
    embedding: Array
    logits: Array


def score(xp: ModuleType, weights: Mapping[str, Array], inputs: Inputs) -> Array:
    """Scores from 0 to 1, [batch]; `xp` is the library of all the arrays."""
    parts = [inputs.embedding, _apply(weights, "logits", inputs.logits)]
    if inputs.hidden is not None:
        parts.insert(0, inputs.hidden)
    x = _apply(weights, "input", xp.concatenate(parts, -1))
    block = 0
    while f"blocks.{block}.norm.weight" in weights:
        name = f"blocks.{block}"
        wide = _apply(weights, f"{name}.expand", _normed(xp, weights, f"{name}.norm", x))
        x = x + _apply(weights, f"{name}.contract", _gelu(xp, wide))
        block += 1
    x = _apply(weights, "output", _normed(xp, weights, "norm", x))[:, 0]
    # The logistic function as a tanh: no exponent to overflow.
    return (xp.tanh(x / 2) + 1) / 2


def _apply(weights: Mapping[str, Array], name: str, x: Array) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _normed(xp: ModuleType, weights: Mapping[str, Array], name: str, x: Array) -> Array:
    width = x.shape[-1]
    centred = x - x.sum(-1)[:, None] / width
    spread = xp.sqrt((centred * centred).sum(-1)[:, None] / width + _EPSILON)
    return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _gelu(xp: ModuleType, x: Array) -> Array:
    return x * (xp.tanh(x * (_GELU + _GELU * _CUBIC * x * x)) + 1) / 2
