"""The gate of the pair's server: the house's rules on numpy arrays, one row at a time.

The in-process counterpart of the vLLM plugin, with the same code (`policies.gate`, the one room of
the house that the pair knows), the same keys in `vllm_xargs` and the same environment variables.
Knows one model's folder and tokenizer. Must not know HTTP: what cannot be is a ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import deserialize

from deploy.pair.engine import Gate
from deploy.pair.graph import Shape
from deploy.pair.sampling import Floats
from deploy.pair.text import Codec
from policies.gate.arrays import Arrays
from policies.gate.artifact import Artifact, fingerprint
from policies.gate.resources import Model, Resources
from policies.gate.rules import OWN, Network, Rules, Step
from policies.gate.rules import Gate as RuleGate
from policies.gate.settings import GateSettings, Rule

GATES = Path(__file__).parent / "models" / "gate"
"""The learned gates that ship with the pair, where the environment names no other folder."""
WEIGHTS = "model.safetensors"
EMBEDDING = "model.embed_tokens.weight"
_ARRAYS = Arrays()


class Gates:
    """Makes a model's gates, one for each generation that asks for one."""

    def __init__(
        self, folder: Path, codec: Codec, shape: Shape, environ: Mapping[str, str]
    ) -> None:
        """Raises ValueError where the environment makes no sense."""
        self._embedding = embedding_matrix(folder / WEIGHTS)
        model = Model(
            shape.vocabulary,
            hidden=shape.hidden,
            embedding=None if self._embedding is None else self._embedding.shape[1],
            fingerprint=None if self._embedding is None else fingerprint(self._embedding),
        )
        self._resources = Resources.of(environ, codec.tokenizer.token_to_id, model)
        if self._resources.artifacts is None:
            self._resources.artifacts = GATES

    def settings(self, xargs: Mapping[str, Any] | None) -> GateSettings | None:
        """The gate that a request asks for. Raises ValueError if it cannot be had."""
        asked = GateSettings.of(xargs)
        if asked is not None:
            self._resources.check(asked)
            if asked.rule is Rule.NEURAL and self._embedding is None:
                raise ValueError(f"a neural gate needs this model's {WEIGHTS}, which is not there")
        return asked

    def make(self, asked: GateSettings | None) -> Gate | None:
        """A new gate with settings that `settings` has given."""
        if asked is None:
            return None
        network = trace = None
        if asked.rule is Rule.NEURAL:
            network = self._network(self._resources.artifact(asked))
        if asked.rule is Rule.TRACE:
            trace = self._resources.trace(asked)
        rules = Rules(1, _ARRAYS)
        rules.begin(0, RuleGate(asked, self._resources.reserved(asked), network, trace))

        def decide(generated: Sequence[int], logits: Floats, hidden: Floats | None) -> int | None:
            seen = None if hidden is None else hidden[None]
            token = int(rules.decide(Step((0,), (len(generated),), logits[None], seen))[0])
            return None if token == OWN else token

        return Gate(
            decide, reads_hidden=trace is not None or (network is not None and network.hidden)
        )

    def _network(self, artifact: Artifact) -> Network:
        embedding = self._embedding
        assert embedding is not None
        return Network.of(artifact, _ARRAYS, embedding.__getitem__)


def embedding_matrix(file: Path) -> Floats | None:
    """The model's embedding matrix [vocabulary, embedding]; None without the file or the matrix."""
    if not file.is_file():
        return None
    tensors = dict(deserialize(file.read_bytes()))  # type: ignore[no-untyped-call]  # has no types
    if EMBEDDING not in tensors:
        return None
    tensor = tensors[EMBEDDING]
    # numpy has no bfloat16: it is the upper half of a float32.
    halves = np.frombuffer(tensor["data"], dtype="<u2").astype(np.uint32)
    matrix: Floats = (halves << 16).view(np.float32).reshape(tensor["shape"])
    return matrix
