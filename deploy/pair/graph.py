"""An exported model in onnxruntime-genai: tokens in, logits and hidden states out.

This is the one file that touches onnxruntime-genai (0.18). Knows shapes, the KV cache and its
limits. Must not know sampling, text or requests. One core by rule: a tiny model gains nothing from
a second thread, and two such models share a laptop with the gateway.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai

from deploy.pair.sampling import Floats

GRAPH_FOLDER = "onnx"
GRAPH_FILES = ("model.onnx", "genai_config.json")

_ONE_CORE = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
_FLOAT_BYTES = 4
# Caches come in sizes of this many tokens, doubled as needed: big enough for most requests, so that
# a kept one fits the next; small enough that a hundred cost little (4 MB each for 1 M parameters).
_SMALLEST_CACHE = 1024


class ModelFilesError(Exception):
    """A model folder lacks files, or they do not load; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the rest must know of a graph."""

    vocabulary: int
    hidden: int
    context: int
    eos: tuple[int, ...]
    cache_bytes_per_token: int


class Graph:
    """The loaded weights of one model; makes KV caches that share them."""

    def __init__(self, folder: Path) -> None:
        """`folder` is a Hugging Face model folder with the exported graph in `onnx/`.

        Raises ModelFilesError.
        """
        graph = folder / GRAPH_FOLDER
        for name in GRAPH_FILES:
            if not (graph / name).is_file():
                raise ModelFilesError(
                    f"no {name} in {graph}: restore the repository's files (git checkout), or "
                    f"export the model anew: python -m deploy.pair.export {folder}"
                )
        try:
            self.shape = _shape(graph)
        except (KeyError, ValueError) as error:
            raise ModelFilesError(f"{graph / GRAPH_FILES[1]} is damaged: {error!r}") from error
        self.checksum = zlib.crc32((graph / GRAPH_FILES[0]).read_bytes())
        genai.disable_telemetry_events()  # nothing here may call out
        self._files = graph
        self._model: genai.Model | None = None
        self.load()

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._model is not None

    def load(self) -> None:
        """Read the weights, unless they are there. Raises ModelFilesError."""
        if self._model is not None:
            return
        config = genai.Config(str(self._files))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": _ONE_CORE}}}))
        try:
            self._model = genai.Model(config)
        except RuntimeError as error:
            raise ModelFilesError(f"{self._files} does not load: {error}") from error

    def unload(self) -> None:
        """Let go of the weights; their memory is free once no cache holds on to them."""
        self._model = None

    def cache(self, tokens: int) -> KVCache:
        """An empty cache with room for that many tokens (at most the context)."""
        capacity = _SMALLEST_CACHE
        while capacity < tokens:
            capacity *= 2
        capacity = min(capacity, self.shape.context)
        assert self._model is not None, "the weights are not loaded"
        settings = genai.GeneratorParams(self._model)
        # Sampling is ours; a fixed seed spares genai's slow seeding (16 ms, with it 0.05 ms).
        settings.set_search_options(max_length=capacity, do_sample=False, random_seed=1)
        size = capacity * self.shape.cache_bytes_per_token
        return KVCache(genai.Generator(self._model, settings), capacity, size)


class KVCache:
    """The keys and values of one token sequence, and the outputs of the last tokens fed to it.

    Only those of the same `salt` may see how much of it is there.
    """

    def __init__(self, generator: genai.Generator, capacity: int, size: int) -> None:
        self._generator = generator
        self.capacity = capacity
        self.bytes = size
        self.tokens: list[int] = []
        self.salt: str | None = None

    def feed(self, tokens: Sequence[int]) -> None:
        """Run the model over these tokens, after those already here."""
        self._generator.append_tokens(np.asarray(tokens, dtype=np.int32))
        self.tokens += tokens

    def rewind(self, length: int) -> None:
        """Forget all tokens but the first `length`. The outputs are stale until the next feed."""
        if length < len(self.tokens):
            self._generator.rewind_to(length)
            del self.tokens[length:]

    def logits(self) -> Floats:
        """Logits after the last token fed, [vocabulary]."""
        last: Floats = self._generator.get_logits()[0, -1]
        return last

    def all_logits(self) -> Floats:
        """Logits after each token of the last feed, [tokens fed, vocabulary]."""
        every: Floats = self._generator.get_output("logits")[0]
        return every

    def hidden_states(self) -> Floats:
        """Final normed hidden states of each token of the last feed, [tokens fed, hidden]."""
        every: Floats = self._generator.get_output("hidden_states")[0]
        return every


def _shape(graph: Path) -> Shape:
    model = json.loads((graph / "genai_config.json").read_text(encoding="utf-8"))["model"]
    eos = model["eos_token_id"]
    decoder = model["decoder"]
    per_layer = 2 * decoder["num_key_value_heads"] * decoder["head_size"] * _FLOAT_BYTES
    return Shape(
        vocabulary=model["vocab_size"],
        hidden=decoder["hidden_size"],
        context=model["context_length"],
        eos=tuple(eos) if isinstance(eos, list) else (eos,),
        cache_bytes_per_token=decoder["num_hidden_layers"] * per_layer,
    )
