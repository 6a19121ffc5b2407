"""The input embedding of a model, read from its Hugging Face folder.

The gate looks up the row of the token that the small model is about to write. Servers do not hand
this matrix out, so it comes from the model's files; only the one tensor is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from policies.training.token_gate.arrays import Floats
from policies.training.token_gate.errors import TrainingError

_NAMES = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")
"""How the tensor's name ends in Llama and most others, in GPT-2, in Bloom."""


def load_embedding(folder: Path) -> Floats:
    """The matrix, [vocabulary, embedding], float32. Raises TrainingError."""
    from safetensors import safe_open

    for file, name in _tensors(folder):
        if name.endswith(_NAMES):
            with safe_open(file, framework="pt") as tensors:  # numpy has no bfloat16
                matrix: Floats = tensors.get_tensor(name).float().numpy()
                return np.ascontiguousarray(matrix)
    raise TrainingError(
        f"no input embedding ({' or '.join(_NAMES)}) in the safetensors files of {folder}: "
        "name the small model's Hugging Face folder with --small-files"
    )


def _tensors(folder: Path) -> Iterator[tuple[Path, str]]:
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        yield from ((folder / file, name) for name, file in named.items())
        return
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            yield from ((file, name) for name in tensors.keys())  # noqa: SIM118  # no dict
