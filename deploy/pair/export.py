"""A Hugging Face Llama folder, exported for onnxruntime-genai.

    python -m deploy.pair.export deploy/pair/models/small deploy/pair/models/large

Needs the `train` extra (torch, transformers, onnx). Writes `onnx/` inside each folder: the graph
and its weights in one file, genai's settings, and `reference.json`: what transformers makes of a
few tokens, so that the exported graph can be checked without torch. Float32 on purpose: at this
size it costs nothing, and the two forms then agree to about 1e-5.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deploy.pair.graph import GRAPH_FILES, GRAPH_FOLDER, Graph
from deploy.pair.sampling import Floats, scores

REFERENCE_FILE = "reference.json"

# Any ids will do: this is arithmetic, not language. Enough of them to leave the first cache lines.
_REFERENCE_TOKENS = [1, 4, *range(40, 72), 2, 5]
_REFERENCE_BEST = 8
# Above float32 noise for logits of about 20, far below what moves a token's rank.
TOLERANCE = 1e-3


def export(folder: Path) -> float:
    """Export one model folder; the largest difference of any logit from transformers' own."""
    target = folder / GRAPH_FOLDER
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        _build(folder, Path(scratch))
        _join(Path(scratch), target)
    wanted = transformers_logits(folder, _REFERENCE_TOKENS)
    _write_reference(target / REFERENCE_FILE, wanted)
    return float(np.abs(wanted - graph_logits(folder, _REFERENCE_TOKENS)).max())


def transformers_logits(folder: Path, tokens: Sequence[int]) -> Floats:
    """Logits [tokens, vocabulary] of the folder's weights in float32. Needs the `train` extra."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits: Floats = model(torch.tensor([list(tokens)])).logits[0].numpy()
    return logits


def graph_logits(folder: Path, tokens: Sequence[int]) -> Floats:
    """Logits [tokens, vocabulary] of the exported graph."""
    cache = Graph(folder).cache(len(tokens))
    cache.feed(list(tokens))
    return cache.all_logits()


def reference_error(folder: Path) -> float:
    """The largest difference of the exported graph from the shipped reference. Needs no torch."""
    file = folder / GRAPH_FOLDER / REFERENCE_FILE
    reference = json.loads(file.read_text(encoding="utf-8"))
    got = graph_logits(folder, reference["tokens"])
    errors = [
        abs(float(row[token]) - float(logit))
        for row, best in zip(got, reference["logits"], strict=True)
        for token, logit in best
    ]
    return max(errors)


def _build(folder: Path, scratch: Path) -> None:
    """genai's own model builder, as its documentation calls it."""
    options = ("-p", "fp32", "-e", "cpu", "-c", str(scratch / "cache"))
    hidden = ("--extra_options", "include_hidden_states=true")
    command = ("-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", str(scratch))
    subprocess.run([sys.executable, *command, *options, *hidden], check=True, capture_output=True)


def _join(scratch: Path, target: Path) -> None:
    """Graph and weights as one file; of the builder's other files only genai's settings."""
    import onnx

    graph, settings = GRAPH_FILES
    onnx.save(onnx.load(scratch / graph), target / graph)
    (target / settings).write_bytes((scratch / settings).read_bytes())


def _write_reference(file: Path, logits: Floats) -> None:
    rows = [scores(row, int(row.argmax()), _REFERENCE_BEST) for row in logits]
    reference = {"tokens": _REFERENCE_TOKENS, "logits": rows}
    file.write_text(json.dumps(reference) + "\n", encoding="utf-8")


def main() -> None:
    """Export the folders named; fails if an exported graph is not the same function."""
    parser = argparse.ArgumentParser(description="Export the pair's models for onnxruntime-genai.")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    for folder in parser.parse_args().folders:
        if not (folder / "model.safetensors").is_file():
            sys.exit(f"no model.safetensors in {folder}: train it, see deploy/pair/README.md")
        try:
            error = export(folder)
        except subprocess.CalledProcessError as failure:
            sys.exit(f"the model builder failed on {folder}:\n{failure.stderr.decode()}")
        print(f"{folder}: exported, largest logit difference from transformers {error:.1e}")
        if error > TOLERANCE:
            sys.exit(f"{folder}: that is more than {TOLERANCE}; the export is wrong")


if __name__ == "__main__":
    main()
