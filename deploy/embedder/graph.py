"""The encoder of all-MiniLM-L6-v2, its pooling and its normalisation, as an ONNX graph.

Knows BERT's layers and the names of their weights in the original's safetensors file. How a linear
layer is computed is the caller's: `plain` here in float32, or `quantize.Int8`. Written with
onnxruntime's own operators where it has faster ones (`com.microsoft`).

There is no attention mask: texts that share a run have the same number of tokens, so that nothing
is padded and no text's vector depends on its company's length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Weights: TypeAlias = Mapping[str, Floats]
Place: TypeAlias = tuple[int, str]
"""A linear layer: its block, 0 to 5, and "qkv", "out", "up" or "down"."""

BLOCKS = 6
WIDTH = 384
HEADS = 12
MAX_TOKENS = 256
"""As the original's sentence_bert_config.json says; it has positions for 512."""
EPSILON = 1e-12
TOKENS, VECTORS = "tokens", "vectors"
"""The graph's input, int32 [texts, tokens], and its output, float32 [texts, 384]."""

_FUSED = "com.microsoft"
# Gelu is in 20; IR 10 is the newest that goes with it.
_OPSET, _IR = 20, 10


@dataclass(slots=True)
class Draft:
    """A graph while it grows: nodes, constants, and the inputs and weights of linear layers."""

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    inputs: dict[Place, str] = field(default_factory=dict)
    weights: dict[Place, Floats] = field(default_factory=dict)

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        """A constant under this name, once."""
        from onnx import numpy_helper

        array = np.ascontiguousarray(value)
        self.constants.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, *inputs: str, fused: bool = False, **attributes: Any) -> str:
        """A node with one output, whose name is returned."""
        return self.several(kind, inputs, 1, _FUSED if fused else "", attributes)[0]

    def several(
        self, kind: str, inputs: Sequence[str], outputs: int, domain: str, attributes: Any
    ) -> list[str]:
        """A node with several outputs."""
        from onnx import helper

        made = [f"{kind}_{len(self.nodes)}_{at}" for at in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, made, domain=domain, **attributes))
        return made


Linear: TypeAlias = Callable[[Draft, Place, str, Floats, Floats], str]
"""Adds `input @ weight.T + bias`; weight [outputs, inputs]. Gives the result's name."""
Weighted: TypeAlias = Mapping[Place, Floats]
Spread: TypeAlias = Mapping[Place, Floats]
"""By how much the input channels of a linear layer after a LayerNorm are divided, and its weights
multiplied; each [inputs]."""
Loud: TypeAlias = Mapping[int, Sequence[int]]
"""Neurons of a block's feed-forward that are computed in float32, by block."""


def plain(draft: Draft, place: Place, given: str, weight: Floats, bias: Floats) -> str:
    """A linear layer in float32."""
    product = draft.add("MatMul", given, draft.constant(f"{place}.weight", weight.T))
    return draft.add("Add", product, draft.constant(f"{place}.bias", bias))


@dataclass(frozen=True, slots=True)
class Encoder:
    """What a graph is made of. `words` adds the look-up of word embeddings for the tokens."""

    weights: Weights
    linear: Linear = plain
    words: Callable[[Draft, Floats], str] | None = None
    spread: Spread = field(default_factory=dict)
    loud: Loud = field(default_factory=dict)

    def model(self, show_inputs: bool = False) -> tuple[bytes, Weighted]:
        """The ONNX model, and its linear layers with their weights.

        Its further outputs are the inputs of those layers, in their order, if they are shown.
        """
        from onnx import TensorProto, helper

        draft = Draft()
        hidden = self._blocks(draft)
        mean = draft.add("ReduceMean", hidden, draft.constant("axis 1", [1]), keepdims=0)
        draft.nodes.append(helper.make_node("LpNormalization", [mean], [VECTORS], axis=-1, p=2))
        made = [helper.make_tensor_value_info(VECTORS, TensorProto.FLOAT, ["texts", WIDTH])]
        made += [
            helper.make_tensor_value_info(given, TensorProto.FLOAT, None)
            for given in (draft.inputs.values() if show_inputs else ())
        ]
        given = helper.make_tensor_value_info(TOKENS, TensorProto.INT32, ["texts", "tokens"])
        graph = helper.make_graph(
            draft.nodes, "all-MiniLM-L6-v2", [given], made, list(draft.constants.values())
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_FUSED, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
        whole: bytes = model.SerializeToString()
        return whole, draft.weights

    def _blocks(self, draft: Draft) -> str:
        spread, hidden = self._norm(draft, self._embedded(draft), "embeddings.", (0, "qkv"))
        for at in range(BLOCKS):
            block = f"encoder.layer.{at}."
            heard = self._attention(draft, at, spread)
            total = draft.add("Add", heard, hidden)
            spread, hidden = self._norm(draft, total, f"{block}attention.output.", (at, "up"))
            thought = self._feed_forward(draft, at, spread)
            total = draft.add("Add", thought, hidden)
            spread, hidden = self._norm(draft, total, f"{block}output.", (at + 1, "qkv"))
        return hidden

    def _embedded(self, draft: Draft) -> str:
        """Words, positions and the one kind of segment there is."""
        words = self.weights["embeddings.word_embeddings.weight"]
        if self.words is None:
            looked_up = draft.add("Gather", draft.constant("words", words), TOKENS)
        else:
            looked_up = self.words(draft, words)
        positions = self.weights["embeddings.position_embeddings.weight"][:MAX_TOKENS]
        positions = positions + self.weights["embeddings.token_type_embeddings.weight"][0]
        zero = draft.constant("zero", [0])
        length = draft.add("Shape", TOKENS, start=1, end=2)
        first = draft.add("Slice", draft.constant("positions", positions), zero, length, zero)
        return draft.add("Add", looked_up, first)

    def _norm(self, draft: Draft, given: str, owner: str, to: Place) -> tuple[str, str]:
        """LayerNorm: as the linear layer `to` wants it, spread, and as the residual does."""
        gain, shift = (self.weights[f"{owner}LayerNorm.{part}"] for part in ("weight", "bias"))
        divisor = self.spread.get(to)
        if divisor is not None:
            gain, shift = gain / divisor, shift / divisor
        names = [draft.constant(f"{owner}gain", gain), draft.constant(f"{owner}shift", shift)]
        made = draft.add("LayerNormalization", given, *names, axis=-1, epsilon=EPSILON)
        if divisor is None:
            return made, made
        return made, draft.add("Mul", made, draft.constant(f"{owner}spread", divisor))

    def _attention(self, draft: Draft, at: int, given: str) -> str:
        three = [self._pair(at, f"attention.self.{name}") for name in ("query", "key", "value")]
        weight, bias = (np.concatenate(parts) for parts in zip(*three, strict=True))
        joined = self._linear(draft, (at, "qkv"), given, weight, bias)
        parts = draft.several("Split", [joined], 3, "", {"axis": -1, "num_outputs": 3})
        heads = draft.add("MultiHeadAttention", *parts, fused=True, num_heads=HEADS)
        return self._linear(draft, (at, "out"), heads, *self._pair(at, "attention.output.dense"))

    def _feed_forward(self, draft: Draft, at: int, given: str) -> str:
        """Up, Gelu, down; loud neurons are in float32, aside, and the linear layers lack them."""
        up, down = self._pair(at, "intermediate.dense"), self._pair(at, "output.dense")
        loud = [*self.loud.get(at, ())]
        quiet = np.setdiff1d(np.arange(len(up[0])), loud)
        wide = self._linear(draft, (at, "up"), given, up[0][quiet], up[1][quiet])
        wide = draft.add("Gelu", wide, fused=True)
        made = self._linear(draft, (at, "down"), wide, down[0][:, quiet], down[1])
        if not loud:
            return made
        weight = self._spread(up[0][loud], (at, "up"))
        aside = plain(draft, (at, "loud up"), given, weight, up[1][loud])
        aside = draft.add("Gelu", aside, fused=True)
        back = draft.constant(f"{at}.loud down", down[0][:, loud].T)
        return draft.add("Add", made, draft.add("MatMul", aside, back))

    def _pair(self, at: int, name: str) -> tuple[Floats, Floats]:
        """Weight [outputs, inputs] and bias [outputs] of a dense layer in a block."""
        named = f"encoder.layer.{at}.{name}"
        return self.weights[f"{named}.weight"], self.weights[f"{named}.bias"]

    def _spread(self, weight: Floats, place: Place) -> Floats:
        factor = self.spread.get(place)
        return weight if factor is None else weight * factor

    def _linear(self, draft: Draft, place: Place, given: str, weight: Floats, bias: Floats) -> str:
        draft.inputs[place], draft.weights[place] = given, weight
        return self.linear(draft, place, given, self._spread(weight, place), bias)
