"""From float32 to int8: weights per output channel, activations when the graph runs.

Knows what an integer product costs and where it goes wrong. All activations of a layer share one
scale, so a few that reach far leave the others a handful of levels; x86 processors without VNNI add
two neighbouring products in 16 bits, where large ones overflow. So three things are done, and none
changes the function:

- In front of a LayerNorm's linear layer, channels are divided and weights multiplied by factors
  found on sample texts (SmoothQuant, arXiv 2211.10438).
- In each feed-forward, the few neurons that reach furthest (in the first blocks: one neuron, at the
  first token, three to five times as far as any other) are computed in float32.
- Weights are scaled so that no two neighbours can overflow: 255 * 128 < 2**15.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from deploy.embedder.graph import TOKENS, Draft, Encoder, Floats, Loud, Place, Spread, Weights

STRENGTH = 0.7
"""How much of the difference between channels moves into the weights: 0 nothing, 1 all of it."""
LOUD = 4
"""Neurons of a block that are computed in float32."""
LARGEST = 127
"""Of a weight, and of the sum of two neighbours: one more by rounding still fits."""


def linear(draft: Draft, place: Place, given: str, weight: Floats, bias: Floats) -> str:
    """A linear layer whose weights are int8 and whose input is made uint8 on the way."""
    whole, scale = weights_to_int8(weight)
    return draft.add(
        "DynamicQuantizeMatMul",
        given,
        draft.constant(f"{place}.weight", whole.T),
        draft.constant(f"{place}.scale", scale),
        "",  # symmetric: no zero points
        draft.constant(f"{place}.bias", bias),
        fused=True,
    )


def words(draft: Draft, table: Floats) -> str:
    """The look-up of word embeddings in an int8 table with a scale for each word."""
    from onnx import TensorProto

    scale = np.abs(table).max(axis=1, keepdims=True) / LARGEST
    whole = np.rint(table / scale).astype(np.int8)
    found = draft.add("Gather", draft.constant("words", whole), TOKENS)
    scales = draft.constant("words.scale", scale.astype(np.float32))
    return draft.add(
        "Mul", draft.add("Cast", found, to=TensorProto.FLOAT), draft.add("Gather", scales, TOKENS)
    )


def weights_to_int8(weight: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Weights [outputs, inputs] as int8, and the scale [outputs] that gives them back."""
    neighbours = np.abs(weight[:, 0::2] + weight[:, 1::2]).max(axis=1)
    scale = np.maximum(np.abs(weight).max(axis=1), neighbours) / LARGEST
    whole = np.rint(weight / scale[:, None])
    return whole.astype(np.int8), scale.astype(np.float32)


def measured(weights: Weights, samples: Iterable[npt.NDArray[np.int32]]) -> tuple[Spread, Loud]:
    """Factors with a geometric mean of 1, and loud neurons, from runs on token ids [1, tokens]."""
    factors, loud = {}, {}
    for place, (far, own) in _reached(weights, samples).items():
        block, kind = place
        if kind == "down":
            loud[block] = sorted(int(at) for at in np.argsort(far)[-LOUD:])
        elif kind != "out":
            factor = np.log(far) * STRENGTH - np.log(own) * (1 - STRENGTH)
            factors[place] = np.exp(factor - factor.mean()).astype(np.float32)
    return factors, loud


def _reached(
    weights: Weights, samples: Iterable[npt.NDArray[np.int32]]
) -> Mapping[Place, tuple[Floats, Floats]]:
    """How far from 0 each input channel of each linear layer gets, and the weights on it."""
    import onnxruntime

    model, own = Encoder(weights).model(show_inputs=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    far: dict[Place, Floats] = {}
    for ids in samples:
        for place, values in zip(own, session.run(None, {TOKENS: ids})[1:], strict=True):
            reach = np.abs(values).max(axis=(0, 1))
            far[place] = np.maximum(far.get(place, reach), reach)
    return {place: (far[place], np.abs(weight).max(axis=0)) for place, weight in own.items()}
